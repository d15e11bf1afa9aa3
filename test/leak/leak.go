// Package leak relays TCP between a client and culvert's agent. It searches everything that goes to
// the client for names that must not get there: the hosts that the brokers advertise.
//
// The client must dial the relay without being configured for it. So the agent listens on one
// loopback address and writes another into its responses (--listen 127.0.0.2:9092=127.0.0.1). The
// relay listens on that other address, at the same ports.
package leak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
)

// dialTimeout is how long a relay waits for the agent.
const dialTimeout = 5 * time.Second

// Leak is a name that went to a client.
type Leak struct {
	Name     string
	Listener string // the address that the client had dialled
	Offset   int64  // of the name's first byte in what the client was sent
	Before   []byte // some of the bytes before the name, as context
}

func (l Leak) String() string {
	return fmt.Sprintf("%q was sent to a client of %s at byte %d, behind %q", l.Name, l.Listener, l.Offset, l.Before)
}

// Relay is a set of listeners and the leaks that they have found.
type Relay struct {
	// From is where clients are, and To where the agent is; nil is the test's own network.
	From, To *netns.Namespace

	names []string
	group sync.WaitGroup
	sent  atomic.Int64

	mu        sync.Mutex
	leaks     []Leak
	listeners []net.Listener
	conns     map[net.Conn]bool
	closed    bool
}

// New returns a relay without listeners that searches for names.
func New(names ...string) *Relay {
	return &Relay{names: names, conns: make(map[net.Conn]bool)}
}

// Listen relays what is dialled at address to target, until Close.
func (r *Relay) Listen(address, target string) error {
	l, err := r.From.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("leak detector: %w", err)
	}
	r.mu.Lock()
	r.listeners = append(r.listeners, l)
	r.mu.Unlock()
	r.group.Go(func() { r.accept(l, target) })
	return nil
}

// Close ends all listeners and connections and waits for their goroutines.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	for _, l := range r.listeners {
		l.Close()
	}
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.group.Wait()
}

// Sent returns how many bytes went to clients. A test with zero bytes has proved nothing.
func (r *Relay) Sent() int64 { return r.sent.Load() }

// Take returns the leaks since the last Take. A test that expects one, such as a broker's
// configuration that names its listeners, removes it that way.
func (r *Relay) Take() []Leak {
	r.mu.Lock()
	defer r.mu.Unlock()
	leaks := r.leaks
	r.leaks = nil
	return leaks
}

// Check fails the test if anything has leaked since the last Take.
func (r *Relay) Check(t testing.TB) {
	t.Helper()
	for _, l := range r.Take() {
		t.Errorf("leak: %s", l)
	}
}

func (r *Relay) accept(l net.Listener, target string) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		r.group.Go(func() { r.relay(client.(*net.TCPConn), target) })
	}
}

// relay carries one connection. It passes on an orderly end in either direction as such, and a
// reset as a reset.
func (r *Relay) relay(client *net.TCPConn, target string) {
	defer r.forget(client)
	if !r.remember(client) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	dialled, err := r.To.Dial(ctx, "tcp", target)
	if err != nil {
		reset(client)
		return
	}
	agent := dialled.(*net.TCPConn)
	defer r.forget(agent)
	if !r.remember(agent) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(agent, client, client) })
	both.Go(func() { pass(client, agent, io.TeeReader(agent, r.scanner(client.LocalAddr().String()))) })
	both.Wait()
}

// pass copies from one side to the other.
func pass(to, from *net.TCPConn, source io.Reader) {
	_, err := io.Copy(onlyWriter{to}, source)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		reset(to)
		reset(from)
	}
}

// onlyWriter hides ReadFrom: with splice the bytes would stay in the kernel, unscanned.
type onlyWriter struct{ io.Writer }

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (r *Relay) remember(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.conns[c] = true
	}
	return !r.closed
}

func (r *Relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	c.Close()
}

func (r *Relay) scanner(listener string) *scanner {
	s := &scanner{relay: r, listener: listener}
	for _, name := range r.names {
		s.keep = max(s.keep, len(name)-1)
	}
	s.keep += contextLen
	return s
}
