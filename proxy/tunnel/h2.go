package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxShared is how many streams share an HTTP/2 connection before there are maxOwn of them. What TCP loses holds up all of its streams, and
// a connection of its own for each would be a TLS handshake for each.
const maxShared = 8

// h2Config is for both ends.
func h2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReceiveBufferPerStream:     maxStreamWindow,
		MaxReceiveBufferPerConnection: connectionWindow,
		MaxReadFrameSize:              16 << 10, // the other end of Go's holds a buffer of this size for each of its streams
		SendPingTimeout:               15 * time.Second,
		PingTimeout:                   10 * time.Second,
		WriteByteTimeout:              20 * time.Second,
	}
}

// errNoH2 is what a TLS handshake without ALPN h2 ends with.
var errNoH2 = errors.New("what answered does not speak HTTP/2")

// An h2Conn is an HTTP/2 connection to the gateway, or one that is being dialled.
type h2Conn struct {
	giveUp context.CancelFunc // ends the dial

	ready chan struct{} // closed when these are set
	conn  net.Conn
	http  *http.ClientConn
	err   error

	// Guarded by h2Conns.mu.
	streams int
	left    bool // takes no new streams
}

// h2Conns are the HTTP/2 connections of a Dialer. Idle ones close by themselves.
type h2Conns struct {
	own int // as maxOwn, which 0 means

	mu    sync.Mutex
	list  []*h2Conn
	tasks sync.WaitGroup
}

// dialH2 opens a POST. It returns when the request is on its way; the answer is awaited in the background.
func (d *Dialer) dialH2(ctx context.Context) (exchange, error) {
	header, err := d.header()
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", postType)
	for tries := 1; ; tries++ {
		c, err := d.h2.take(ctx, d)
		if err != nil {
			return nil, err
		}
		x, err := d.post(ctx, c, header)
		if err == nil || tries == maxStale || ctx.Err() != nil {
			return x, err
		}
	}
}

// maxStale is how many connections may turn out to be at their end in the moment when they were chosen.
const maxStale = 3

// post sends a request over a connection, on which the stream is counted already. It fails only before the request has left.
func (d *Dialer) post(ctx context.Context, c *h2Conn, header http.Header) (exchange, error) {
	x := newPost(TransportH2, c.conn.LocalAddr(), c.conn.RemoteAddr())
	lasting, cancel := context.WithCancel(context.Background())
	x.hangUp = func(bool) { cancel() }
	left := make(chan struct{})
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           d.target(),
		Header:        header,
		Body:          postBody{x.out},
		ContentLength: -1,
	}).WithContext(httptrace.WithClientTrace(lasting, &httptrace.ClientTrace{WroteHeaders: func() { close(left) }}))
	failed := make(chan error, 1)
	d.h2.tasks.Go(func() {
		defer d.h2.free(c)
		failed <- x.send(c.http, req, func(err error) error {
			if e, ok := errors.AsType[*AnswerError](err); ok && e.Temporary() {
				d.h2.leave(c)
			}
			return d.wrapAnswer(TransportH2, err)
		})
	})
	select {
	case <-left:
		return x, nil
	case <-ctx.Done():
		x.Abort()
		return nil, context.Cause(ctx)
	case err := <-failed:
		select {
		case <-left: // and was answered at once
			return x, nil
		default:
			x.Abort()
			return nil, err
		}
	}
}

// wrapAnswer says of an answer that opens no tunnel where it came from.
func (d *Dialer) wrapAnswer(transport string, err error) error {
	if e, ok := errors.AsType[*AnswerError](err); ok {
		e.URL = d.target().String()
	}
	return explain(fmt.Errorf("dial gateway %s over %s: %w", d.addr(), transport, err))
}

// take returns a connection with room for a stream, and counts that stream: the least loaded one unless it has maxShared streams, a new one
// until there are maxOwn, the least loaded one again, or a new one when all are full.
func (p *h2Conns) take(ctx context.Context, d *Dialer) (*h2Conn, error) {
	c := p.choose(d)
	select {
	case <-c.ready:
	case <-ctx.Done():
		p.free(c)
		return nil, context.Cause(ctx)
	}
	if c.err == nil {
		return c, nil
	}
	p.free(c)
	if other := p.useLeastLoaded(); other != nil {
		return other, nil
	}
	return nil, c.err
}

func (p *h2Conns) choose(d *Dialer) *h2Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.leastLoaded()
	if c == nil || c.streams >= maxShared && len(p.list) < cmp.Or(p.own, maxOwn) {
		c = d.connectH2(&p.tasks)
		p.list = append(p.list, c)
	}
	c.streams++
	return c
}

// useLeastLoaded returns nil when no connection stands that has room.
func (p *h2Conns) useLeastLoaded() *h2Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.leastLoaded()
	if c == nil || !c.isReady() {
		return nil
	}
	c.streams++
	return c
}

// leastLoaded forgets the dead, and returns nil when there is no room. The caller holds mu.
func (p *h2Conns) leastLoaded() *h2Conn {
	p.list = slices.DeleteFunc(p.list, (*h2Conn).isDead)
	var best *h2Conn
	for _, c := range p.list {
		if !c.left && c.streams < c.room() && (best == nil || c.streams < best.streams) {
			best = c
		}
	}
	return best
}

func (c *h2Conn) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

func (c *h2Conn) isDead() bool { return c.isReady() && (c.err != nil || c.http.Err() != nil) }

// room is how many streams the connection may carry at once: fewer than ours if the peer says so, and none after a GOAWAY.
func (c *h2Conn) room() int {
	if !c.isReady() {
		return maxShared
	}
	free := c.http.Available()
	if free == 0 {
		return 0
	}
	return min(maxStreams, free+c.http.InFlight())
}

// leave puts no more streams on a connection over which a request was refused for now: another may lead to a gateway that takes it.
func (p *h2Conns) leave(c *h2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.left = true
}

func (p *h2Conns) free(c *h2Conn) {
	p.mu.Lock()
	c.streams--
	done := c.left && c.streams == 0
	p.mu.Unlock()
	if done {
		c.http.Close()
	}
}

func (p *h2Conns) close() {
	p.mu.Lock()
	list := p.list
	p.list = nil
	p.mu.Unlock()
	for _, c := range list {
		c.giveUp()
		if <-c.ready; c.err == nil {
			c.http.Close()
		}
	}
	p.tasks.Wait()
}

// connectH2 dials a connection in the background, for whoever waits for it: that the first of them gives up is no reason to.
func (d *Dialer) connectH2(tasks *sync.WaitGroup) *h2Conn {
	ctx, cancel := context.WithTimeout(context.Background(), d.t.handshake)
	c := &h2Conn{giveUp: cancel, ready: make(chan struct{})}
	tasks.Go(func() {
		defer close(c.ready)
		defer cancel()
		c.conn, c.http, c.err = d.dialH2Conn(ctx)
	})
	return c
}

func (d *Dialer) dialH2Conn(ctx context.Context) (net.Conn, *http.ClientConn, error) {
	tcp, err := d.dialTCP(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn, err := d.secureH2(ctx, tcp)
	if err != nil {
		tcp.Close()
		return nil, nil, err
	}
	c, err := d.startH2(ctx, conn)
	if err != nil {
		tcp.Close()
		return nil, nil, err
	}
	return conn, c, nil
}

// secureH2 is TLS on tcp, unless the URL wants none.
func (d *Dialer) secureH2(ctx context.Context, tcp net.Conn) (net.Conn, error) {
	if d.URL.Scheme == "http" {
		return tcp, nil
	}
	cfg := d.tls.Clone()
	cfg.NextProtos = []string{"h2"}
	t := tls.Client(tcp, cfg)
	switch err := t.HandshakeContext(ctx); {
	case err != nil && strings.HasSuffix(err.Error(), "no application protocol"):
		return nil, errNoH2
	case err != nil:
		return nil, fmt.Errorf("TLS handshake: %w", err)
	case t.ConnectionState().NegotiatedProtocol != "h2":
		return nil, errNoH2
	}
	return t, nil
}

// startH2 makes conn an HTTP/2 connection. A Transport of its own for each lets conn be dialled by us.
func (d *Dialer) startH2(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	dialled := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	t := &http.Transport{
		DialContext:            dialled,
		DialTLSContext:         dialled,
		Protocols:              new(http.Protocols),
		HTTP2:                  h2Config(),
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        d.t.idle,
	}
	t.Protocols.SetHTTP2(d.URL.Scheme != "http")
	t.Protocols.SetUnencryptedHTTP2(d.URL.Scheme == "http")
	return t.NewClientConn(ctx, d.URL.Scheme, d.addr())
}

// dialTCP connects to the gateway.
func (d *Dialer) dialTCP(ctx context.Context) (net.Conn, error) {
	dial := d.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return dial(ctx, "tcp", d.addr())
}
