package tunnel

import (
	"maps"
	"net"
	"slices"
	"sync"
)

// A streamSet knows the streams of a Dialer that are not over, and how many dials are in progress. The zero value is ready.
type streamSet struct {
	mu      sync.Mutex
	closed  bool
	streams map[*Conn]struct{}
	pending sync.WaitGroup // a count for each of streams, and for each dial in progress
}

// start counts a dial, until done is called. It fails after close.
func (s *streamSet) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.pending.Add(1)
	return nil
}

func (s *streamSet) done() { s.pending.Done() }

// add makes a stream and knows it until it calls done. After close it calls abort instead.
func (s *streamSet) add(newConn func(done func(*Conn)) *Conn, abort func()) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		abort()
		return nil, net.ErrClosed
	}
	s.pending.Add(1)
	c := newConn(s.forget)
	if s.streams == nil {
		s.streams = make(map[*Conn]struct{})
	}
	s.streams[c] = struct{}{}
	return c, nil
}

func (s *streamSet) forget(c *Conn) {
	s.mu.Lock()
	delete(s.streams, c)
	s.mu.Unlock()
	s.pending.Done()
}

// open are the streams that are not over.
func (s *streamSet) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.streams))
}

// close lets no dial and no stream begin any more, and returns the streams that are not over.
func (s *streamSet) close() []*Conn {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.open()
}

// wait waits until all streams and dials are over.
func (s *streamSet) wait() { s.pending.Wait() }
