package proxy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// moveEvery is how often the mover looks at the connections. One is idle if nothing has been
	// requested on it between two looks.
	moveEvery = time.Minute
	// movedAtOnce is the share of all connections, one in so many, that one look may end. A client
	// that loses all connections at the same time takes that for an outage.
	movedAtOnce = 20
	// lookEvery is how often each gateway in use is asked over a new carrier who answers.
	lookEvery = 5 * time.Minute
	// aliveFor is how long a gateway counts that has answered and has no stream of ours. A balancer
	// need not lead every look to it.
	aliveFor = 2 * lookEvery
	// maxInstances bounds the gateways that are remembered: what names them comes from a peer.
	maxInstances = 64
	// maxInstance bounds such a name, in bytes. Ours have 26.
	maxInstance = 64
)

// mover moves idle connections after gateways were added, or have come back. Streams stay on the
// gateway where they were opened, so such a gateway would have none but new ones. Those that are
// idle can move without anybody noticing: the connection ends between two requests, as it does when
// a broker ends it for being idle, and the client's next one leads to a gateway with fewer.
type mover struct {
	every time.Duration // moveEvery
	log   *slog.Logger

	mu      sync.Mutex
	known   map[string]*instance // by what the gateways call themselves
	arrived bool                 // one was added to known, and the others have not been looked at since

	// Owned by run.
	left  int // how many connections may still be moved on behalf of the last arrival
	moved int // how many have been
}

// instance is one process of a gateway.
type instance struct {
	via     *remoteGateway
	seen    time.Time // when it answered last
	streams int       // of clients, at the last look
}

// see is told that a gateway has answered.
func (m *mover) see(via *remoteGateway, name string) {
	if name == "" { // an older gateway
		return
	}
	name = cutName(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.known[name]; i != nil {
		i.via, i.seen = via, time.Now()
		return
	}
	if len(m.known) >= maxInstances {
		return
	}
	if m.known == nil {
		m.known = map[string]*instance{}
	}
	m.known[name] = &instance{via: via, seen: time.Now()}
	m.arrived = len(m.known) > 1
}

// leads returns the gateway with this name, or nil.
func (m *mover) leads(name string) *remoteGateway {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.known[cutName(name)]; i != nil {
		return i.via
	}
	return nil
}

// cutName bounds the name of an instance.
func cutName(name string) string { return name[:min(len(name), maxInstance)] }

// forget is told that a gateway does not answer. If it comes back it is a new one.
func (m *mover) forget(via *remoteGateway) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, i := range m.known {
		if i.via == via {
			delete(m.known, name)
		}
	}
}

// run looks until ctx is done.
func (m *mover) run(ctx context.Context, t *tunnels, each func(func(*agentConn))) {
	wait := rand.N(m.every) // agents that started together look apart
	for sleep(ctx, wait) {
		m.look(t, each)
		wait = m.every
	}
}

// look moves some idle connections if there is reason to.
func (m *mover) look(t *tunnels, each func(func(*agentConn))) {
	total, count := 0, map[string]int{} // by instance
	idle := map[string][]*agentConn{}   // by instance
	each(func(c *agentConn) {
		name := c.instance()
		if name == "" {
			return
		}
		total++
		count[name]++
		if c.idleSinceLook() {
			idle[name] = append(idle[name], c)
		}
	})
	arrived := m.update(count)
	equal, _ := t.ranked()
	excess, atOnce := m.excess(equal, count, total), max(1, total/movedAtOnce)
	if arrived && len(excess) > 0 {
		if m.left == 0 {
			m.log.Info("idle connections move to a gateway that was added or is back", "connections", total, "at_once", atOnce)
		}
		m.left = total
	}
	moving, chosen := m.left > 0, choose(excess, idle, min(m.left, atOnce))
	if arrived || len(chosen) > 0 {
		m.renew() // each time: a carrier holds many streams, and a balancer may lead it anywhere
	}
	for _, c := range chosen {
		if c.idleSinceLook() {
			c.move()
			m.left--
			m.moved++
		}
	}
	if moving && (len(excess) == 0 || m.left == 0) {
		m.log.Info("idle connections have moved", "connections", m.moved)
		m.left, m.moved = 0, 0
	}
}

// choose returns up to n of the idle connections to gateways that have too many.
func choose(excess map[string]int, idle map[string][]*agentConn, n int) (chosen []*agentConn) {
	for name, surplus := range excess {
		chosen = append(chosen, idle[name][:min(n-len(chosen), surplus, len(idle[name]))]...)
	}
	return chosen
}

// renew has new streams use new carriers where one address leads to several gateways: most carriers
// lead to those that were there before.
func (m *mover) renew() {
	m.mu.Lock()
	behind := map[*remoteGateway]int{}
	for _, i := range m.known {
		behind[i.via]++
	}
	m.mu.Unlock()
	for via, n := range behind {
		if n > 1 {
			via.Renew()
		}
	}
}

// update takes the streams at each gateway, and reports whether one was added since the last look.
// A gateway that has lost its last stream is most likely gone.
func (m *mover) update(count map[string]int) (arrived bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, i := range m.known {
		was := i.streams
		i.streams = count[name]
		if i.streams == 0 && (was > 0 || time.Since(i.seen) > aliveFor) {
			delete(m.known, name)
		}
	}
	arrived, m.arrived = m.arrived, false
	return arrived
}

// excess returns by how many connections gateways are above their share. Up to a fifth of the
// share, and up to one, that is not worth a move. Gateways to which no new streams go have no
// share, nor do those that could not serve a stream lately.
func (m *mover) excess(equal []*remoteGateway, count map[string]int, total int) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	sharing := 0
	for _, i := range m.known {
		if slices.Contains(equal, i.via) && !i.via.failedWithin(unfitFor) {
			sharing++
		}
	}
	if sharing == 0 {
		return nil
	}
	share, over := (total+sharing-1)/sharing, map[string]int{}
	for name, i := range m.known {
		switch n := count[name]; {
		case n == 0:
		case !slices.Contains(equal, i.via):
			over[name] = n
		case n > share+max(1, share/5):
			over[name] = n - share
		}
	}
	return over
}

// instance returns which gateway the connection leads through; "" if that is not known, or if the
// connection is about to end.
func (c *agentConn) instance() string {
	s := c.stream.Load()
	if s == nil || c.ending.draining.Load() {
		return ""
	}
	return cutName(s.Instance())
}

// idleSinceLook reports whether nothing has been requested on the connection since the last call,
// and nothing is in flight.
func (c *agentConn) idleSinceLook() bool {
	frames := c.requests.frames.Load()
	idle := frames == c.looked && frames > 0 && c.ending.inflight.idle()
	c.looked = frames
	return idle
}
