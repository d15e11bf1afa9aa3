package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/culvert-proxy/culvert/proxy/credentials"
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

const (
	// maxClusterStates bounds the file: an agent that is pointed here and there.
	maxClusterStates = 8
	// maxState bounds the bytes of the file. A cluster of maxNodes takes 4 % of it,
	// and a third if all that is in it is as long as can be.
	maxState = 8 << 20
)

// readState reads the file; one that does not exist is empty.
func readState(file string) (s state, err error) {
	b, err := credentials.ReadFile(file, maxState)
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

// encode returns the content of a file with as many clusters as fit.
func (s state) encode() ([]byte, error) {
	for {
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil || len(b) < maxState || len(s.Clusters) <= 1 {
			return append(b, '\n'), err
		}
		s.Clusters = s.Clusters[:len(s.Clusters)-1]
	}
}

// write replaces the file, or what it is a link to. Only its owner may read it:
// tickets let their bearer reach brokers, if the gateway's token is known as well.
func (s state) write(file string) error {
	if err := s.replace(file); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	return nil
}

func (s state) replace(file string) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if to, err := filepath.EvalSymlinks(file); err == nil {
		file = to
	}
	if info, err := os.Lstat(file); err == nil { // a rename would put a file in the place of a device
		if err := credentials.CheckRegular(file, info); err != nil {
			return err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
