package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// state is what an agent remembers over a restart, so that a client which comes
// straight back to a broker's port finds it open. It is kept for each upstream
// and cluster; losing it loses nothing that a Metadata response does not bring
// back.
type state struct {
	Clusters []clusterState `json:"clusters"` // the one used last comes first
}

type clusterState struct {
	Upstream  string          `json:"upstream"`
	ClusterID string          `json:"cluster_id"`
	Nodes     []tunnel.Ticket `json:"nodes"` // without a MAC where there is no ticket
}

// maxClusterStates bounds the file: an agent that is pointed here and there.
const maxClusterStates = 8

// readState reads the file; one that does not exist is empty.
func readState(file string) (s state, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return state{}, fmt.Errorf("read state file %s: %w", file, err)
	}
	return s, nil
}

// of returns what is known of the cluster that upstream led to last.
func (s state) of(upstream string) (clusterState, bool) {
	for _, c := range s.Clusters {
		if c.Upstream == upstream {
			return c, true
		}
	}
	return clusterState{}, false
}

// with returns s with c as the one used last.
func (s state) with(c clusterState) state {
	clusters := []clusterState{c}
	for _, old := range s.Clusters {
		same := old.Upstream == c.Upstream && old.ClusterID == c.ClusterID
		if !same && len(clusters) < maxClusterStates {
			clusters = append(clusters, old)
		}
	}
	return state{clusters}
}

// write replaces the file. Only its owner may read it: tickets let their bearer
// reach brokers, if the gateway's token is known as well.
func (s state) write(file string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	return os.Rename(tmp.Name(), file)
}
