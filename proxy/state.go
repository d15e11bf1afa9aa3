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

// state is what an agent keeps over a restart: the nodes of each upstream and cluster. With it, a
// client that reconnects to a broker's port at once finds the port open. It is a cache: a Metadata
// response brings everything back.
type state struct {
	Clusters []clusterState `json:"clusters"` // the most recently used first
}

type clusterState struct {
	Upstream  string          `json:"upstream"`
	ClusterID string          `json:"cluster_id"`
	Nodes     []tunnel.Ticket `json:"nodes"` // a node without a ticket has an empty MAC
}

const (
	// maxClusterStates bounds the clusters in the file. A laptop may use a few gateways in turn.
	maxClusterStates = 8
	// maxState bounds the bytes of the file. A cluster of maxNodes takes 4 % of it, or a third if
	// every name has its greatest length.
	maxState = 8 << 20
)

// readState reads the file. A file that does not exist is an empty state.
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

// of returns the cluster that upstream led to last.
func (s state) of(upstream string) (clusterState, bool) {
	for _, c := range s.Clusters {
		if c.Upstream == upstream {
			return c, true
		}
	}
	return clusterState{}, false
}

// with returns s with c as the most recently used cluster.
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

// encode returns the content of the file. It drops the clusters used least recently until the file
// is smaller than maxState.
func (s state) encode() ([]byte, error) {
	for {
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil || len(b) < maxState || len(s.Clusters) <= 1 {
			return append(b, '\n'), err
		}
		s.Clusters = s.Clusters[:len(s.Clusters)-1]
	}
}

// write replaces the file, or the file that it links to, in one step. Only its owner can read it,
// because tickets are part of what is needed to reach brokers; the other part is the gateway's
// token.
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
	if info, err := os.Lstat(file); err == nil { // a rename would replace a device, such as /dev/null
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
