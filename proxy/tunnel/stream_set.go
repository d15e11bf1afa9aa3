package tunnel

import (
	"maps"
	"net"
	"slices"
	"sync"
)

// A streamSet holds the unfinished streams of a Dialer and counts its dials in progress. The zero
// value is ready to use.
type streamSet struct {
	mu      sync.Mutex
	closed  bool
	streams map[*Conn]bool // true: the Dialer's user has it
	used    int            // how many it has
	pending sync.WaitGroup // one count per stream and per dial in progress
}

// start counts a dial until done is called. After close it returns net.ErrClosed.
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

// add creates a stream with newConn and holds it until the stream calls done. After close it calls
// abort instead and returns net.ErrClosed. It holds mu meanwhile, so that close misses no stream.
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
		s.streams = make(map[*Conn]bool)
	}
	s.streams[c] = false
	return c, nil
}

// hold says that the Dialer's user gets c, unless it is over already.
func (s *streamSet) hold(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.streams[c]; open {
		s.streams[c] = true
		s.used++
	}
}

// inUse returns how many streams the user has.
func (s *streamSet) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// forget removes a stream that is over.
func (s *streamSet) forget(c *Conn) {
	s.mu.Lock()
	if s.streams[c] {
		s.used--
	}
	delete(s.streams, c)
	s.mu.Unlock()
	s.pending.Done()
}

// open returns the unfinished streams.
func (s *streamSet) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.streams))
}

// close refuses further dials and streams, and returns the unfinished streams.
func (s *streamSet) close() []*Conn {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.open()
}

// wait blocks until all streams and dials are over.
func (s *streamSet) wait() { s.pending.Wait() }
