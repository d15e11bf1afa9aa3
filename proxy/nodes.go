package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// maxNodes bounds the nodes of a cluster that either end remembers. The largest
	// clusters known have some hundreds of brokers.
	maxNodes = 1024
	// maxListeners bounds the listeners that responses can make an agent open, one
	// for each node on each of its addresses. Each takes a file descriptor, of
	// which many systems give a process 4096: half of them are for connections.
	maxListeners = 2048
)

// Node ids of listeners that belong to no node.
const (
	bootstrapNode int32 = -1
	deadEndNode   int32 = -2
)

// maxComplaints bounds the nodes without a listener that the log names one by one.
const maxComplaints = 16

// doubtAfter is how long what a response has said of a node stands, whatever
// happens to dials of it.
const doubtAfter = 5 * time.Second

// maxTickets bounds the tickets kept: a few addresses for each node.
const maxTickets = 4 * maxNodes

// Listen is one bootstrap address of an agent. Each has listeners of its own
// for the brokers, on the same host.
type Listen struct {
	Bind string // host:port to listen on
	Host string // what is written into responses; "" means the host of Bind
}

// NodeAddress places one node elsewhere than the port base says.
type NodeAddress struct {
	Bind      string // host:port to listen on
	Advertise string // host:port that is written into responses; "" means Bind
}

// endpoint is an address as clients are told it.
type endpoint struct {
	host string
	port int32
}

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
	listens   []Listen
	portBase  int
	overrides map[int32]NodeAddress
	// serve is given each listener that was opened, and its node; it returns at
	// once and ends the listener with the agent.
	serve   func(ln net.Listener, listen int, nodeID int32)
	listen  func(network, address string) (net.Listener, error) // net.Listen, but for tests
	metrics *metrics.Metrics
	log     *slog.Logger
	limiter logLimiter
	changed func() // called without the lock when the advertised side changed

	mu       sync.Mutex
	cluster  string
	heard    bool // a response has named the cluster
	drops    int  // how many clusters have been dropped
	known    map[int32]node
	tickets  map[string]tunnel.Ticket // by address
	locals   map[int32][]endpoint     // by node id and listen
	deadEnds map[int]endpoint         // by listen
	full     bool                     // maxNodes has been complained about
	named    int                      // nodes without a listener that the log has named
}

var errTooManyNodes = errors.New("too many nodes have listeners already")

func (t *nodes) init() {
	if t.listen == nil {
		t.listen = net.Listen
	}
	t.known = map[int32]node{}
	t.tickets = map[string]tunnel.Ticket{}
	t.locals = map[int32][]endpoint{}
	t.deadEnds = map[int]endpoint{}
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

// expect opens listeners of nodes that nothing is known of yet.
func (t *nodes) expect(ids []int32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if err := t.open(id); err != nil {
			return err
		}
	}
	return nil
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

// local returns what stands for a node in responses to clients of a listen: a
// dead end for one that has no listener of its own. ok is false for a node that
// no response has named.
func (t *nodes) local(listen int, id int32) (e endpoint, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, ok := t.locals[id]; ok {
		return l[listen], true
	}
	e, ok = t.deadEnds[listen]
	return e, ok && id >= 0
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

// open opens the listeners of a node, unless it has. A node whose port cannot
// be had gets an address that this agent holds itself and that closes at once:
// whoever holds the port may be the agent of another cluster. It fails only
// where not even that can be had. The lock is held.
func (t *nodes) open(id int32) error {
	if _, have := t.locals[id]; have {
		return nil
	}
	full := len(t.locals) >= min(maxNodes, maxListeners/max(1, len(t.listens)))
	locals := make([]endpoint, len(t.listens))
	for i := range locals {
		e, err := t.openOne(i, id, locals[:i], full)
		if err != nil {
			t.complain(id, err)
			if e, err = t.deadEnd(i); err != nil {
				return err
			}
		}
		locals[i] = e
	}
	if !full {
		t.locals[id] = locals
	}
	return nil
}

// complain says once for each node, and once for all that are too many, what
// keeps clients from it. Beyond maxComplaints, nodes are not named.
func (t *nodes) complain(id int32, err error) {
	if errors.Is(err, errTooManyNodes) {
		if t.full {
			return
		}
		t.full = true
	} else if t.named++; t.named > maxComplaints {
		if t.named == maxComplaints+1 {
			t.log.Error("more brokers have no listener, they are not named here")
		}
		return
	}
	t.log.Error("no listener for a broker, its clients cannot reach it", "node_id", id, "err", err,
		"hint", fmt.Sprintf("give it an address of its own with --node-address %d=HOST:PORT, or all of them another range with --broker-port-base", id))
}

// openOne opens the listener of a node for one listen.
func (t *nodes) openOne(listen int, id int32, before []endpoint, full bool) (endpoint, error) {
	if full {
		return endpoint{}, errTooManyNodes
	}
	bind, advertised, err := t.place(listen, id)
	if err != nil {
		return endpoint{}, err
	}
	for i, e := range before { // a --node-address holds for all listens
		if b, _, _ := t.place(i, id); b == bind {
			return e, nil
		}
	}
	ln, err := t.listen("tcp", bind)
	if err != nil {
		return endpoint{}, fmt.Errorf("listen on %s for broker %d: %w", bind, id, plainListenError(err))
	}
	t.serve(ln, listen, id)
	return advertised, nil
}

// place says where a node listens, and what clients are told.
func (t *nodes) place(listen int, id int32) (bind string, advertised endpoint, err error) {
	if o, ok := t.overrides[id]; ok {
		if o.Advertise == "" {
			o.Advertise = o.Bind
		}
		e, err := splitEndpoint(o.Advertise)
		return o.Bind, e, err
	}
	l := t.listens[listen]
	port := int64(t.portBase) + int64(id)
	if port > 65535 {
		return "", endpoint{}, fmt.Errorf("port %d + node id %d is above 65535", t.portBase, id)
	}
	if id < 0 {
		return "", endpoint{}, fmt.Errorf("node id %d is negative", id)
	}
	host, _, err := net.SplitHostPort(l.Bind)
	if err != nil {
		return "", endpoint{}, err
	}
	advertised = endpoint{host: l.Host, port: int32(port)}
	if l.Host == "" {
		advertised.host = host
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10)), advertised, nil
}

func splitEndpoint(address string) (endpoint, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return endpoint{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return endpoint{host, int32(n)}, err
}

// openDeadEnds has a dead end ready on each listen. The lock is held.
func (t *nodes) openDeadEnds() error {
	for i := range t.listens {
		if _, err := t.deadEnd(i); err != nil {
			return err
		}
	}
	return nil
}

// deadEnd returns an address on this listen's host that accepts and closes.
// The lock is held.
func (t *nodes) deadEnd(listen int) (endpoint, error) {
	if e, ok := t.deadEnds[listen]; ok {
		return e, nil
	}
	l := t.listens[listen]
	host, _, err := net.SplitHostPort(l.Bind)
	if err != nil {
		return endpoint{}, err
	}
	ln, err := t.listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return endpoint{}, fmt.Errorf("listen for brokers that have no port: %w", plainListenError(err))
	}
	t.serve(ln, listen, deadEndNode)
	e := endpoint{host: l.Host, port: int32(ln.Addr().(*net.TCPAddr).Port)}
	if e.host == "" {
		e.host = host
	}
	t.deadEnds[listen] = e
	return e, nil
}

// plainListenError leaves out the address, which the caller names.
func plainListenError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
