package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/race"
)

// A Dialer is the agent's end of the tunnel to one gateway. Set the fields before the first use; then it may be used concurrently.
type Dialer struct {
	// URL is that of the gateway, https://host[:port][/prefix]. http:// means ws without TLS, for places that are private by other means.
	URL *url.URL

	// Transport is "h3", "ws", "h2", or "auto", which also the empty string means: whichever works, the first of these if several do.
	Transport string

	// Unlikely are transports that are not expected to work at this gateway, because of the ingress before it: auto tries them when the others
	// have failed, and otherwise seldom.
	Unlikely []string

	// Carriers is how many streams get a carrier of their own, where streams can share one; 0 means DefaultCarriers.
	Carriers int

	// TLS says whom to trust and what certificate to show; nil means the system's roots. ServerName is taken from URL if empty.
	TLS *tls.Config

	// Token is sent with every exchange; nil means none.
	Token func() (string, error)

	// Ingress is what stands before the gateway and wants credentials of its own; nil means nothing. Several Dialers may share one.
	Ingress Ingress

	// Proxy is asked, once, for the proxy through which TCP to the gateway goes: http:// and https:// by CONNECT, or socks5://. A nil URL
	// means none. nil means what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say. With a proxy, auto does not try h3.
	Proxy func(gateway *url.URL) (*url.URL, error)

	// DialContext dials TCP, to the gateway or its proxy; nil means a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Memory is how many bytes the process may have in use before QUIC connections are closed, first that over which most has come that nobody
	// has read; 0 is no limit.
	Memory int64

	// OnDial is told how each dial of a transport went, those of hellos and spares included, unless it was given up because nobody waited
	// any more.
	OnDial func(transport string, err error, took time.Duration)

	// OnState is told when what auto uses, or knows, has changed. It must not call the Dialer.
	OnState func(State)

	// OnUDPBuffers is told, when h3 is first tried, how many bytes the buffers of its socket hold, where the system tells.
	OnUDPBuffers func(receive, send int)

	Logger *slog.Logger // nil discards

	timing   timing      // zero means defaultTiming
	windows  windows     // zero means defaultWindows
	proxyTLS *tls.Config // with the proxy, for tests; nil means the system's roots

	once sync.Once
	dialling
}

// dialling is the state of a Dialer.
type dialling struct {
	log     *slog.Logger
	t       timing
	w       windows
	route   *route
	race    *race.Race[Welcome]
	pools   map[string]pool
	limiter limiter // of memory alone
	spares  *spareKeeper
	streams streamSet
	rtt     atomic.Int64 // of the last OPEN that was answered, in nanoseconds
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
		d.w = cmp.Or(d.windows, defaultWindows)
		d.route = newRoute(d.URL, d.TLS, d.log)
		d.route.dialContext, d.route.proxyTLS = d.DialContext, d.proxyTLS
		d.findProxy()
		background := context.Background() // what dials leave behind for others, until Close
		d.race = race.New(background, race.Config[Welcome]{
			Transports: d.candidates(), Hello: d.welcome, OnState: d.OnState, Timing: d.t.race, Log: d.log,
		})
		d.spares = newSpareKeeper(background, d.t.spares, d.fillSpares)
		env := &poolEnv{
			route: d.route, credentials: &credentials{d.Token, d.Ingress, d.route, d.race.Proven}, t: d.t, w: d.w, log: d.log,
			carriers: cmp.Or(d.Carriers, DefaultCarriers), spares: d.spares.wanted,
			memory:       &memoryWatch{limit: d.Memory, limiter: &d.limiter, log: d.log},
			onUDPBuffers: d.OnUDPBuffers,
			newStream:    d.newStream, dialSpare: d.dialSpare, introduce: d.introduce, wantSpares: d.spares.look,
		}
		d.pools = make(map[string]pool)
		for _, t := range transports {
			d.pools[t.name] = t.newPool(env)
		}
	})
}

func (d *Dialer) findProxy() {
	d.route.findProxy(d.Proxy)
	if d.route.proxy == nil {
		return
	}
	log := d.log.With("gateway", d.route.addr(), "proxy", withoutUser(d.route.proxy))
	log.Info("gateway is reached through a proxy")
	if t, ok := transportNamed(d.Transport); ok && t.overUDP {
		log.Warn(t.name + " goes around the proxy, for there is no way through it for UDP")
	}
}

// candidates are the transports that the race chooses from.
func (d *Dialer) candidates() (list []race.Transport) {
	auto := d.Transport == "" || d.Transport == TransportAuto
	for _, t := range transports {
		if t.name == d.Transport || auto && (d.URL.Scheme != "http" || !t.needsTLS) && (!d.route.proxied() || !t.overUDP) {
			list = append(list, race.Transport{Name: t.name, HeadStart: t.headStart(d.t), Unlikely: auto && slices.Contains(d.Unlikely, t.name)})
		}
	}
	if len(list) == 0 { // no such transport: each dial says so
		list = append(list, race.Transport{Name: d.Transport})
	}
	return list
}

// State says which transport is used, and why, and what is known of the others.
func (d *Dialer) State() State {
	d.init()
	return d.race.State()
}

// maxTries is how often Dial tries: over what is ready, over a fresh carrier, and once more where another transport has taken over.
const maxTries = 3

// Dial opens a stream and returns when the gateway has answered OPEN, which is before it dials the target.
//
// first leaves in one flight with OPEN, so that its answer can be here after one round trip. When no answer to OPEN comes soon over what was
// ready beforehand, or the gateway is draining, OPEN and first go again over a fresh carrier, and the caller notices nothing. So first must
// be bytes that may arrive twice; it may be nil. ctx bounds Dial alone.
func (d *Dialer) Dial(ctx context.Context, o Open, first []byte) (c *Conn, err error) {
	d.init()
	if err := d.start(); err != nil {
		return nil, err
	}
	defer d.streams.done()
	for try := 1; ; try++ {
		var again bool
		c, again, err = d.try(ctx, o, first, try > 1)
		if err == nil || !again || try == maxTries || ctx.Err() != nil {
			return c, err
		}
		d.log.Debug("stream is opened again", "err", err)
	}
}

// DialTCP opens a connection like those that ws and h2 stand on, through a proxy if one is set, for those who look into what is wrong. The
// caller closes it.
func (d *Dialer) DialTCP(ctx context.Context) (net.Conn, error) {
	d.init()
	ctx, cancel := d.bound(ctx)
	defer cancel()
	return d.route.dialTCP(ctx)
}

// start counts a dial, which Close waits for.
func (d *Dialer) start() error {
	if err := d.w.check(); err != nil {
		return err
	}
	return d.streams.start()
}

// newStream makes a stream that Close knows of.
func (d *Dialer) newStream(x exchange.Exchange, transport string, open []byte) (*Conn, error) {
	return d.streams.add(func(done func(*Conn)) *Conn {
		var c *Conn
		c = newDialled(x, transport, d.t, open, func() {
			if c.ending.cut.Load() && c.isOpened() {
				d.race.Cut(transport)
			}
			done(c)
		})
		return c
	}, x.Abort)
}

// SetSpares says how many streams are to be ready, so that their OPEN can leave at once. They are made in the background, over the transport
// that is used. 0, where a Dialer begins, means none.
func (d *Dialer) SetSpares(n int) {
	d.init()
	d.spares.set(n)
}

// fillSpares makes n streams ready over the transport that is used. last is the one that it was, "" for none.
func (d *Dialer) fillSpares(ctx context.Context, last string, n int) (transport string, err error) {
	if n == 0 && last == "" {
		return "", nil
	}
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return last, err
	}
	if last != "" && last != chosen.Transport {
		d.pools[last].drop()
	}
	if err := d.pools[chosen.Transport].fill(ctx, n); err != nil {
		d.log.Debug("no spare made", "transport", chosen.Transport, "err", err)
		d.race.Refused(chosen, err)
		return chosen.Transport, err
	}
	return chosen.Transport, nil
}

// Close cuts the streams that are open, gives those that were closed some seconds until the gateway has taken everything, and frees the
// carriers.
func (d *Dialer) Close() error {
	d.init()
	d.spares.stop() // before the spares end, or it would make others
	for _, c := range d.streams.close() {
		c.Close() // those that linger are closed already, and go on
	}
	d.race.Close()
	d.spares.wait()
	abort := time.AfterFunc(d.t.reset, func() {
		for _, c := range d.streams.open() {
			c.x.Abort()
		}
	})
	defer abort.Stop()
	d.streams.wait()
	var errs []error
	for _, p := range d.pools {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
