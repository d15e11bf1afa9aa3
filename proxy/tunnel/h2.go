package tunnel

import (
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

// maxShared is how many streams share an HTTP/2 connection before there are Dialer.Carriers of them. What TCP loses holds up all of its streams, and
// a connection of its own for each would be a TLS handshake for each.
const maxShared = 8

// h2Config is for the end that receives frames of at most maxFrame bytes.
func h2Config(w windows, maxFrame int) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          w.streams,
		MaxReceiveBufferPerStream:     w.stream,
		MaxReceiveBufferPerConnection: w.connection, // beyond what the field's comment permits; a test sees it obeyed
		MaxReadFrameSize:              maxFrame,
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

	// Guarded by h2Pool.mu.
	streams int
	left    bool // takes no new streams
}

// h2Pool are the HTTP/2 connections of a Dialer. Idle ones close by themselves.
type h2Pool struct {
	d *Dialer

	mu    sync.Mutex
	list  []*h2Conn
	tasks sync.WaitGroup
}

// take opens a POST. It returns when the request is on its way; the answer is awaited in the background.
func (p *h2Pool) take(ctx context.Context, open []byte, fresh bool) (s *Conn, ready bool, err error) {
	header, err := p.d.header(ctx)
	if err != nil {
		return nil, false, err
	}
	header.Set("Content-Type", postType)
	for tries := 1; ; tries++ {
		c, ready, err := p.conn(ctx, fresh)
		if err != nil {
			return nil, ready, err
		}
		x, err := p.post(ctx, c, header)
		if err == nil {
			s, err = p.d.newStream(x, open)
			return s, ready, err
		}
		if tries == maxStale || ctx.Err() != nil {
			return nil, ready, err
		}
	}
}

// fill sees to it that n streams find connections that few share.
func (p *h2Pool) fill(ctx context.Context, n int) error {
	for range n {
		p.mu.Lock()
		enough := p.easy() >= n || p.usable() >= p.d.carriers()
		p.mu.Unlock()
		if enough {
			return nil
		}
		if err := p.d.introduce(ctx, TransportH2); err != nil {
			return err
		}
	}
	return nil
}

// usable is how many connections take streams. The caller holds mu.
func (p *h2Pool) usable() (n int) {
	for _, c := range p.list {
		if !c.left {
			n++
		}
	}
	return n
}

// easy is how many streams find connections that fewer than maxShared share. The caller holds mu.
func (p *h2Pool) easy() (n int) {
	p.list = slices.DeleteFunc(p.list, (*h2Conn).isDead)
	for _, c := range p.list {
		if !c.left {
			n += max(0, min(maxShared, c.room())-c.streams)
		}
	}
	return n
}

func (p *h2Pool) drop() {
	p.mu.Lock()
	list := slices.Clone(p.list)
	p.mu.Unlock()
	for _, c := range list {
		p.leave(c)
	}
}

// maxStale is how many connections may turn out to be at their end in the moment when they were chosen.
const maxStale = 3

// post sends a request over a connection, on which the stream is counted already. It fails only before the request has left.
func (p *h2Pool) post(ctx context.Context, c *h2Conn, header http.Header) (exchange, error) {
	x := newPost(TransportH2, c.conn.LocalAddr(), c.conn.RemoteAddr())
	lasting, cancel := context.WithCancel(context.Background())
	x.hangUp = func(bool) { cancel() }
	left := make(chan struct{})
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           p.d.target(),
		Header:        header,
		Body:          postBody{x.out},
		ContentLength: -1,
	}).WithContext(httptrace.WithClientTrace(lasting, &httptrace.ClientTrace{WroteHeaders: func() { close(left) }}))
	failed := make(chan error, 1)
	p.tasks.Go(func() {
		defer p.free(c)
		failed <- x.send(c.http, req, func(err error) error {
			if e, ok := errors.AsType[*AnswerError](err); ok && e.Temporary() {
				p.leave(c)
			}
			return p.d.wrapAnswer(TransportH2, header, err)
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

// wrapAnswer says of an answer that opens no tunnel, to a request with header sent, where it came from.
func (d *Dialer) wrapAnswer(transport string, sent http.Header, err error) error {
	if e, ok := errors.AsType[*AnswerError](err); ok {
		d.answered(transport, sent, e)
	}
	return Explain(fmt.Errorf("dial gateway %s over %s: %w", d.addr(), transport, err))
}

// conn returns a connection with room for a stream, and counts that stream: the least loaded one unless it has maxShared streams, a new one
// until there are Dialer.Carriers, the least loaded one again, or a new one when all are full.
func (p *h2Pool) conn(ctx context.Context, fresh bool) (c *h2Conn, ready bool, err error) {
	c, ready = p.choose(fresh)
	select {
	case <-c.ready:
	case <-ctx.Done():
		p.free(c)
		return nil, ready, context.Cause(ctx)
	}
	if c.err == nil {
		return c, ready, nil
	}
	p.free(c)
	if other := p.useLeastLoaded(); other != nil && !fresh {
		return other, true, nil
	}
	return nil, false, c.err
}

func (p *h2Pool) choose(fresh bool) (c *h2Conn, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = p.leastLoaded()
	if fresh || c == nil || c.streams >= maxShared && p.usable() < p.d.carriers() {
		c = p.connect()
	}
	c.streams++
	return c, c.isReady()
}

// useLeastLoaded returns nil when no connection stands that has room.
func (p *h2Pool) useLeastLoaded() *h2Conn {
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
func (p *h2Pool) leastLoaded() *h2Conn {
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
func (p *h2Pool) leave(c *h2Conn) {
	p.mu.Lock()
	c.left = true
	unused := c.streams == 0
	p.mu.Unlock()
	if unused {
		c.close()
	}
}

// close ends a connection, also one that is being dialled.
func (c *h2Conn) close() {
	c.giveUp()
	if <-c.ready; c.err == nil {
		c.http.Close()
	}
}

func (p *h2Pool) free(c *h2Conn) {
	p.mu.Lock()
	c.streams--
	done := c.left && c.streams == 0
	p.mu.Unlock()
	if done {
		c.close()
	}
}

func (p *h2Pool) close() error {
	p.mu.Lock()
	list := p.list
	p.list = nil
	p.mu.Unlock()
	for _, c := range list {
		c.close()
	}
	p.tasks.Wait()
	return nil
}

// connect dials a connection in the background, for whoever waits for it: that the first of them gives up is no reason to. The caller holds
// mu.
func (p *h2Pool) connect() *h2Conn {
	ctx, cancel := context.WithTimeout(context.Background(), p.d.t.handshake)
	c := &h2Conn{giveUp: cancel, ready: make(chan struct{})}
	p.list = append(p.list, c)
	p.tasks.Go(func() {
		defer close(c.ready)
		defer cancel()
		c.conn, c.http, c.err = p.d.dialH2Conn(ctx)
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
		HTTP2:                  h2Config(d.w, maxAnswerFrame),
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        d.idleH2(),
	}
	t.Protocols.SetHTTP2(d.URL.Scheme != "http")
	t.Protocols.SetUnencryptedHTTP2(d.URL.Scheme == "http")
	return t.NewClientConn(ctx, d.URL.Scheme, d.addr())
}

// idleH2 is how long an HTTP/2 connection stands without streams. What is to be ready must not be made anew each minute.
func (d *Dialer) idleH2() time.Duration {
	if d.spares.Load() > 0 {
		return 10 * d.t.idle
	}
	return d.t.idle
}
