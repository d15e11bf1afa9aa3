package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// freshFor is how long after a response named a node a failed dial does not make it stale. A broker
// that is down is still in metadata: without the delay, each attempt of a client would cost a
// request to the cluster, with the same answer.
const freshFor = 5 * time.Second

// node is a broker that a response, a ticket or the state file has named.
type node struct {
	id      int32
	address string // advertised, host:port
	// preloaded is set until a response names the node.
	preloaded bool
	// stale is set by markStale, until a response names the node.
	stale   bool
	namedAt time.Time // when a response named it last
	moves   moves
}

// nodes is the node table of an agent: node id ↔ advertised address ↔ local listener. The
// advertised addresses belong to one cluster at a time and are dropped when another one answers.
// Listeners stay open while the agent runs. Its methods may be called concurrently. Set the first
// fields and call init before use.
type nodes struct {
	nodeListeners
	changed func()     // called without the lock when what snapshot returns has changed
	moved   func(move) // called without the lock when connections to a node's former address must end
	started time.Time

	mu        sync.Mutex // never taken while nodeListeners is locked
	cluster   string     // id of the cluster; "" before the first is known
	confirmed bool       // a response has named the cluster
	drops     int        // how many clusters have been dropped
	known     map[int32]node
	tickets   map[string]tunnel.Ticket // by address
	limiter   logLimiter
}

func (t *nodes) init() {
	t.nodeListeners.init()
	t.started = time.Now()
	t.known = map[int32]node{}
	t.tickets = map[string]tunnel.Ticket{}
}

// count returns how many nodes are known.
func (t *nodes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.known)
}

// epoch returns a number that changes when a cluster is dropped for another one. A connection keeps
// the epoch in which it was opened, to tell which cluster it leads to.
func (t *nodes) epoch() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drops
}

// formerCluster is the error of a connection to a cluster that another one has replaced since.
type formerCluster struct{ former, now string }

func (e formerCluster) Error() string {
	if e.former == "" { // a response without the id of its cluster
		return fmt.Sprintf("cluster %s has answered since this connection was opened", e.now)
	}
	return fmt.Sprintf("cluster %s answers instead of cluster %s, which this connection leads to", e.now, e.former)
}

// learn takes the brokers of one response. epoch is that of the connection on which the response
// came. When learn returns, each broker has a local address, and its listener is open before a
// client can read that address. An invalid broker is skipped and has the placeholder's address; an
// invalid cluster id is an error.
//
// If the cluster id differs from the table's, the table is dropped, and learn returns the old id as
// dropped. A connection from an earlier epoch cannot bring back the old cluster: learn returns
// a formerCluster. now is the epoch after the call.
func (t *nodes) learn(epoch int, cluster string, brokers []rewrite.Broker) (now int, dropped string, err error) {
	if err := checkClusterID(cluster); err != nil {
		return epoch, "", err
	}
	t.mu.Lock()
	if epoch != t.drops && cluster != t.cluster {
		defer t.mu.Unlock()
		return epoch, "", formerCluster{former: cluster, now: t.cluster}
	}
	before := t.cluster
	dropped = t.switchTo(cluster)
	t.confirmed = t.confirmed || cluster != ""
	changed := t.cluster != before
	var moved []move
	for _, b := range slices.SortedStableFunc(slices.Values(brokers), byNodeID) {
		var news bool
		if news, err = t.learnNode(b); err != nil {
			break
		}
		changed = changed || news
		moved = append(moved, t.dueMove(b.NodeID)...)
	}
	if changed {
		t.metrics.SetNodes(slices.Collect(maps.Keys(t.known)))
	}
	now = t.drops
	t.mu.Unlock()
	if changed {
		t.changed()
	}
	for _, m := range moved {
		t.moved(m)
	}
	return now, dropped, err
}

// byNodeID orders the brokers of a response: of two nodes with the same port, the first has it.
func byNodeID(a, b rewrite.Broker) int { return cmp.Compare(a.NodeID, b.NodeID) }

// learnNode takes one broker of a response, and reports whether that changed the table. The caller
// holds mu.
func (t *nodes) learnNode(b rewrite.Broker) (news bool, err error) {
	address := addressOf(b)
	if news = t.known[b.NodeID].address != address; news {
		if err := checkNode(b.NodeID, address); err != nil {
			t.warnInvalid("a broker", err)
			return false, t.openPlaceholders()
		}
	}
	if err := t.open(b.NodeID); err != nil || !t.room(b.NodeID) {
		return false, err
	}
	t.put(node{id: b.NodeID, address: address, namedAt: time.Now()})
	return news, nil
}

// put adds a node to the table, or replaces it. The caller holds mu.
func (t *nodes) put(n node) {
	before := t.known[n.id]
	n.moves = before.moves
	if before.address != "" && before.address != n.address {
		n.moves.note(before.address)
	}
	t.known[n.id] = n
}

// dueMove returns the move of a node if its connections are to be reset now. The caller holds mu.
func (t *nodes) dueMove(id int32) []move {
	n, have := t.known[id]
	if !have || !n.moves.due(time.Now()) {
		return nil
	}
	t.known[id] = n
	return []move{{id, n.moves.former, n.address}}
}

// warnInvalid logs that who, a broker or a memory of nodes, named an invalid node.
func (t *nodes) warnInvalid(who string, why error) {
	t.limiter.warn(t.log, "invalid node ignored", who, "told_by", who, "err", why)
}

// room reports whether the table has the node or space for it. The caller holds mu.
func (t *nodes) room(id int32) bool {
	_, have := t.known[id]
	return have || len(t.known) < maxNodes
}

// addTicket stores a ticket, for dials of its address. It is called while a stream is read.
func (t *nodes) addTicket(tk tunnel.Ticket) {
	t.metrics.Ticket(metrics.TicketReceived)
	if err := checkTicket(tk); err != nil {
		t.warnInvalid("the gateway", err)
		return
	}
	t.mu.Lock()
	old, have := t.tickets[tk.Address]
	t.keep(tk)
	t.mu.Unlock()
	if have && tk.Expires-old.Expires > int64(time.Hour/time.Second) {
		t.changed() // only for a renewed ticket: a new one comes with its node, which is a change too
	}
}

// keep stores a ticket. If there are too many, it first drops those that no node uses. The caller
// holds mu.
func (t *nodes) keep(tk tunnel.Ticket) {
	if _, have := t.tickets[tk.Address]; !have && len(t.tickets) >= maxTickets {
		t.pruneTickets()
	}
	t.tickets[tk.Address] = tk
}

// pruneTickets drops the tickets for addresses that no node has. The caller holds mu.
func (t *nodes) pruneTickets() {
	used := map[string]bool{}
	for _, n := range t.known {
		used[n.address] = true
	}
	maps.DeleteFunc(t.tickets, func(address string, _ tunnel.Ticket) bool { return !used[address] })
}

// preload adds the nodes that the state file or, later, the gateway knows. whose says which, for
// the log. The second call replaces nodes of the first, but neither replaces what a response has
// named. Errors are those of listeners.
func (t *nodes) preload(whose, cluster string, tickets []tunnel.Ticket) error {
	if err := checkClusterID(cluster); err != nil {
		t.warnInvalid(whose, err)
		return nil
	}
	t.mu.Lock()
	if t.confirmed && cluster != t.cluster {
		t.mu.Unlock()
		return nil
	}
	t.switchTo(cluster)
	var errs failures
	for _, tk := range tickets {
		if err := checkTicket(tk); err != nil {
			t.warnInvalid(whose, err)
			continue
		}
		if n, have := t.known[tk.NodeID]; have && !n.preloaded || !t.room(tk.NodeID) {
			continue
		}
		t.put(node{id: tk.NodeID, address: tk.Address, preloaded: true})
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

// switchTo sets the cluster of the table. If the table had another one, it drops that one's nodes
// and tickets and returns its id. The caller holds mu.
func (t *nodes) switchTo(cluster string) (dropped string) {
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
	ticket  *tunnel.Ticket // nil if the agent never got one: a setting of the gateway may allow the address
}

// Why the cluster does not tell where a node is.
var (
	errNeedsCredentials = errors.New("the cluster requires credentials, which only clients have")
	errNoSuchNode       = errors.New("the cluster has no such node")
)

// lookup returns how to reach a node. ok is false if the node is unknown or stale, or if its ticket
// has expired.
func (t *nodes) lookup(id int32) (r route, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.known[id]
	if !ok || n.stale {
		return route{}, false
	}
	r = route{address: n.address}
	if tk, found := t.tickets[n.address]; found {
		r.ticket = &tk
		ok = tk.Expires > time.Now().Unix()
	}
	return r, ok
}

// lastNamed returns when a response named a node last, or when the agent started if that is later.
// ok is false if the node is unknown.
func (t *nodes) lastNamed(id int32) (last time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.known[id]
	if last = n.namedAt; last.Before(t.started) {
		last = t.started
	}
	return last, ok
}

// markStale makes lookup fail for a node until a response names it again, if its address is still
// this one. refused means that the gateway refused the address, and not only that the dial failed:
// then freshFor does not apply.
func (t *nodes) markStale(id int32, address string, refused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, have := t.known[id]; have && n.address == address && (refused || time.Since(n.namedAt) > freshFor) {
		n.stale = true
		t.known[id] = n
	}
}

// isAt reports whether the table has a node with this address.
func (t *nodes) isAt(id int32, address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[id].address == address
}

// show returns the id of the cluster, and its nodes for the status document, without their states.
func (t *nodes) show() (cluster string, nodes map[int32]*document.Node) {
	nodes = map[int32]*document.Node{}
	t.mu.Lock()
	cluster = t.cluster
	for id, n := range t.known {
		nodes[id] = &document.Node{ID: id, Advertised: printable.Text(n.address, printable.Name)}
	}
	t.mu.Unlock()
	t.nodeListeners.show(nodes)
	return cluster, nodes
}

// snapshot returns all nodes as tickets, for the state file. For a node without a ticket it makes
// one up that has no signature. Nodes with a port of their own come first, so that after a restart
// they have it again, and not a node with the same port.
func (t *nodes) snapshot() (cluster string, tickets []tunnel.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := slices.Sorted(maps.Keys(t.known))
	own := slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return !t.hasOwnPorts(id) })
	for _, id := range append(own, slices.DeleteFunc(ids, t.hasOwnPorts)...) {
		tk, ok := t.tickets[t.known[id].address]
		if !ok || tk.NodeID != id {
			tk = tunnel.Ticket{ClusterID: t.cluster, NodeID: id, Address: t.known[id].address}
		}
		tickets = append(tickets, tk)
	}
	return t.cluster, tickets
}
