package proxy

import (
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// nodeStates remembers whether the last connection to each node succeeded, for the status document.
// It holds up to maxNodes of them. The zero value is ready. It may be used concurrently.
type nodeStates struct {
	mu sync.Mutex
	of map[string]nodeState
}

// nodeState is how the last connection to a node ended.
type nodeState struct {
	since time.Time // of the first one in a row that ended so
	err   string    // why it failed; "" if it did not
}

// note records how a connection to a node ended: with err, or nil if the node answered.
func (s *nodeStates) note(node string, err error) {
	why := ""
	if err != nil {
		why = printable.Text(err.Error(), printable.Sentence)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.of[node]
	if known && (last.err == "") == (why == "") {
		s.of[node] = nodeState{last.since, why}
		return
	}
	if s.of == nil {
		s.of = map[string]nodeState{}
	}
	if !known && len(s.of) >= maxNodes {
		s.forgetOldest()
	}
	s.of[node] = nodeState{time.Now(), why}
}

// forgetOldest makes room for another node. The caller holds mu.
func (s *nodeStates) forgetOldest() {
	oldest, since := "", time.Time{}
	for node, state := range s.of {
		if since.IsZero() || state.since.Before(since) {
			oldest, since = node, state.since
		}
	}
	delete(s.of, oldest)
}

// forget forgets all nodes.
func (s *nodeStates) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.of)
}

// show sets the state of a node in the status document.
func (s *nodeStates) show(node string, n *document.Node) {
	n.State, n.Since, n.Error = s.get(node)
}

// get returns the state of a node as the status document has it.
func (s *nodeStates) get(node string) (state string, since time.Time, err string) {
	s.mu.Lock()
	last, known := s.of[node]
	s.mu.Unlock()
	switch {
	case !known:
		return document.NodeUnknown, time.Time{}, ""
	case last.err == "":
		return document.NodeReached, last.since.UTC(), ""
	}
	return document.NodeUnreachable, last.since.UTC(), last.err
}
