package standin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	headerTimeout = 10 * time.Second
	maxHeader     = 64 << 10
)

// Serve serves HTTPS and probes the instances until ctx is done. Then it ends every connection, and
// returns when all is over. It closes ln.
func (in *Ingress) Serve(ctx context.Context, ln net.Listener) error {
	in.once.Do(in.init)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler: in, ErrorLog: slog.NewLogLogger(in.log().Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeader, TLSConfig: in.tls(),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() { defer close(closed); server.Close() })
	probes := in.probe(ctx)

	err := server.Serve(in.listener(ln, server.TLSConfig))
	cancel()
	<-closed
	probes.Wait()
	in.requests.Wait()
	in.transport.CloseIdleConnections()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// tls is for connections from clients.
func (in *Ingress) tls() *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{in.Certificate}, NextProtos: []string{"http/1.1"}}
	if in.HTTP2 {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	return config
}

// probe starts a probe of each instance that has one, until ctx is done.
func (in *Ingress) probe(ctx context.Context) *sync.WaitGroup {
	var all sync.WaitGroup
	every := cmp.Or(in.ProbeEvery, DefaultProbeEvery)
	client := &http.Client{Transport: in.transport}
	for _, s := range in.Services {
		for _, i := range s.Instances {
			if i.Ready != "" {
				all.Go(func() { s.probe(ctx, client, i, every) })
			}
		}
	}
	return &all
}

// listener adds to the connections of ln that timers cut them, TLS, and that they refuse what is
// not HTTP. The last is left out with HTTP/2: package net/http looks for it only in a *tls.Conn.
func (in *Ingress) listener(ln net.Listener, config *tls.Config) net.Listener {
	secure := tls.NewListener(cuttingListener{ln, in}, config)
	if in.HTTP2 {
		return secure
	}
	return httpListener{secure}
}

// cuttingListener has its connections cut when they are idle or too old.
type cuttingListener struct {
	net.Listener
	in *Ingress
}

func (l cuttingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	idle := cmp.Or(l.in.IdleCut, DefaultIdleCut)
	cut := &cutConn{Conn: c, idle: idle}
	cut.idleTimer = time.AfterFunc(idle, func() { cut.cut(l.in, func(s *Stats) { s.IdleCuts++ }) })
	if l.in.Lifetime > 0 {
		cut.lifeTimer = time.AfterFunc(l.in.Lifetime, func() { cut.cut(l.in, func(s *Stats) { s.LifeCuts++ }) })
	}
	return cut, nil
}

// cutConn is closed by its timers.
type cutConn struct {
	net.Conn
	idle      time.Duration
	idleTimer *time.Timer
	lifeTimer *time.Timer // or nil
	once      sync.Once
}

// cut closes the connection and counts that, once.
func (c *cutConn) cut(in *Ingress, count func(*Stats)) {
	c.once.Do(func() {
		in.count(count)
		c.Conn.Close()
	})
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved(n)
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved(n)
	return n, err
}

// moved puts off the idle timer after n bytes.
func (c *cutConn) moved(n int) {
	if n > 0 {
		c.idleTimer.Reset(c.idle)
	}
}

func (c *cutConn) Close() error {
	c.once.Do(func() {}) // a timer that is set again meanwhile counts nothing
	c.idleTimer.Stop()
	if c.lifeTimer != nil {
		c.lifeTimer.Stop()
	}
	return c.Conn.Close()
}

// httpListener has its connections refuse at once what is not HTTP, as nginx and Envoy do. Package
// net/http would wait for the end of a line.
type httpListener struct{ net.Listener }

func (l httpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &httpConn{Conn: c}, nil
}

type httpConn struct {
	net.Conn
	isHTTP bool // owned by the reader
}

// CloseWrite says that nothing more will come, in TLS.
func (c *httpConn) CloseWrite() error { return c.Conn.(*tls.Conn).CloseWrite() }

func (c *httpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.isHTTP || n == 0 {
		return n, err
	}
	if c.isHTTP = 'A' <= p[0] && p[0] <= 'Z'; c.isHTTP { // as every method begins
		return n, err
	}
	c.Conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	return 0, io.EOF
}
