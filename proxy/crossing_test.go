package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// crossing is a TCP relay that a test can point elsewhere, stop and cut. It takes its targets in
// turn.
type crossing struct {
	ln       net.Listener
	accepted atomic.Int32

	mu      sync.Mutex
	targets []string
	next    int
	conns   map[*net.TCPConn]struct{}
}

func newCrossing(t *testing.T, targets ...string) *crossing {
	t.Helper()
	return newCrossingOn(t, listenLoopback(t), targets...)
}

func newCrossingOn(t *testing.T, ln net.Listener, targets ...string) *crossing {
	x := &crossing{ln: ln, targets: targets, conns: map[*net.TCPConn]struct{}{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			x.accepted.Add(1)
			all.Go(func() { x.serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { ln.Close(); x.cut(); all.Wait() })
	return x
}

func (x *crossing) address() string { return x.ln.Addr().String() }

// lead points new connections elsewhere.
func (x *crossing) lead(targets ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.targets = targets
}

// cut resets all connections.
func (x *crossing) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.conns {
		c.SetLinger(0)
		c.Close()
	}
}

func (x *crossing) add(c *net.TCPConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns[c] = struct{}{}
}

func (x *crossing) remove(c *net.TCPConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.conns, c)
	c.Close()
}

func (x *crossing) target() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.next++
	return x.targets[x.next%len(x.targets)]
}

func (x *crossing) serve(near *net.TCPConn) {
	x.add(near)
	defer x.remove(near)
	c, err := net.Dial("tcp", x.target())
	if err != nil {
		near.SetLinger(0)
		return
	}
	far := c.(*net.TCPConn)
	x.add(far)
	defer x.remove(far)
	var both sync.WaitGroup
	both.Go(func() { cross(far, near) })
	both.Go(func() { cross(near, far) })
	both.Wait()
}

// cross copies until src ends. A FIN is passed on as one, a reset as one.
func cross(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.SetLinger(0)
		dst.Close()
		src.Close()
		return
	}
	dst.CloseWrite()
}

// silent starts a listener and returns its address. The test fails if anything connects.
func silent(t *testing.T, address string) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return keepSilent(t, ln)
}

func keepSilent(t *testing.T, ln net.Listener) net.Addr {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Errorf("%s was dialled", ln.Addr())
			c.Close()
		}
	}()
	t.Cleanup(func() {
		time.Sleep(20 * time.Millisecond) // for who is under way
		ln.Close()
		<-over
	})
	return ln.Addr()
}

// closesAtOnce reports whether somebody accepts at address and closes before the client has said
// anything.
func closesAtOnce(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err != nil && !tunnel.IsTimeout(err)
}
