package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Node ids of listeners that belong to no node. Kafka's own are not negative.
const (
	bootstrapNode   int32 = -1
	placeholderNode int32 = -2
)

const (
	// maxListeners bounds the listeners that responses can make an agent open: one for each node on
	// each bootstrap address. Each takes a file descriptor. Many systems allow a process 4096, and
	// connections need the other half.
	maxListeners = 2048
	// maxSparePorts bounds the listeners beside these that stand in for some of them.
	maxSparePorts = 64
	// maxLogged bounds the nodes without their own listener that are logged one by one. A hostile
	// broker could name thousands.
	maxLogged = 16
)

// A port that another process has is tried again after firstRebind, then after twice as long each
// time.
const (
	firstRebind = time.Second
	lastRebind  = 30 * time.Second
)

// nodeListeners opens an agent's listeners for nodes. Each is opened once, when a node is named
// first, and stays open while the agent runs: clients keep an address for long. It gives each
// listener to serve, which owns and closes it. Call init before use.
type nodeListeners struct {
	NodePorts
	// serve is called with each new listener. It must not block, and closes the listener when the
	// agent ends.
	serve   func(ln net.Listener, listen int, nodeID int32)
	named   func(nodeID int32)                                  // called for each new node, with Names; must not block
	listen  func(network, address string) (net.Listener, error) // net.Listen, but for tests
	log     *slog.Logger
	names   hints.Names
	metrics *metrics.Metrics
	missed  chan struct{} // of capacity 1: holds an element when another port is missing

	mu           sync.Mutex
	opened       map[int32][]*nodeListener // by node id and then index of Listens
	holders      map[string]int32          // which node has a port, by the address to listen on
	placeholders map[int]endpoint          // by index of Listens
	sparePorts   int                       // how many are open
	fullLogged   bool                      // errTooManyNodes has been logged
	logged       int                       // how many nodes without their own listener have been logged
}

// nodeListener is the listener of a node for the clients of one bootstrap address. While its own
// port cannot be bound, something else stands in for it: a spare port that leads to the same node
// or, where clients could not reach that, a placeholder.
type nodeListener struct {
	id     int32
	listen int
	bind   string   // its own address
	own    endpoint // what clients are told when it listens there
	told   endpoint // what clients are told now
	spare  bool     // told is a spare port

	missing  error     // why it does not listen at its own address; nil if it does
	since    time.Time // when it was missed first
	failures int
	retry    time.Time // when to try again; zero: never
}

func (l *nodeListeners) init() {
	if l.listen == nil {
		l.listen = net.Listen
	}
	l.missed = make(chan struct{}, 1)
	l.mu.Lock() // NodeListeners may be called already
	defer l.mu.Unlock()
	l.opened = map[int32][]*nodeListener{}
	l.holders = map[string]int32{}
	l.placeholders = map[int]endpoint{}
}

var errTooManyNodes = errors.New("too many nodes have listeners already")

// tellPorts has clients told the ports that the system has chosen for bootstrap addresses, with
// Names.
func (l *nodeListeners) tellPorts(bootstrap []net.Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Listens = slices.Clone(l.Listens)
	for i, ln := range bootstrap {
		if address, ok := ln.Addr().(*net.TCPAddr); ok && l.Listens[i].Port == 0 {
			l.Listens[i].Port = int32(address.Port)
		}
	}
}

// expect opens the listeners of nodes that no response has named yet.
func (l *nodeListeners) expect(ids []int32) error {
	for _, id := range ids {
		if err := l.open(id); err != nil {
			return err
		}
	}
	return nil
}

// local returns the address to write for a node into responses to clients of a bootstrap address. A
// node without a listener has the placeholder's. ok is false if there is neither.
func (l *nodeListeners) local(listen int, id int32) (e endpoint, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.Names.IsZero() {
		_, e, err := l.place(listen, id)
		return e, err == nil
	}
	if opened, ok := l.opened[id]; ok {
		return opened[listen].told, true
	}
	e, ok = l.placeholders[listen]
	return e, ok && id >= 0
}

// open opens the listeners of a node, unless they are open. If its own port cannot be bound, the
// node's clients are told another address of this agent. The node's own port must not be written
// into a response, since the process that has it may be the agent of another cluster. open returns
// an error only if that other address cannot be opened either.
func (l *nodeListeners) open(id int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, have := l.opened[id]; have {
		return nil
	}
	if len(l.opened) >= l.most() {
		l.logTooMany()
		return l.allPlaceholders()
	}
	var opened []*nodeListener
	for i := range l.Listens {
		n, err := l.openOne(i, id, opened)
		if err != nil {
			return err
		}
		opened = append(opened, n)
	}
	l.opened[id] = opened
	if !l.Names.IsZero() {
		l.named(id)
	}
	l.metrics.SetNodesWithoutPort(l.countMissing())
	return nil
}

// most is how many nodes may have listeners.
func (l *nodeListeners) most() int {
	if !l.Names.IsZero() {
		return maxNodes
	}
	return min(maxNodes, maxListeners/max(1, len(l.Listens)))
}

// openOne opens the listener of a node for one bootstrap address. before are its listeners for the
// earlier ones. The caller holds mu.
func (l *nodeListeners) openOne(listen int, id int32, before []*nodeListener) (*nodeListener, error) {
	bind, own, err := l.place(listen, id)
	for _, n := range before { // an exception is the same for all bootstrap addresses
		if n.bind == bind {
			return n, nil
		}
	}
	n := &nodeListener{id: id, listen: listen, bind: bind, own: own, told: own}
	if !l.Names.IsZero() { // the bootstrap listener is that of all nodes
		return n, err
	}
	if err == nil {
		err = l.hold(n)
	}
	if err != nil {
		return n, l.miss(n, err)
	}
	if err := l.bindOwn(n); err != nil {
		l.tryAgain(n, time.Now())
		return n, l.miss(n, err)
	}
	return n, nil
}

// hold keeps a port for a node, whether it can be bound now or later. It returns an error if
// another node has it. The caller holds mu.
func (l *nodeListeners) hold(n *nodeListener) error {
	if holder, taken := l.holders[n.bind]; taken && holder != n.id && !anyPort(n.bind) {
		return &PortConflictError{n.bind, n.id, holder}
	}
	l.holders[n.bind] = n.id
	return nil
}

// bindOwn opens a node's listener at its own address. The caller holds mu.
func (l *nodeListeners) bindOwn(n *nodeListener) error {
	ln, err := l.listen("tcp", n.bind)
	if err != nil {
		return fmt.Errorf("listen on %s for broker %d: %w", n.bind, n.id, plainListenError(err))
	}
	l.serve(ln, n.listen, n.id)
	return nil
}

// tryAgain has rebind try a port again. The caller holds mu.
func (l *nodeListeners) tryAgain(n *nodeListener, now time.Time) {
	n.retry = now.Add(backoff.Delay(n.failures, firstRebind, lastRebind))
	n.failures++
	select {
	case l.missed <- struct{}{}:
	default:
	}
}

// miss has something else stand in for a listener that could not be opened. The caller holds mu.
func (l *nodeListeners) miss(n *nodeListener, why error) (err error) {
	n.missing, n.since = why, time.Now()
	if n.told, n.spare = l.sparePort(n); !n.spare {
		n.told, err = l.placeholder(n.listen)
	}
	l.logMissing(n)
	return err
}

// sparePort opens a listener for the node at any free port. ok is false if there can be none. The
// caller holds mu.
func (l *nodeListeners) sparePort(n *nodeListener) (e endpoint, ok bool) {
	host, ok := spareHost(n.bind, n.own)
	if !ok || l.sparePorts >= maxSparePorts {
		return endpoint{}, false
	}
	ln, err := l.listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return endpoint{}, false
	}
	l.sparePorts++
	l.serve(ln, n.listen, n.id)
	return endpoint{n.own.host, int32(ln.Addr().(*net.TCPAddr).Port)}, true
}

// rebind tries to bind the ports that are missing, until ctx is done.
func (l *nodeListeners) rebind(ctx context.Context) {
	for {
		var due <-chan time.Time // nil: nothing to try again
		if next := l.rebindDue(time.Now()); !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-l.missed:
		}
	}
}

// rebindDue tries those ports whose time has come. next is when the next one is due; zero if none
// is missing.
func (l *nodeListeners) rebindDue(now time.Time) (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, opened := range l.opened {
		for _, n := range opened {
			if !n.retry.IsZero() && !n.retry.After(now) {
				l.rebindOne(n, now)
			}
			if !n.retry.IsZero() && (next.IsZero() || n.retry.Before(next)) {
				next = n.retry
			}
		}
	}
	l.metrics.SetNodesWithoutPort(l.countMissing())
	return next
}

// rebindOne tries to bind a port again. Clients that were told the spare port go on using it: its
// listener stays open. The caller holds mu.
func (l *nodeListeners) rebindOne(n *nodeListener, now time.Time) {
	if err := l.bindOwn(n); err != nil {
		n.missing = err
		l.tryAgain(n, now)
		return
	}
	l.log.Info("broker has its own port again, clients are told it from now on", "node_id", n.id, "listener", n.bind,
		"after", now.Sub(n.since).Round(time.Second).String())
	n.told, n.spare, n.missing, n.retry = n.own, false, nil, time.Time{}
}

// countMissing returns how many nodes lack a listener of their own. The caller holds mu.
func (l *nodeListeners) countMissing() (count int) {
	for _, opened := range l.opened {
		if slices.ContainsFunc(opened, func(n *nodeListener) bool { return n.missing != nil }) {
			count++
		}
	}
	return count
}

// hasOwnPorts reports whether a node has all its own listeners.
func (l *nodeListeners) hasOwnPorts(id int32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(l.opened[id], func(n *nodeListener) bool { return n.missing != nil })
}

// NodeListener is where clients of one bootstrap address reach a node.
type NodeListener struct {
	NodeID  int32
	Listen  int    // index of the agent's bootstrap addresses
	Address string // that clients are told
	// Err is why that is not the node's own address; nil if it is. The agent tries again unless it
	// is a [PortConflictError].
	Err error
	// DeadEnd is set if the agent closes every connection to Address. Otherwise Address leads to
	// the node, on a spare port if Err is set.
	DeadEnd bool
}

// all returns the listeners, by node id and bootstrap address.
func (l *nodeListeners) all() (all []NodeListener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(l.opened)) {
		for i, n := range l.opened[id] {
			all = append(all, NodeListener{id, i, n.told.String(), n.missing, n.missing != nil && !n.spare})
		}
	}
	return all
}

// show adds to nodes of the status document where clients reach them.
func (l *nodeListeners) show(nodes map[int32]*document.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, opened := range l.opened {
		n := nodes[id]
		if n == nil {
			n = &document.Node{ID: id}
			nodes[id] = n
		}
		for _, one := range opened {
			n.Local = append(n.Local, one.told.String())
			n.SparePort = n.SparePort || one.missing != nil && one.spare
			n.NoPort = n.NoPort || one.missing != nil && !one.spare
		}
	}
}

// logMissing logs why a node has no listener of its own, once for each of the first maxLogged. The
// caller holds mu.
func (l *nodeListeners) logMissing(n *nodeListener) {
	if l.logged++; l.logged > maxLogged {
		if l.logged == maxLogged+1 {
			l.log.Error("more brokers have no listener of their own and are not listed here")
		}
		return
	}
	if n.spare {
		l.log.Warn("a broker's own port cannot be used, clients are told a spare one", "node_id", n.id, "listener", n.told.String(),
			"err", n.missing, "hint", l.remedy(n))
		return
	}
	l.log.Error("no listener for a broker, clients cannot reach it", "node_id", n.id, "err", n.missing, "hint", l.remedy(n))
}

// remedy says what helps a node without a listener of its own. If another node has the port,
// another range does not help. The caller holds mu.
func (l *nodeListeners) remedy(n *nodeListener) string {
	host, _, _ := net.SplitHostPort(n.bind)
	remedy := l.names.Sprintf("give this broker its own address with %s %d=%s", hints.NodeAddress, n.id, net.JoinHostPort(host, "PORT"))
	if !n.retry.IsZero() {
		remedy += l.names.Sprintf(", or move all brokers to another port range with %s; the agent keeps trying the port", hints.BrokerPortBase)
	}
	if !n.spare {
		remedy += "; only clients on loopback addresses can be given a spare port"
	}
	return remedy
}

// logTooMany logs once that some nodes have no listener because there are too many. The caller
// holds mu.
func (l *nodeListeners) logTooMany() {
	if !l.fullLogged {
		l.fullLogged = true
		l.log.Error("no listener for some brokers, clients cannot reach them", "err", errTooManyNodes)
	}
}

// openPlaceholders opens the placeholder of each bootstrap address.
func (l *nodeListeners) openPlaceholders() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allPlaceholders()
}

// allPlaceholders is openPlaceholders for a caller that holds mu.
func (l *nodeListeners) allPlaceholders() error {
	if !l.Names.IsZero() {
		return nil // the name of a node that is not known is refused
	}
	for i := range l.Listens {
		if _, err := l.placeholder(i); err != nil {
			return err
		}
	}
	return nil
}

// placeholder returns an address, on the host of a bootstrap address, whose listener closes
// connections at once. Its port is any free one. The caller holds mu.
func (l *nodeListeners) placeholder(listen int) (endpoint, error) {
	if e, ok := l.placeholders[listen]; ok {
		return e, nil
	}
	on := l.Listens[listen]
	host, _, err := net.SplitHostPort(on.Bind)
	if err != nil {
		return endpoint{}, err
	}
	ln, err := l.listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return endpoint{}, fmt.Errorf("listen for brokers without a port of their own: %w", plainListenError(err))
	}
	l.serve(ln, listen, placeholderNode)
	e := endpoint{host: on.Host, port: int32(ln.Addr().(*net.TCPAddr).Port)}
	if e.host == "" {
		e.host = host
	}
	l.placeholders[listen] = e
	return e, nil
}

// plainListenError removes the address from err. The caller adds it in its own words.
func plainListenError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// ListenError is returned by [Agent.Run] if a bootstrap address, or that of a forward, cannot be
// bound.
type ListenError struct {
	Address string
	Forward string // its name; "": it is a bootstrap address
	Err     error
}

func (e *ListenError) Error() string { return fmt.Sprintf("listen on %s: %v", e.Address, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }
