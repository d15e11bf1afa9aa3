// Package happyeyeballs connects to a host that has several addresses, as RFC 8305 ("Happy
// Eyeballs") does: it dials one address after the other, a short time apart, and takes the first
// that answers. It remembers which one that was, and logs which addresses do not answer.
package happyeyeballs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// Delay is the head start of each address before the next one is dialled too: RFC 8305 §8.
	Delay = 250 * time.Millisecond
	// maxDelay bounds the head start on networks where a handshake takes long, as there.
	maxDelay = 2 * time.Second

	// MaxAddresses bounds how many addresses of one host are dialled. Servers have a few; whoever
	// controls a name in DNS must not make us dial a whole network.
	MaxAddresses = 16

	// patience is how long an address may still answer when another one has answered before it.
	patience = 5 * time.Second
	// checkEvery is how often an address that did not answer is dialled again, beside a dial of its
	// host.
	checkEvery = time.Minute

	// forgetAfter is how long an address that did not answer is remembered while nobody dials it: its
	// host no longer has it.
	forgetAfter = time.Hour

	// maxHosts and maxSilent bound what a History remembers: hosts, and of each the addresses that do
	// not answer. Agents have a say in what a gateway dials.
	maxHosts  = 256
	maxSilent = 2 * MaxAddresses
	// maxLines bounds the warnings within checkEvery; there may be more names than maxHosts.
	maxLines = 20
)

// A History remembers how the addresses of hosts have answered. The zero value is ready. Its
// methods may be called concurrently.
type History struct {
	Log *slog.Logger // nil discards

	tasks sync.WaitGroup // dials that go on when another address has answered

	mu     sync.Mutex
	hosts  map[Host]*record
	lines  int             // warnings since lineAt
	lineAt time.Time       // start of the interval in which lines are counted
	ctx    context.Context // of tasks; nil until there is one
	cancel context.CancelFunc
	closed bool
}

// A Host is something that has several addresses.
type Host struct {
	Network string // tcp or udp: an address may answer over one of them only
	Name    string // host:port
}

// A record is what is known about one host.
type record struct {
	used   time.Time
	best   netip.Addr    // answered last; invalid if none is preferred
	took   time.Duration // how long best took to answer
	left   netip.Addr    // dialled last, until it is the one that answers
	silent map[netip.Addr]*silence
}

// A silence is about an address that did not answer when another one of its host did.
type silence struct {
	since   time.Time
	checked time.Time // dialled last
	told    bool      // there is a line about it
}

// Dial connects to one of the host's addresses, of which there is at least one. dial connects to a
// single address, with its handshakes: one that accepts TCP and then says nothing has not answered.
// It may be called until [History.Close] returns. discard closes a connection that is not needed.
func Dial[C any](ctx context.Context, h *History, to Host, addresses []netip.Addr, dial func(context.Context, netip.Addr) (C, error), discard func(C)) (C, error) {
	h.forget(to.Name)
	if len(addresses) == 1 {
		return dial(ctx, addresses[0])
	}
	order, delay := h.order(to, Interleave(addresses))
	for _, ip := range h.due(to, order) {
		h.background(func(ctx context.Context) {
			c, err := dial(ctx, ip)
			if err == nil {
				discard(c)
			}
			h.heard(ctx, to, ip, err)
		})
	}
	r := &race[C]{n: len(order), discard: discard, results: make(chan result[C], len(order))}
	r.dial = func(ctx context.Context, i int) (C, error) { return dial(ctx, order[i]) }
	won, err := r.run(ctx, delay)
	if err != nil {
		r.cancelFrom(0)
		return won.conn, err
	}
	h.answered(to, order[won.i], time.Since(r.started[won.i].at))
	for _, f := range r.failed {
		h.silent(to, order[f.i], f.err)
	}
	// The addresses that were dialled before this one may be slow, and not dead.
	r.cancelFrom(won.i + 1)
	h.background(func(ctx context.Context) {
		defer context.AfterFunc(ctx, func() { r.cancelFrom(0) })()
		r.settle(1, func(got result[C]) {
			if got.i < won.i {
				h.heard(ctx, to, order[got.i], got.err)
			}
		})
	})
	return won.conn, nil
}

// Interleave returns the first MaxAddresses of a resolver's answer, IPv4 and IPv6 in turn, beginning
// with the family of the first: RFC 8305 §4.
func Interleave(addresses []netip.Addr) (mixed []netip.Addr) {
	var families [2][]netip.Addr
	for _, ip := range addresses {
		i := 0
		if ip.Is4() != addresses[0].Is4() {
			i = 1
		}
		families[i] = append(families[i], ip)
	}
	for i := 0; len(mixed) < min(len(addresses), MaxAddresses); i++ {
		for _, family := range families {
			if i < len(family) && len(mixed) < MaxAddresses {
				mixed = append(mixed, family[i])
			}
		}
	}
	return mixed
}

// order returns the addresses in the order in which to dial them, and the head start of each: the
// one that answered last, those that nothing is known of, those that did not answer.
func (h *History) order(to Host, addresses []netip.Addr) ([]netip.Addr, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(to)
	rank := func(ip netip.Addr) int {
		switch {
		case ip == r.best:
			return 0
		case ip == r.left:
			return 3
		case r.silent[ip] != nil:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(addresses, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	if addresses[0] != r.best {
		return addresses, Delay
	}
	return addresses, min(max(Delay, 2*r.took), maxDelay)
}

// recordLocked returns the record of a host. It forgets the host that was not dialled for longest
// if there are too many.
func (h *History) recordLocked(to Host) *record {
	r := h.hosts[to]
	if r == nil {
		if h.hosts == nil {
			h.hosts = make(map[Host]*record)
		}
		if len(h.hosts) >= maxHosts {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(h.hosts)), func(a, b Host) int {
				return h.hosts[a].used.Compare(h.hosts[b].used)
			})
			delete(h.hosts, oldest)
		}
		r = &record{silent: make(map[netip.Addr]*silence)}
		h.hosts[to] = r
	}
	r.used = time.Now()
	return r
}

// due returns the addresses that have been silent and should be dialled again.
func (h *History) due(to Host, addresses []netip.Addr) (due []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(to)
	for _, ip := range addresses {
		if s := r.silent[ip]; s != nil && time.Since(s.checked) >= checkEvery {
			s.checked = time.Now()
			due = append(due, ip)
		}
	}
	return due
}

// background runs a task until it ends, for patience at most, or until Close.
func (h *History) background(task func(context.Context)) {
	h.mu.Lock()
	if h.ctx == nil {
		h.ctx, h.cancel = context.WithCancel(context.Background()) // of Close: these dials outlive their callers'
	}
	ctx, cancel := context.WithTimeoutCause(h.ctx, patience, errSilent)
	run := func() {
		defer cancel()
		task(ctx)
	}
	if !h.closed {
		h.tasks.Go(run)
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	cancel()
	run()
}

// errSilent is the reason to give up on an address.
var errSilent = errors.New("no answer")

// heard records how a dial in the background has ended.
func (h *History) heard(ctx context.Context, to Host, ip netip.Addr, err error) {
	switch {
	case err == nil:
		h.speaks(to, ip)
	case ctx.Err() != nil && context.Cause(ctx) != errSilent: // Close
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		h.silent(to, ip, errSilent)
	default:
		h.silent(to, ip, err)
	}
}

// answered records that an address was the first to answer.
func (h *History) answered(to Host, ip netip.Addr, took time.Duration) {
	h.mu.Lock()
	r := h.recordLocked(to)
	r.best, r.took = ip, took
	if r.left == ip {
		r.left = netip.Addr{}
	}
	h.mu.Unlock()
	h.speaks(to, ip)
}

// silent records that an address did not answer although another one of the host did, and logs the
// first time. Without a route to it, the machine is to blame and not the address.
func (h *History) silent(to Host, ip netip.Addr, err error) {
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(to)
	if r.best == ip {
		r.best = netip.Addr{}
	}
	if s := r.silent[ip]; s != nil {
		s.checked = time.Now()
		return
	}
	if len(r.silent) >= maxSilent {
		return
	}
	s, known := &silence{since: time.Now(), checked: time.Now()}, h.silentLocked(to.Name, ip)
	r.silent[ip] = s
	if known != nil {
		s.told = known.told
	} else if s.told = h.mayLogLocked(); s.told {
		h.log().Warn("one of several addresses does not answer", "name", to.Name, "address", ip, "network", to.Network,
			"hint", "remove this address from DNS, or find out why nothing answers there", "err", err)
	}
}

// mayLogLocked counts a warning, and reports whether there have not been too many. What ends one has
// a line too, so an address that answers every other time is two lines each.
func (h *History) mayLogLocked() bool {
	if time.Since(h.lineAt) >= checkEvery {
		h.lines, h.lineAt = 0, time.Now()
	}
	h.lines++
	return h.lines <= maxLines
}

// speaks records that an address answers, and logs it if a line has said that it does not.
func (h *History) speaks(to Host, ip netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(to)
	s := r.silent[ip]
	delete(r.silent, ip)
	if s != nil && s.told && h.silentLocked(to.Name, ip) == nil {
		h.log().Info("address answers again", "name", to.Name, "address", ip, "after", time.Since(s.since).Round(time.Second))
	}
}

// forget forgets the silent addresses of a name that it no longer has.
func (h *History) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, network := range []string{"tcp", "udp"} {
		r := h.hosts[Host{network, name}]
		if r == nil {
			continue
		}
		for ip, s := range r.silent {
			if time.Since(s.checked) < forgetAfter {
				continue
			}
			delete(r.silent, ip)
			if s.told && h.silentLocked(name, ip) == nil {
				h.log().Info("address that did not answer is dialled no more", "name", name, "address", ip, "after", time.Since(s.since).Round(time.Second))
			}
		}
	}
}

// silentLocked returns the silence of an address over any network, or nil. One line in the log is
// enough for a machine that is off.
func (h *History) silentLocked(name string, ip netip.Addr) *silence {
	for _, network := range []string{"tcp", "udp"} {
		if r := h.hosts[Host{network, name}]; r != nil && r.silent[ip] != nil {
			return r.silent[ip]
		}
	}
	return nil
}

// Leave makes an address of the host the last to be dialled, because its server is about to stop.
// The next connection may then reach another one.
func (h *History) Leave(to Host, ip netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(to)
	if r.left = ip; r.best == ip {
		r.best = netip.Addr{}
	}
}

// Close ends dials in the background and waits for them.
func (h *History) Close() {
	h.mu.Lock()
	h.closed = true
	if h.cancel != nil {
		h.cancel()
	}
	h.mu.Unlock()
	h.tasks.Wait()
}

func (h *History) log() *slog.Logger {
	return cmp.Or(h.Log, slog.New(slog.DiscardHandler))
}
