package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/backoff"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// clients are the listeners of an agent, and the connections that it accepted on
// them. Set the first fields before use.
type clients struct {
	serve   func(ctx context.Context, nc net.Conn, listen int, node int32) // one connection, until it is over
	most    int                                                            // how many connections there may be; 0 is no limit
	metrics *metrics.Metrics
	log     *slog.Logger
	limiter *logLimiter
	names   hints.Names

	listening sync.WaitGroup // accept loops
	serving   sync.WaitGroup // connections
	count     atomic.Int64   // of connections

	mu        sync.Mutex
	draining  bool
	listeners []net.Listener
	conns     map[*agentConn]struct{}
}

// maxAcceptDelay bounds the wait after a failed accept: without file
// descriptors a listener tries again until some are free.
const maxAcceptDelay = time.Second

// listen serves a listener until drain closes it.
func (c *clients) listen(ctx context.Context, ln net.Listener, listen int, node int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining { // a response has named a node in the last moment
		ln.Close()
		return
	}
	c.listeners = append(c.listeners, ln)
	c.listening.Go(func() { c.accept(ctx, ln, listen, node) })
}

func (c *clients) accept(ctx context.Context, ln net.Listener, listen int, node int32) {
	failures := 0
	for {
		nc, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			c.limiter.warn(c.log, "accept failed, trying again", "", "listener", ln.Addr(), "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff.Delay(failures, 5*time.Millisecond, maxAcceptDelay)):
				failures++
			}
		case node == deadEndNode:
			nc.Close()
		case !c.hasRoom():
			c.turnAway(nc)
		default:
			failures = 0
			c.serving.Go(func() {
				defer c.count.Add(-1)
				c.serve(ctx, nc, listen, node)
			})
		}
	}
}

// hasRoom counts one more client, unless that is one too many.
func (c *clients) hasRoom() bool {
	if n := c.count.Add(1); c.most == 0 || n <= int64(c.most) {
		return true
	}
	c.count.Add(-1)
	return false
}

// turnAway resets a client at once, so that it does not wait and can try again.
func (c *clients) turnAway(nc net.Conn) {
	c.metrics.Limited(metrics.LimitConnections)
	c.limiter.warn(c.log, c.names.Sprintf("connection refused: too many are open; %s allows more", hints.MaxConnections), "",
		"client_addr", nc.RemoteAddr(), "limit", c.most)
	reset(nc, nil)
}

// drain ends them: no new clients, the answers in flight, and after timeout
// nothing. stop ends what is being done for connections that are left then.
func (c *clients) drain(timeout time.Duration, stop context.CancelFunc) {
	c.closeListeners()
	c.each((*agentConn).drain)
	over := make(chan struct{})
	go func() {
		c.serving.Wait()
		close(over)
	}()
	if !within(timeout, over) {
		c.log.Warn("connections reset, they did not end in time", "timeout", timeout)
		stop()
		c.each(func(conn *agentConn) { conn.kill(errDraining) })
		<-over
	}
}

func (c *clients) closeListeners() {
	c.mu.Lock()
	c.draining = true
	for _, ln := range c.listeners {
		ln.Close()
	}
	c.mu.Unlock()
	c.listening.Wait()
}

func (c *clients) add(conn *agentConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = map[*agentConn]struct{}{}
	}
	c.conns[conn] = struct{}{}
	if c.draining {
		conn.drain()
	}
}

func (c *clients) remove(conn *agentConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

// each calls f for each open connection, without the lock.
func (c *clients) each(f func(*agentConn)) {
	c.mu.Lock()
	conns := make([]*agentConn, 0, len(c.conns))
	for conn := range c.conns {
		conns = append(conns, conn)
	}
	c.mu.Unlock()
	for _, conn := range conns {
		f(conn)
	}
}

func (c *clients) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}
