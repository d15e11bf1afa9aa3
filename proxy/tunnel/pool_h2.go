package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// TransportH2 names POST over HTTP/2 in settings, logs and metrics.
const TransportH2 = "h2"

// maxShared is how many streams share an HTTP/2 connection before there are Dialer.Carriers of them. What TCP loses holds up all of its streams, and
// a connection of its own for each would be a TLS handshake for each.
const maxShared = 8

// An h2Carrier is an HTTP/2 connection to the gateway, or one that is being dialled.
type h2Carrier struct {
	giveUp context.CancelFunc // ends the dial

	ready chan struct{} // closed when these are set
	conn  net.Conn
	http  *http.ClientConn
	err   error

	carrierState
}

func (c *h2Carrier) state() *carrierState { return &c.carrierState }
func (c *h2Carrier) dead() bool           { return c.isReady() && (c.err != nil || c.http.Err() != nil) }
func (c *h2Carrier) usable() bool         { return true }

// room is how many streams the connection may carry at once: fewer than ours if the peer says so, and none after a GOAWAY.
func (c *h2Carrier) room() int {
	if !c.isReady() {
		return maxShared
	}
	free := c.http.Available()
	if free == 0 {
		return 0
	}
	return min(maxStreams, free+c.http.InFlight())
}

func (c *h2Carrier) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// close ends a connection, also one that is being dialled.
func (c *h2Carrier) close() {
	c.giveUp()
	if <-c.ready; c.err == nil {
		c.http.Close()
	}
}

// h2Pool are the HTTP/2 connections of a Dialer. Idle ones close by themselves.
type h2Pool struct {
	env *poolEnv

	carriers[*h2Carrier]
	tasks sync.WaitGroup
}

// take opens a POST. It returns when the request is on its way; the answer is awaited in the background.
func (p *h2Pool) take(ctx context.Context, open []byte, fresh bool) (s *Conn, ready bool, err error) {
	header, err := p.env.header(ctx)
	if err != nil {
		return nil, false, err
	}
	header.Set("Content-Type", exchange.PostType)
	for tries := 1; ; tries++ {
		c, ready, err := p.conn(ctx, fresh)
		if err != nil {
			return nil, ready, err
		}
		x, err := p.post(ctx, c, header)
		if err == nil {
			s, err = p.env.newStream(x, TransportH2, open)
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
		enough := p.easy() >= n || p.usable() >= p.env.carriers
		p.mu.Unlock()
		if enough {
			return nil
		}
		if err := p.env.introduce(ctx, TransportH2); err != nil {
			return err
		}
	}
	return nil
}

// easy is how many streams find connections that fewer than maxShared share. The caller holds mu.
func (p *h2Pool) easy() (n int) {
	p.leastLoaded() // forgets the dead
	for _, c := range p.list {
		if !c.left {
			n += max(0, min(maxShared, c.room())-c.streams)
		}
	}
	return n
}

func (p *h2Pool) drop() {
	for _, c := range p.all() {
		p.leave(c)
	}
}

// otherWay is nil: there is but one way to POST.
func (p *h2Pool) otherWay() func() (by string, undo func()) { return nil }

// maxStale is how many connections may turn out to be at their end in the moment when they were chosen.
const maxStale = 3

// post sends a request over a connection, on which the stream is counted already. It fails only before the request has left.
func (p *h2Pool) post(ctx context.Context, c *h2Carrier, header http.Header) (exchange.Exchange, error) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the request outlives the dial
	x := exchange.NewPost(c.conn.LocalAddr(), c.conn.RemoteAddr(), func(bool) { cancel() })
	left := make(chan struct{})
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           p.env.target(),
		Header:        header,
		Body:          x.Body(),
		ContentLength: -1,
	}).WithContext(httptrace.WithClientTrace(lasting, &httptrace.ClientTrace{WroteHeaders: func() { close(left) }}))
	failed := make(chan error, 1)
	p.tasks.Go(func() {
		defer p.free(c)
		failed <- x.Send(c.http, req, func(e *AnswerError) error {
			if e.Temporary() {
				p.leave(c)
			}
			return p.env.refused(TransportH2, header, e)
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

// conn returns a connection with room for a stream, and counts that stream: the least loaded one unless it has maxShared streams, a new one
// until there are Dialer.Carriers, the least loaded one again, or a new one when all are full.
func (p *h2Pool) conn(ctx context.Context, fresh bool) (c *h2Carrier, ready bool, err error) {
	c, ready = p.choose(ctx, fresh)
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

func (p *h2Pool) choose(ctx context.Context, fresh bool) (c *h2Carrier, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.leastLoaded()
	if fresh || !ok || c.streams >= maxShared && p.usable() < p.env.carriers {
		c = p.connect(ctx)
	}
	c.streams++
	return c, c.isReady()
}

// useLeastLoaded returns nil when no connection stands that has room.
func (p *h2Pool) useLeastLoaded() *h2Carrier {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.leastLoaded()
	if !ok || !c.isReady() {
		return nil
	}
	c.streams++
	return c
}

// leave puts no more streams on a connection over which a request was refused for now: another may lead to a gateway that takes it.
func (p *h2Pool) leave(c *h2Carrier) {
	if p.carriers.leave(c) {
		c.close()
	}
}

func (p *h2Pool) free(c *h2Carrier) {
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
func (p *h2Pool) connect(ctx context.Context) *h2Carrier {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.env.t.handshake)
	c := &h2Carrier{giveUp: cancel, ready: make(chan struct{})}
	p.list = append(p.list, c)
	p.tasks.Go(func() {
		defer close(c.ready)
		defer cancel()
		c.conn, c.http, c.err = p.dial(ctx)
	})
	return c
}

func (p *h2Pool) dial(ctx context.Context) (net.Conn, *http.ClientConn, error) {
	tcp, err := p.env.dialTCP(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn, err := p.secure(ctx, tcp)
	if err != nil {
		tcp.Close()
		return nil, nil, err
	}
	c, err := p.start(ctx, conn)
	if err != nil {
		tcp.Close()
		return nil, nil, err
	}
	return conn, c, nil
}

// secure is TLS on tcp, unless the URL wants none.
func (p *h2Pool) secure(ctx context.Context, tcp net.Conn) (net.Conn, error) {
	if p.env.url.Scheme == "http" {
		return tcp, nil
	}
	cfg := p.env.tls.Clone()
	cfg.NextProtos = []string{"h2"}
	t := tls.Client(tcp, cfg)
	switch err := t.HandshakeContext(ctx); {
	case err != nil && strings.HasSuffix(err.Error(), "no application protocol"):
		return nil, exchange.ErrNoH2
	case err != nil:
		return nil, fmt.Errorf("TLS handshake: %w", err)
	case t.ConnectionState().NegotiatedProtocol != "h2":
		return nil, exchange.ErrNoH2
	}
	return t, nil
}

// start makes conn an HTTP/2 connection. A Transport of its own for each lets conn be dialled by us.
func (p *h2Pool) start(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	dialled := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	t := &http.Transport{
		DialContext:            dialled,
		DialTLSContext:         dialled,
		Protocols:              new(http.Protocols),
		HTTP2:                  h2Config(p.env.w, exchange.MaxAnswerFrame),
		DisableCompression:     true,
		MaxResponseHeaderBytes: exchange.MaxHeader,
		IdleConnTimeout:        p.idle(),
	}
	t.Protocols.SetHTTP2(p.env.url.Scheme != "http")
	t.Protocols.SetUnencryptedHTTP2(p.env.url.Scheme == "http")
	return t.NewClientConn(ctx, p.env.url.Scheme, p.env.addr())
}

// idle is how long an HTTP/2 connection stands without streams. What is to be ready must not be made anew each minute.
func (p *h2Pool) idle() time.Duration {
	if p.env.spares() > 0 {
		return 10 * p.env.t.idle
	}
	return p.env.t.idle
}
