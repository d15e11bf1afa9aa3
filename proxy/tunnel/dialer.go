package tunnel

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// A Dialer is the agent's end of the tunnel to one gateway. Set the fields before the first use; then it may be used concurrently.
type Dialer struct {
	// URL is that of the gateway, https://host[:port][/prefix]. http:// means ws without TLS, for places that are private by other means.
	URL *url.URL

	// Transport is "h3", "ws", or "auto", which also the empty string means: whichever works, h3 if both do.
	Transport string

	// TLS says whom to trust and what certificate to show; nil means the system's roots. ServerName is taken from URL if empty.
	TLS *tls.Config

	// Token is sent with every exchange; nil means none.
	Token func() (string, error)

	// DialContext dials TCP; nil means a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// OnDial is told how each dial of a transport went, those of hellos included, unless it was given up because nobody waited any more.
	OnDial func(transport string, err error, took time.Duration)

	// OnFallback is told when auto changes from one transport to another.
	OnFallback func(from, to string)

	Logger *slog.Logger // nil discards

	timing timing // zero means defaultTiming

	once sync.Once
	log  *slog.Logger
	t    timing
	tls  *tls.Config // TLS with what a resumed session needs
	race *race       // nil unless Transport is auto
	h3   carriers
	h2   h2Conns

	mu      sync.Mutex
	closed  bool
	streams map[*Conn]struct{}
	pending sync.WaitGroup // a count for each of streams, and for each dial in progress
}

func (d *Dialer) init() {
	d.once.Do(func() {
		d.log, d.t = d.Logger, d.timing
		if d.log == nil {
			d.log = slog.New(slog.DiscardHandler)
		}
		if d.t == (timing{}) {
			d.t = defaultTiming
		}
		d.tls = &tls.Config{}
		if d.TLS != nil {
			d.tls = d.TLS.Clone()
		}
		if d.tls.ServerName == "" {
			d.tls.ServerName = d.URL.Hostname()
		}
		if d.tls.ClientSessionCache == nil {
			d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(64)
		}
		d.tls.DynamicRecordSizingDisabled = true
		d.streams = make(map[*Conn]struct{})
		if d.Transport == "" || d.Transport == TransportAuto {
			d.race = newRace(transports(d.URL.Scheme, d.URL.Hostname()), d.t, d.sayHello, d.fellBack)
		}
	})
}

// Dial opens a stream. It returns when an exchange is up; OPEN leaves with the first Write, or the first Read, and is answered later, see
// Conn.Opened. ctx bounds Dial alone.
func (d *Dialer) Dial(ctx context.Context, o Open) (c *Conn, err error) {
	err = d.overBest(ctx, func(transport string) error {
		c, err = d.dial(ctx, transport, o)
		return err
	})
	return c, err
}

// overBest calls f with the transport to use. Under auto it calls f once more, after another race, when f fails.
func (d *Dialer) overBest(ctx context.Context, f func(transport string) error) error {
	d.init()
	if d.race == nil {
		return f(d.Transport)
	}
	var failed error
	for range 2 {
		transport, err := d.race.choose(ctx)
		if err != nil {
			return cmp.Or(failed, err)
		}
		failed = f(transport)
		if failed == nil || !d.race.lost(transport, failed) || ctx.Err() != nil {
			return failed
		}
	}
	return failed
}

// sayHello is a hello for the race.
func (d *Dialer) sayHello(ctx context.Context, transport string) error {
	_, err := d.hello(ctx, transport, nil)
	return err
}

func (d *Dialer) fellBack(from, to string) {
	d.log.Warn("tunnel changed its transport", "from", from, "to", to)
	if d.OnFallback != nil {
		d.OnFallback(from, to)
	}
}

// dial opens a stream over one transport.
func (d *Dialer) dial(ctx context.Context, transport string, o Open) (*Conn, error) {
	if err := d.start(); err != nil {
		return nil, err
	}
	defer d.pending.Done()
	ctx, cancel := context.WithTimeoutCause(ctx, d.t.handshake, fmt.Errorf("no exchange within %v", d.t.handshake))
	defer cancel()
	start := time.Now()
	c, err := d.dialOpen(ctx, transport, o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = explain(fmt.Errorf("dial gateway %s over %s: %w", d.addr(), transport, err))
	}
	if d.OnDial != nil && !errors.Is(err, context.Canceled) {
		d.OnDial(transport, err, time.Since(start))
	}
	return c, err
}

func (d *Dialer) dialOpen(ctx context.Context, transport string, o Open) (*Conn, error) {
	o.Version = Version
	value, err := encodeJSON(capsuleOpen, o)
	if err != nil {
		return nil, err
	}
	var x exchange
	switch transport {
	case TransportWS:
		x, err = d.dialWS(ctx)
	case TransportH3:
		x, err = d.dialH3(ctx)
	case TransportH2:
		x, err = d.dialH2(ctx)
	default:
		err = fmt.Errorf("no such transport")
	}
	if err != nil {
		return nil, err
	}
	return d.newStream(x, appendCapsule(nil, capsuleOpen, value))
}

// start counts a dial, which Close waits for.
func (d *Dialer) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	d.pending.Add(1)
	return nil
}

func (d *Dialer) newStream(x exchange, open []byte) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		x.Abort()
		return nil, net.ErrClosed
	}
	d.pending.Add(1)
	var c *Conn
	c = newConn(x, d.t, open, func() { d.forget(c) })
	d.streams[c] = struct{}{}
	return c, nil
}

func (d *Dialer) forget(c *Conn) {
	d.mu.Lock()
	delete(d.streams, c)
	d.mu.Unlock()
	d.pending.Done()
}

// Close cuts the streams that are open, gives those that were closed some seconds until the gateway has taken everything, and frees the
// carriers.
func (d *Dialer) Close() error {
	d.init()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	for _, c := range d.open() {
		c.Close() // those that linger are closed already, and go on
	}
	if d.race != nil {
		d.race.close()
	}
	hurry := time.AfterFunc(d.t.reset, func() {
		for _, c := range d.open() {
			c.x.Abort()
		}
	})
	defer hurry.Stop()
	d.pending.Wait()
	d.h2.close()
	return d.h3.close()
}

// open are the streams that are not over.
func (d *Dialer) open() []*Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.streams))
}

// addr is the host and port of the gateway.
func (d *Dialer) addr() string {
	port := d.URL.Port()
	switch {
	case port != "":
	case d.URL.Scheme == "http":
		port = "80"
	default:
		port = "443"
	}
	return net.JoinHostPort(d.URL.Hostname(), port)
}

// target is the URL of the tunnel.
func (d *Dialer) target() *url.URL {
	u := *d.URL
	u.Path = strings.TrimSuffix(u.Path, "/") + Path
	u.RawPath, u.RawQuery, u.Fragment, u.User = "", "", "", nil
	return &u
}

// header is what every exchange carries.
func (d *Dialer) header() (http.Header, error) {
	h := http.Header{"User-Agent": {"culvert/" + Version}}
	if d.Token == nil {
		return h, nil
	}
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	h.Set(headerAuthorization, "Bearer "+token)
	return h, nil
}

func (d *Dialer) dialWS(ctx context.Context) (exchange, error) {
	header, err := d.header()
	if err != nil {
		return nil, err
	}
	dial := d.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	tcp, err := dial(ctx, "tcp", d.addr())
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: tcp}
	x, err := d.upgrade(ctx, w, header)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return x, nil
}

// upgrade makes a WebSocket of a TCP connection.
func (d *Dialer) upgrade(ctx context.Context, w *wire, header http.Header) (exchange, error) {
	stop := context.AfterFunc(ctx, func() { w.SetDeadline(aLongTimeAgo) })
	defer stop()
	conn := net.Conn(w)
	if d.URL.Scheme != "http" {
		cfg := d.tls.Clone()
		cfg.NextProtos = []string{"http/1.1"} // an ingress that gets the choice takes h2, where there is no upgrade
		t := tls.Client(w, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		conn = t
	}
	early, err := d.handshake(w, conn, header)
	if err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return newWS(w, conn, true, early), nil
}

// handshake asks for the upgrade, and returns what came behind the answer.
func (d *Dialer) handshake(w *wire, conn net.Conn, header http.Header) (early []byte, err error) {
	var answer *AnswerError
	h := ws.Dialer{
		Protocols: []string{wsProtocol},
		Header:    ws.HandshakeHeaderHTTP(header),
		OnStatusError: func(_ int, _ []byte, resp io.Reader) {
			w.SetReadDeadline(time.Now().Add(time.Second)) // for the body, whose end may never come
			answer = readAnswer(resp)
		},
	}
	br, _, err := h.Upgrade(struct {
		io.Reader
		io.Writer
	}{io.LimitReader(conn, maxHeader), conn}, d.target())
	switch {
	case answer != nil:
		answer.URL = d.target().String()
		return nil, answer
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("WebSocket handshake: connection closed before the answer was complete")
	case err != nil:
		return nil, fmt.Errorf("WebSocket handshake: %w", err)
	}
	if br != nil {
		b, _ := br.Peek(br.Buffered())
		early = bytes.Clone(b)
		ws.PutReader(br)
	}
	return early, nil
}
