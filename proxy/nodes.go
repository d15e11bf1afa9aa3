package proxy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// doubtAfter is how long what a response has said of a node stands, whatever
// happens to dials of it.
const doubtAfter = 5 * time.Second

// node is a broker that a response or a ticket has named.
type node struct {
	id      int32
	address string // advertised, host:port
	// recalled is set where no response has named the node since the start.
	recalled bool
	// doubted is set where it was not reached there since a response named it.
	doubted bool
	heard   time.Time // when a response named it last
}

// nodes is the table of one agent: node id ↔ advertised address ↔ local
// listener. The advertised side belongs to one cluster at a time and is dropped
// when another one answers; a listener stays while the agent runs.
type nodes struct {
	nodeListeners
	metrics *metrics.Metrics
	changed func() // called without the lock when the advertised side changed

	mu      sync.Mutex // never taken while nodeListeners is locked
	cluster string
	heard   bool // a response has named the cluster
	drops   int  // how many clusters have been dropped
	known   map[int32]node
	tickets map[string]tunnel.Ticket // by address
	limiter logLimiter
}

func (t *nodes) init() {
	t.nodeListeners.init()
	t.known = map[int32]node{}
	t.tickets = map[string]tunnel.Ticket{}
}

// count is how many nodes are known.
func (t *nodes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.known)
}

// epoch changes when a cluster is dropped for another one.
func (t *nodes) epoch() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drops
}

var errFormerCluster = errors.New("another cluster has answered since this connection was opened")

// learn takes the brokers of one response, which came on a connection that was
// opened in that epoch. When it returns, each of them has an address that may be
// written into a response: nothing a client can read comes before its listener.
// A broker that cannot be one is not learnt, and has the address of a dead end; a
// cluster id that cannot be one is an error.
//
// A cluster id other than the table's drops the table, and the old id is
// returned; but a connection from before such a change does not bring the old
// cluster back. now is the epoch that what was learnt belongs to.
func (t *nodes) learn(epoch int, cluster string, brokers []rewrite.Broker) (now int, dropped string, err error) {
	if err := checkClusterID(cluster); err != nil {
		return epoch, "", err
	}
	t.mu.Lock()
	if epoch != t.drops && cluster != t.cluster {
		t.mu.Unlock()
		return epoch, "", errFormerCluster
	}
	before := t.cluster
	dropped = t.enter(cluster)
	t.heard = t.heard || cluster != ""
	changed := t.cluster != before
	for _, b := range brokers {
		var news bool
		if news, err = t.hear(b); err != nil {
			break
		}
		changed = changed || news
	}
	if changed {
		t.metrics.SetNodes(slices.Collect(maps.Keys(t.known)))
	}
	now = t.drops
	t.mu.Unlock()
	if changed {
		t.changed()
	}
	return now, dropped, err
}

// hear takes one broker of a response, and reports whether it is another than
// the table's. The lock is held.
func (t *nodes) hear(b rewrite.Broker) (news bool, err error) {
	address := addressOf(b)
	if news = t.known[b.NodeID].address != address; news {
		if err := checkNode(b.NodeID, address); err != nil {
			t.distrust("a broker", err)
			return false, t.openDeadEnds()
		}
	}
	if err := t.open(b.NodeID); err != nil || !t.room(b.NodeID) {
		return false, err
	}
	t.known[b.NodeID] = node{id: b.NodeID, address: address, heard: time.Now()}
	return news, nil
}

// distrust says, not too often, that somebody told of a node that cannot be one.
func (t *nodes) distrust(who string, why error) {
	t.limiter.warn(t.log, "node ignored, it cannot be one", who, "told_by", who, "err", why)
}

// room reports whether the table may hold the node.
func (t *nodes) room(id int32) bool {
	_, have := t.known[id]
	return have || len(t.known) < maxNodes
}

// addTicket keeps a ticket for when its address is dialled.
func (t *nodes) addTicket(tk tunnel.Ticket) {
	t.metrics.Ticket(metrics.TicketReceived)
	if err := checkTicket(tk); err != nil {
		t.distrust("the gateway", err)
		return
	}
	t.mu.Lock()
	old, have := t.tickets[tk.Address]
	t.keep(tk)
	t.mu.Unlock()
	if have && tk.Expires-old.Expires > int64(time.Hour/time.Second) {
		t.changed() // a new one comes with its node, which is a change anyway
	}
}

// keep puts a ticket into the table. The lock is held.
func (t *nodes) keep(tk tunnel.Ticket) {
	if _, have := t.tickets[tk.Address]; !have && len(t.tickets) >= maxTickets {
		t.pruneTickets()
	}
	t.tickets[tk.Address] = tk
}

// pruneTickets drops the tickets for addresses that no node has. The lock is held.
func (t *nodes) pruneTickets() {
	used := map[string]bool{}
	for _, n := range t.known {
		used[n.address] = true
	}
	maps.DeleteFunc(t.tickets, func(address string, _ tunnel.Ticket) bool { return !used[address] })
}

// recall takes nodes from another memory than our own, whose name is for the
// log: the state file's or, later and newer, the gateway's. It overrides nothing
// that a response has said.
func (t *nodes) recall(whose, cluster string, tickets []tunnel.Ticket) error {
	if err := checkClusterID(cluster); err != nil {
		t.distrust(whose, err)
		return nil
	}
	t.mu.Lock()
	if t.heard && cluster != t.cluster {
		t.mu.Unlock()
		return nil
	}
	t.enter(cluster)
	var errs failures
	for _, tk := range tickets {
		if err := checkTicket(tk); err != nil {
			t.distrust(whose, err)
			continue
		}
		if n, have := t.known[tk.NodeID]; have && !n.recalled || !t.room(tk.NodeID) {
			continue
		}
		t.known[tk.NodeID] = node{id: tk.NodeID, address: tk.Address, recalled: true}
		if len(tk.MAC) > 0 {
			t.keep(tk)
		}
		if err := t.open(tk.NodeID); err != nil {
			errs = append(errs, err)
		}
	}
	t.metrics.SetNodes(slices.Collect(maps.Keys(t.known)))
	t.mu.Unlock()
	if errs != nil {
		return errs
	}
	return nil
}

// enter makes the table one of this cluster, and returns the id of the one
// whose nodes it dropped for that. The lock is held.
func (t *nodes) enter(cluster string) (dropped string) {
	if cluster == "" || cluster == t.cluster {
		return ""
	}
	dropped, t.cluster = t.cluster, cluster
	if dropped != "" {
		t.drops++
		clear(t.known)
		maps.DeleteFunc(t.tickets, func(_ string, tk tunnel.Ticket) bool { return tk.ClusterID == dropped })
	}
	return dropped
}

// route is how to reach a node.
type route struct {
	address string
	ticket  *tunnel.Ticket // nil: there never was one
}

// lookup returns how to reach a node. ok is false where nothing is known of it,
// or not for certain any more, or its ticket has expired.
func (t *nodes) lookup(id int32) (r route, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.known[id]
	if !ok || n.doubted {
		return route{}, false
	}
	r = route{address: n.address}
	if tk, found := t.tickets[n.address]; found {
		r.ticket = &tk
		ok = tk.Expires > time.Now().Unix()
	}
	return r, ok
}

// doubt has the cluster asked for a node before it is dialled again, if what is
// known of it is still this address. Where the node was only not reached, what
// has been heard just now stands: a broker that is merely down is not asked for
// with each attempt of a client.
func (t *nodes) doubt(id int32, address string, refused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, have := t.known[id]; have && n.address == address && (refused || time.Since(n.heard) > doubtAfter) {
		n.doubted = true
		t.known[id] = n
	}
}

// is reports whether the table has this broker at this address.
func (t *nodes) is(b rewrite.Broker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[b.NodeID].address == addressOf(b)
}

// snapshot returns the advertised side, for the state file. Nodes without a
// ticket come with one that has no signature.
func (t *nodes) snapshot() (cluster string, tickets []tunnel.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(t.known)) {
		tk, ok := t.tickets[t.known[id].address]
		if !ok || tk.NodeID != id {
			tk = tunnel.Ticket{ClusterID: t.cluster, NodeID: id, Address: t.known[id].address}
		}
		tickets = append(tickets, tk)
	}
	return t.cluster, tickets
}
