package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// A Dialer is the agent's end of the tunnel to one gateway. Set the fields before the first use;
// after that it may be used concurrently.
type Dialer struct {
	// URL is the gateway's, https://host[:port][/prefix]. http:// means ws or h2 without TLS, for
	// networks that are private by other means.
	URL *url.URL

	// Transport is one of [Transports], or "auto": the first of them that works. Empty means
	// "auto".
	Transport string

	// Unlikely lists transports that are not expected to work at this gateway because of its
	// ingress. auto tries them when all others have failed, and rarely otherwise.
	Unlikely []string

	// Carriers is how many carriers there are at most while none is full; 0 means DefaultCarriers.
	// Until then one more is dialled whenever the next stream would have to share. It matters only
	// where streams can share.
	Carriers int

	// TLS says whom to trust and which certificate to present; nil means the system's roots. An
	// empty ServerName is taken from URL. Its ClientSessionCache is not used. GetClientCertificate
	// is called before each handshake too: sessions end when it returns another certificate.
	TLS *tls.Config

	// Token returns the token to send with every exchange; nil means no token.
	Token func() (string, error)

	// Ingress adds the credentials that an ingress in front of the gateway requires; nil means
	// none. Several Dialers may share one.
	Ingress Ingress

	// Proxy returns the proxy for TCP to the gateway; it is called once. http:// and https://
	// proxies are used by CONNECT, socks5:// by SOCKS. A nil URL means no proxy. A nil Proxy means
	// the environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY. With a proxy, auto does not try h3.
	Proxy func(gateway *url.URL) (*url.URL, error)

	// DialContext dials TCP, to the gateway or its proxy, by name; nil means that all addresses of
	// the name are dialled, as RFC 8305 does.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Memory is how many bytes the process may have in use. Beyond it QUIC connections are closed,
	// the one with the most unread bytes first. 0 means no limit.
	Memory int64

	// OnDial is called after each dial of a transport, including those of hellos and spares. It is
	// not called for dials that were canceled because nobody waited for them any more.
	OnDial func(transport string, err error, took time.Duration)

	// OnOpened is called with each answer to OPEN, also on streams of the Dialer's own. It must not
	// block, nor call the Dialer.
	OnOpened func(Opened)

	// OnState is called when the transport in use, or what is known of the others, has changed. It
	// must not call the Dialer.
	OnState func(State)

	// OnFault is called when a transport that works has a fault, Slow, Late or Costly, with what was done
	// about it. It must not call the Dialer.
	OnFault func(transport string, f Fault, o Outcome)

	// OnUDPBuffers is called when h3 is first tried, with the sizes of its socket's buffers in
	// bytes. It is not called where the system does not tell them.
	OnUDPBuffers func(receive, send int)

	Logger *slog.Logger // nil discards

	timing   timing      // zero means defaultTiming
	windows  windows     // zero means windowsWithin Memory
	proxyTLS *tls.Config // for TLS to the proxy, in tests; nil means the system's roots

	clock  func() time.Time                                             // in tests; nil means time.Now
	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // in tests; nil means the system's resolver

	once sync.Once
	dialling
}

// init makes the state from the settings, at the first call. Every exported method calls it,
// because a Dialer is used without a constructor.
func (d *Dialer) init() {
	d.once.Do(func() {
		d.log, d.onDial, d.answers.told = d.Logger, d.OnDial, d.OnOpened
		if d.log == nil {
			d.log = slog.New(slog.DiscardHandler)
		}
		d.t, d.w = cmp.Or(d.timing, defaultTiming), cmp.Or(d.windows, windowsWithin(d.Memory))
		d.route = newRoute(d.URL, d.TLS, d.log)
		d.route.dialContext, d.route.proxyTLS = d.DialContext, d.proxyTLS
		if d.lookup != nil {
			d.route.lookup = d.lookup
		}
		d.findProxy()
		if d.cpu == nil {
			d.cpu = cpuTime
		}
		clock := d.clock
		if clock == nil {
			clock = time.Now
		}
		// Hellos and spares outlive the dial that causes them; Close ends them.
		background := context.Background()
		d.epochs = newEpochs(background, d.t.stale/2, clock, d.dropReady, d.log)
		d.race = race.New(background, race.Config[Welcome]{
			Transports: d.candidates(), Hello: d.welcome, Measure: d.measure, Mend: d.mend,
			OnState: d.OnState, OnFault: d.OnFault, Timing: d.t.race, Log: d.log.With("gateway", d.route.addr()),
		})
		d.flows.t, d.flows.streams = d.t, d.streams.open
		d.flows.init(Transports())
		d.flows.suffers = func(transport string) { d.race.Doubt(transport, race.Slow) }
		d.flows.busy = func(transport string) {
			if t, _ := transportNamed(transport); t.overUDP { // for TCP, the kernel does the work
				d.race.Doubt(transport, race.Costly)
			}
		}
		d.spares = newSpareKeeper(background, d.t, d.fillSpares)
		env := &poolEnv{
			route: d.route, credentials: &credentials{d.Token, d.Ingress, d.route, d.race.Proven}, t: d.t, w: d.w, log: d.log,
			carriers: cmp.Or(d.Carriers, DefaultCarriers), spares: d.spares.wanted,
			memory:       &memoryWatch{limit: d.Memory, memory: &d.memory, log: d.log},
			onUDPBuffers: d.OnUDPBuffers,
			newStream:    d.newStream, dialSpare: d.dialSpare, introduce: d.introduce, wantSpares: d.spares.look, wantOne: d.spares.one, forgetBursts: d.spares.bursts.forget,
		}
		d.pools, d.firsts = make(map[string]pool), make(map[string]*atomic.Int64)
		for _, t := range transports {
			d.firsts[t.name] = new(atomic.Int64)
			d.pools[t.name] = t.newPool(env)
		}
	})
}

// findProxy sets the route's proxy and logs it, without its password.
func (d *Dialer) findProxy() {
	d.route.findProxy(d.Proxy)
	if d.route.proxy == nil {
		return
	}
	log := d.log.With("gateway", d.route.addr(), "proxy", withoutUser(d.route.proxy))
	log.Info("gateway reached through a proxy")
	if t, ok := transportNamed(d.Transport); ok && t.overUDP {
		log.Warn(t.name + " bypasses the proxy: UDP cannot go through it")
	}
}

// candidates returns the transports that the race chooses from: the one that is set, or for auto
// all that the URL and the proxy permit.
func (d *Dialer) candidates() (list []race.Transport) {
	auto := d.Transport == "" || d.Transport == TransportAuto
	for _, t := range transports {
		if t.name == d.Transport || auto && (d.URL.Scheme != "http" || !t.needsTLS) && (!d.route.proxied() || !t.overUDP) {
			list = append(list, race.Transport{Name: t.name, HeadStart: t.headStart(d.t), Unlikely: auto && slices.Contains(d.Unlikely, t.name), Remedies: t.remedies, Unfixed: t.unfixed})
		}
	}
	if len(list) == 0 { // unknown transport: each dial returns that as its error
		list = append(list, race.Transport{Name: d.Transport})
	}
	return list
}

// State returns the transport in use, the reason for it, and what is known of the others.
func (d *Dialer) State() State {
	d.init()
	return d.race.State()
}

// Gateway returns the version of the gateway that answered last, as it says; "" before the first
// answer.
func (d *Dialer) Gateway() string {
	if v := d.answers.version.Load(); v != nil {
		return printable.Text(*v, printable.Name)
	}
	return ""
}

// maxTries is how often Dial tries: over something that is ready, over a fresh carrier, and once
// more after a change of transport.
const maxTries = 3

// Dial opens a stream. It returns when the gateway has answered OPEN, which is before the gateway
// dials the target.
//
// first is sent together with OPEN, so that its answer can arrive after one round trip; it may be
// nil. If nothing answers OPEN soon over something that was ready, or if the gateway is draining,
// OPEN and first are sent again over a fresh carrier, and the caller does not notice. So first must
// be bytes that may arrive twice. ctx bounds Dial and not the stream.
func (d *Dialer) Dial(ctx context.Context, o Open, first []byte) (c *Conn, err error) {
	d.init()
	if err := d.start(); err != nil {
		return nil, err
	}
	defer d.streams.done()
	for try := 1; ; try++ {
		var again bool
		c, again, err = d.try(ctx, o, first, try > 1)
		if err == nil {
			d.streams.hold(c)
			return c, nil
		}
		if !again || try >= maxTries || ctx.Err() != nil {
			return nil, err
		}
		d.log.Debug("stream not opened, trying again", "err", err)
	}
}

// Streams returns how many of the streams that Dial has returned are not over.
func (d *Dialer) Streams() int { return d.streams.inUse() }

// DialTCP opens a TCP connection as ws and h2 do, through the proxy if there is one. It exists for
// diagnosis. The caller closes the connection.
func (d *Dialer) DialTCP(ctx context.Context) (net.Conn, error) {
	d.init()
	ctx, cancel := d.bound(ctx)
	defer cancel()
	return dialGateway(ctx, d.route, plain)
}

// Lookup returns the IP addresses of the gateway's name, as h3 looks them up. It exists for
// diagnosis.
func (d *Dialer) Lookup(ctx context.Context) (addresses []string, err error) {
	d.init()
	ips, err := d.route.lookup(ctx, d.URL.Hostname())
	if err != nil {
		return nil, d.route.explain(ctx, err)
	}
	for _, ip := range ips {
		addresses = append(addresses, ip.Unmap().String())
	}
	return addresses, nil
}

// Hello asks the gateway who it is, checks with an echo of 64 KiB that bytes pass in both
// directions, and returns the tickets that the gateway gives. If it has to wait for the race, it
// returns the hello of the winner and sends none of its own.
func (d *Dialer) Hello(ctx context.Context) (Welcome, error) {
	d.init()
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return Welcome{}, err
	}
	if chosen.Welcome != nil {
		return *chosen.Welcome, nil
	}
	w, err := d.hello(ctx, chosen.Transport, false)
	if err != nil {
		d.race.Refused(chosen, err)
	}
	return w, err
}

// SetSpares sets how many streams to keep ready at least, so that their OPEN can leave at once. When
// more were opened within three seconds, that many are kept for the next ten minutes, up to 32. They
// are dialled in the background, over the transport in use. A Dialer starts with 0, which means none.
func (d *Dialer) SetSpares(n int) {
	d.init()
	d.spares.set(n)
}

// Look asks over a new carrier who answers, and tells OnOpened. Behind one address there may be
// several gateways, and what is open leads to those that were there when it was opened.
func (d *Dialer) Look(ctx context.Context) error {
	d.init()
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return err
	}
	if p, ok := d.pools[chosen.Transport]; ok {
		p.elsewhere()
	}
	return d.introduce(ctx, chosen.Transport)
}

// Renew has new streams use new carriers, which may lead to other gateways behind the same address.
// Open streams continue.
func (d *Dialer) Renew() {
	d.init()
	d.dropReady()
}

// Close cuts the open streams, gives streams that were closed in good order some seconds until the
// gateway has read everything, and closes the carriers.
func (d *Dialer) Close() error {
	d.init()
	d.spares.stop() // first, or it would replace the spares that end
	d.flows.stop()
	for _, c := range d.streams.close() {
		c.Close() // those that linger are closed already, and continue
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
	d.epochs.close()
	d.route.history.Close()
	var errs []error
	for _, p := range d.pools {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
