package proxy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// NewTunnel returns an upstream through one or more gateways. Streams are spread over those that
// are equal to the first one that answers; the others are tried in order. It owns the dialers.
func NewTunnel(dialers ...*tunnel.Dialer) Upstream {
	t := &tunnels{log: slog.New(slog.DiscardHandler), changed: make(chan struct{}, 1), greeting: defaultGreeting, lookEach: lookEvery}
	t.mover = mover{every: moveEvery, log: t.log}
	for _, d := range dialers {
		if d.Logger != nil {
			t.log, t.mover.log = d.Logger, d.Logger
		}
		g := &remoteGateway{Dialer: d, changed: t.noteChange, seen: t.mover.see}
		t.gateways = append(t.gateways, g)
		told := d.OnState
		d.OnOpened = g.answered
		d.OnState = func(s tunnel.State) {
			if told != nil {
				told(s)
			}
			if s.Transport == "" {
				t.leaveOut(g)
				t.tell()
			}
		}
	}
	return t
}

type tunnels struct {
	gateways []*remoteGateway // in the order in which they were given
	log      *slog.Logger
	lost     atomic.Pointer[func()]
	greeting greeting
	lookEach time.Duration // lookEvery
	mover    mover

	changed chan struct{} // of capacity 1: holds an element when a gateway has changed
	spares  atomic.Int64  // how many streams to keep ready
	picking sync.Mutex    // held while a gateway is chosen
}

// dial tries the gateways. If all of them drain, it waits and tries again: behind one address there
// may be several replicas, and a load balancer needs a moment to notice which of them drain.
func (t *tunnels) dial(ctx context.Context, to destination) (net.Conn, int, error) {
	for wait := drainingWait; ; wait *= 2 {
		c, err := t.dialOnce(ctx, to)
		if err == nil {
			return c, len(to.first), nil
		}
		if e, ok := errors.AsType[*tunnel.Error](err); !ok || e.Code != tunnel.CodeDraining {
			return nil, 0, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, err
		case <-time.After(wait):
		}
	}
}

// drainingWait is the first wait after all gateways have said that they drain. It doubles each
// time, until the caller's context is done.
const drainingWait = 50 * time.Millisecond

// dialOnce tries each gateway once.
func (t *tunnels) dialOnce(ctx context.Context, to destination) (net.Conn, error) {
	open := tunnel.Open{Target: tunnel.TargetBootstrap}
	switch {
	case to.forward != "":
		open.Target = tunnel.TargetForward + to.forward
	case to.address != "":
		open.Target, open.Ticket = to.address, to.ticket
	}
	if to.probe {
		open.Features = append(open.Features, tunnel.FeatureProbe)
	}
	if to.onTimes != nil {
		open.Features = append(open.Features, tunnel.FeatureTimes)
	}
	var failed failures
	order, picked := t.pick()
	defer picked()
	for i, g := range order {
		share, cancel := part(ctx, len(order)-i)
		c, err := dialVia(share, g, open, to)
		cancel()
		if err == nil {
			c.OnTicket(to.onTicket)
			c.OnTimes(to.onTimes)
			return c, nil
		}
		switch {
		case isNotOffered(err): // others may offer it
		case isLimit(err):
			g.fail()
		case ctx.Err() == nil:
			t.leaveOut(g)
		}
		failed = append(failed, err)
	}
	return nil, failed
}

// dialVia opens a stream through one gateway. One for a forward is opened only if the gateway offers
// it.
func dialVia(ctx context.Context, g *remoteGateway, open tunnel.Open, to destination) (*tunnel.Conn, error) {
	c, err := g.Dial(ctx, open, to.first)
	if err != nil || to.forward == "" {
		return c, err
	}
	answer, err := c.Opened(ctx) // which Dial has waited for
	if err == nil {
		err = checkOffered(to.forward, answer)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func isNotOffered(err error) bool {
	_, not := errors.AsType[*notOffered](err)
	return not
}

// isLimit reports whether a gateway has refused a stream for a limit. It still answers hellos.
func isLimit(err error) bool {
	e, ok := errors.AsType[*tunnel.Error](err)
	return ok && e.Code == tunnel.CodeLimit
}

// leaveOut has new streams avoid a gateway, if there is another one, until it has answered again.
func (t *tunnels) leaveOut(g *remoteGateway) {
	g.setUp(false)
	if len(t.gateways) > 1 {
		t.mover.forget(g)
	}
}

// doubt has new streams prefer other gateways for a while.
func (t *tunnels) doubt(stream *tunnel.Conn) {
	if g := t.mover.leads(stream.Instance()); g != nil {
		g.fail()
	}
}

// pick returns the gateways in the order in which to try them for a stream. The caller calls picked
// when it has the stream.
func (t *tunnels) pick() (order []*remoteGateway, picked func()) {
	t.picking.Lock()
	defer t.picking.Unlock()
	equal, others := t.ranked()
	sort := func(a, b *remoteGateway) int {
		return cmp.Or(cmp.Compare(a.doubt(), b.doubt()), cmp.Compare(a.load(), b.load()))
	}
	order = append(slices.SortedStableFunc(slices.Values(equal), sort), others...)
	order[0].picked.Add(1)
	return order, func() { order[0].picked.Add(-1) }
}

// ranked returns the gateways over which streams are spread, and the others in the order in which
// to try them: those that do not answer are the last. While none answers, the order is the given
// one.
func (t *tunnels) ranked() (equal, others []*remoteGateway) {
	var silent []*remoteGateway
	for _, g := range t.gateways {
		switch {
		case !g.up.Load():
			silent = append(silent, g)
		case len(equal) == 0 || g.equals(equal[0]):
			equal = append(equal, g)
		default:
			others = append(others, g)
		}
	}
	return equal, append(others, silent...)
}

// part returns a context with the time that one of n remaining gateways may take.
func part(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	by, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(by)/time.Duration(n))
}

func (t *tunnels) hello(ctx context.Context) (tunnel.Welcome, error) {
	var failed failures
	for i, g := range t.gateways {
		share, cancel := part(ctx, len(t.gateways)-i)
		welcome, err := g.Hello(share)
		cancel()
		if err == nil {
			return welcome, nil
		}
		failed = append(failed, err)
	}
	return tunnel.Welcome{}, failed
}

func (t *tunnels) states() map[string]tunnel.State {
	all := make(map[string]tunnel.State)
	for _, g := range t.gateways {
		all[g.URL.String()] = g.State()
	}
	return all
}

func (t *tunnels) tunnels() (all []document.Tunnel) {
	for _, g := range t.gateways {
		all = append(all, tunnelVia(g.Dialer))
	}
	return all
}

func (t *tunnels) carriers() (all []tunnel.CarrierStats) {
	for _, g := range t.gateways {
		all = append(all, g.CarrierStats()...)
	}
	return all
}

func (t *tunnels) streams() map[string]int {
	all := map[string]int{}
	for _, g := range t.gateways { // two may differ in their path only
		all[g.URL.Host] += g.Streams()
	}
	return all
}

func (t *tunnels) bootstrap() []string { return nil }

func (t *tunnels) certificateExpires() (first time.Time) {
	for _, g := range t.gateways {
		if at := g.CertificateExpires(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

func (t *tunnels) onLost(f func()) { t.lost.Store(&f) }

// tell calls what onLost has set.
func (t *tunnels) tell() {
	if f := t.lost.Load(); f != nil {
		(*f)()
	}
}

func (t *tunnels) spare(n int) {
	t.spares.Store(int64(n))
	t.spread()
}

// spread divides the streams that are kept ready among the gateways over which streams are spread.
// While none answers, the first one gets them.
func (t *tunnels) spread() {
	n := int(t.spares.Load())
	equal, others := t.ranked()
	if len(equal) == 0 {
		equal, others = others[:1], others[1:]
	}
	for _, g := range equal {
		g.SetSpares((n + len(equal) - 1) / len(equal))
	}
	for _, g := range others {
		g.SetSpares(0)
	}
}

// noteChange has run look at the gateways. It does not block.
func (t *tunnels) noteChange() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// run finds out which gateways there are, which of them are equal and which answer, and moves idle
// connections.
func (t *tunnels) run(ctx context.Context, each func(func(*agentConn))) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { t.mover.run(ctx, t, each) })
	for _, g := range t.gateways {
		tasks.Go(func() { t.look(ctx, g) })
		if len(t.gateways) > 1 {
			tasks.Go(func() { t.greet(ctx, g) })
		}
	}
	told := map[*remoteGateway]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.changed:
		}
		t.spread()
		t.tellSpread(told)
	}
}

// tellSpread logs of each gateway once whether streams are spread over it.
func (t *tunnels) tellSpread(told map[*remoteGateway]bool) {
	equal, others := t.ranked()
	for _, g := range equal {
		if len(equal) > 1 && !told[g] {
			t.log.Info("connections are spread over this gateway", "gateway", g.URL.Host, "gateways", len(equal))
			told[g] = true
		}
	}
	for _, g := range others {
		if g.up.Load() && !told[g] {
			t.log.Info("gateway is used only while those before it do not answer: its tickets are signed with another key", "gateway", g.URL.Host)
			told[g] = true
		}
	}
}

// look asks over new carriers who answers at the gateway's address, while it is in use: a gateway
// may have been added behind it.
func (t *tunnels) look(ctx context.Context, g *remoteGateway) {
	for sleep(ctx, t.lookEach/2+rand.N(t.lookEach)) {
		if g.Streams() == 0 {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, dialTimeout)
		if err := g.Look(ask); err != nil {
			t.log.Debug("gateway not asked over a new carrier", "gateway", g.URL.Host, "err", err)
		}
		cancel()
	}
}

// greeting is how often a gateway is asked whether it is there.
type greeting struct{ first, most time.Duration }

// defaultGreeting finds a gateway soon after a restart. One that has been away for long may be one
// that somebody has suspended.
var defaultGreeting = greeting{first: time.Second, most: 30 * time.Second}

// greet says hello to a gateway that does not answer, until ctx is done, as long as streams would
// be spread over it or nobody knows. Clients' connections are not used to find out.
func (t *tunnels) greet(ctx context.Context, g *remoteGateway) {
	for failures := 0; ; {
		equal, _ := t.ranked()
		wanted := g.keys.Load() == nil || len(equal) == 0 || g.equals(equal[0])
		switch {
		case g.up.Load():
			failures = 0
		case wanted:
			hello, cancel := context.WithTimeout(ctx, dialTimeout)
			_, err := g.Hello(hello)
			cancel()
			if failures++; err == nil {
				g.setUp(true)
				failures = 0
			}
		}
		if !sleep(ctx, backoff.Delay(failures, t.greeting.first, t.greeting.most)) {
			return
		}
	}
}

func (t *tunnels) name() string {
	var urls []string
	for _, g := range t.gateways {
		urls = append(urls, g.URL.String())
	}
	return strings.Join(urls, ",")
}

func (t *tunnels) transport() string { return "" }

func (t *tunnels) close() error {
	var errs []error
	for _, g := range t.gateways {
		errs = append(errs, g.Close())
	}
	return errors.Join(errs...)
}
