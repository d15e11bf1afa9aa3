package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

// clients accepts an agent's clients. It owns the listeners, a goroutine for each of them, and a
// goroutine for each connection. drain ends them all. Set the fields up to names before use.
type clients struct {
	limit   int // how many connections there may be; 0 is no limit
	metrics *metrics.Metrics
	log     *slog.Logger
	limiter *logLimiter
	names   hints.Names

	failing   backoff.Episode // of accepts, on any listener
	listening sync.WaitGroup  // accept loops
	serving   sync.WaitGroup  // connections
	count     atomic.Int64    // of connections

	mu        sync.Mutex
	draining  time.Time // since when; zero if not
	listeners []net.Listener
	conns     map[clientConn]struct{}
}

// clientConn is a client's connection: an [agentConn], or one of a forward. Both methods may be
// called from any goroutine.
type clientConn interface {
	drain()
	kill(cause metrics.Close, why error)
}

// serveFunc serves one connection until it is over.
type serveFunc func(ctx context.Context, nc net.Conn)

// maxAcceptDelay bounds the wait after a failed accept. Accepting fails when the process has no
// file descriptors left, and works again when a connection ends.
const maxAcceptDelay = time.Second

// acceptQuiet is how long no accept has failed when the failures are over. Without free descriptors,
// each connection that ends lets one accept succeed.
const acceptQuiet = 10 * time.Second

// listen accepts clients on ln in a new goroutine. clients owns ln from now on. If serve is nil, it
// closes each connection at once.
func (c *clients) listen(ctx context.Context, ln net.Listener, serve serveFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining.IsZero() { // a response has named a new node during the drain
		ln.Close()
		return
	}
	c.listeners = append(c.listeners, ln)
	c.listening.Go(func() { c.accept(ctx, ln, serve) })
}

// accept serves ln until it is closed. A failed accept never ends it.
func (c *clients) accept(ctx context.Context, ln net.Listener, serve serveFunc) {
	failures := 0
	for {
		nc, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if c.failing.Failed() {
				c.log.Warn("accept failed, trying again", "listener", ln.Addr(), "err", remedies.ExplainAccept(err))
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff.Delay(failures, 5*time.Millisecond, maxAcceptDelay)):
				failures++
			}
			continue
		}
		failures = 0
		if lasted, ends := c.failing.Worked(); ends {
			c.log.Info("connections are accepted again", "after", lasted.Round(time.Second))
		}
		switch {
		case serve == nil:
			nc.Close()
		case !c.hasRoom():
			c.refuse(nc)
		default:
			c.serving.Go(func() {
				defer c.count.Add(-1)
				serve(ctx, nc)
			})
		}
	}
}

// hasRoom counts one more connection and returns true, unless the limit is reached.
func (c *clients) hasRoom() bool {
	if n := c.count.Add(1); c.limit == 0 || n <= int64(c.limit) {
		return true
	}
	c.count.Add(-1)
	return false
}

// refuse resets a client's connection, so that the client notices at once and can try again.
func (c *clients) refuse(nc net.Conn) {
	c.metrics.Limited(metrics.LimitConnections)
	c.limiter.warn(c.log, c.names.Sprintf("connection refused: too many are open; %s raises the limit", hints.MaxConnections), "",
		"client_addr", nc.RemoteAddr(), "limit", c.limit)
	reset(nc, nil)
}

// drain stops accepting clients and waits until the connections have relayed the responses in
// flight and ended. After timeout it calls stop, which cancels their context, and resets them. It
// returns when all goroutines have ended, with how many connections there were and how many of them
// it reset.
func (c *clients) drain(timeout time.Duration, stop context.CancelFunc) (all, cut int) {
	c.closeListeners()
	all = int(c.count.Load())
	for _, conn := range c.all() {
		conn.drain()
	}
	over := make(chan struct{})
	go func() {
		c.serving.Wait()
		close(over)
	}()
	if !within(timeout, over) {
		cut = int(c.count.Load())
		stop()
		for _, conn := range c.all() {
			conn.kill(metrics.CloseDrain, errDraining)
		}
		<-over
	}
	return all, cut
}

// closeListeners closes the listeners, and waits for their goroutines.
func (c *clients) closeListeners() {
	c.mu.Lock()
	if c.draining.IsZero() {
		c.draining = time.Now()
	}
	for _, ln := range c.listeners {
		ln.Close()
	}
	c.mu.Unlock()
	c.listening.Wait()
}

func (c *clients) add(conn clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = map[clientConn]struct{}{}
	}
	c.conns[conn] = struct{}{}
	if !c.draining.IsZero() {
		conn.drain()
	}
}

func (c *clients) remove(conn clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

// all returns the open connections.
func (c *clients) all() []clientConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.conns))
}

// each calls f for each open connection to a broker. It does not hold the lock meanwhile: f may
// block, or remove connections.
func (c *clients) each(f func(*agentConn)) {
	for _, conn := range c.all() {
		if broker, ok := conn.(*agentConn); ok {
			f(broker)
		}
	}
}

// drainingSince returns when the drain began, or the zero time.
func (c *clients) drainingSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// byListen returns how many connections clients of each bootstrap address have, to its own port and
// to those of its nodes.
func (c *clients) byListen() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[int]int{}
	for conn := range c.conns {
		if broker, ok := conn.(*agentConn); ok {
			n[broker.listen]++
		}
	}
	return n
}
