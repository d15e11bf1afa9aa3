package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// Node ids of listeners that belong to no node.
const (
	bootstrapNode int32 = -1
	deadEndNode   int32 = -2
)

// maxListeners bounds the listeners that responses can make an agent open, one
// for each node on each of its addresses. Each takes a file descriptor, of
// which many systems give a process 4096: half of them are for connections.
const maxListeners = 2048

// maxComplaints bounds the nodes without a listener that the log names one by one.
const maxComplaints = 16

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

// nodeListeners are the listeners of an agent for nodes, each of which is opened
// once and stays while the agent runs.
type nodeListeners struct {
	listens   []Listen
	portBase  int
	overrides map[int32]NodeAddress
	// serve is given each listener that was opened, and its node; it returns at
	// once and ends the listener with the agent.
	serve  func(ln net.Listener, listen int, nodeID int32)
	listen func(network, address string) (net.Listener, error) // net.Listen, but for tests
	log    *slog.Logger
	names  hints.Names

	mu       sync.Mutex
	locals   map[int32][]endpoint // what clients are told, by node id and listen
	deadEnds map[int]endpoint     // by listen
	full     bool                 // maxNodes has been complained about
	named    int                  // nodes without a listener that the log has named
}

func (l *nodeListeners) init() {
	if l.listen == nil {
		l.listen = net.Listen
	}
	l.locals = map[int32][]endpoint{}
	l.deadEnds = map[int]endpoint{}
}

var errTooManyNodes = errors.New("too many nodes have listeners already")

// expect opens listeners of nodes that nothing is known of yet.
func (l *nodeListeners) expect(ids []int32) error {
	for _, id := range ids {
		if err := l.open(id); err != nil {
			return err
		}
	}
	return nil
}

// local returns what stands for a node in responses to clients of a listen: a
// dead end for one that has no listener of its own. ok is false for a node that
// no response has named.
func (l *nodeListeners) local(listen int, id int32) (e endpoint, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.locals[id]; ok {
		return at[listen], true
	}
	e, ok = l.deadEnds[listen]
	return e, ok && id >= 0
}

// open opens the listeners of a node, unless it has. A node whose port cannot
// be had gets an address that this agent holds itself and that closes at once:
// whoever holds the port may be the agent of another cluster. It fails only
// where not even that can be had.
func (l *nodeListeners) open(id int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, have := l.locals[id]; have {
		return nil
	}
	full := len(l.locals) >= min(maxNodes, maxListeners/max(1, len(l.listens)))
	locals := make([]endpoint, len(l.listens))
	for i := range locals {
		e, err := l.openOne(i, id, locals[:i], full)
		if err != nil {
			l.complain(id, err)
			if e, err = l.deadEnd(i); err != nil {
				return err
			}
		}
		locals[i] = e
	}
	if !full {
		l.locals[id] = locals
	}
	return nil
}

// complain says once for each node, and once for all that are too many, what
// keeps clients from it. Beyond maxComplaints, nodes are not named. The lock is
// held.
func (l *nodeListeners) complain(id int32, err error) {
	if errors.Is(err, errTooManyNodes) {
		if l.full {
			return
		}
		l.full = true
	} else if l.named++; l.named > maxComplaints {
		if l.named == maxComplaints+1 {
			l.log.Error("more brokers have no listener, they are not named here")
		}
		return
	}
	l.log.Error("no listener for a broker, its clients cannot reach it", "node_id", id, "err", err,
		"hint", l.names.Sprintf("give it an address of its own with %s %d=HOST:PORT, or all of them another range with %s", hints.NodeAddress, id, hints.BrokerPortBase))
}

// openOne opens the listener of a node for one listen. The lock is held.
func (l *nodeListeners) openOne(listen int, id int32, before []endpoint, full bool) (endpoint, error) {
	if full {
		return endpoint{}, errTooManyNodes
	}
	bind, advertised, err := l.place(listen, id)
	if err != nil {
		return endpoint{}, err
	}
	for i, e := range before { // a --node-address holds for all listens
		if b, _, _ := l.place(i, id); b == bind {
			return e, nil
		}
	}
	ln, err := l.listen("tcp", bind)
	if err != nil {
		return endpoint{}, fmt.Errorf("listen on %s for broker %d: %w", bind, id, plainListenError(err))
	}
	l.serve(ln, listen, id)
	return advertised, nil
}

// place says where a node listens, and what clients are told.
func (l *nodeListeners) place(listen int, id int32) (bind string, advertised endpoint, err error) {
	if o, ok := l.overrides[id]; ok {
		if o.Advertise == "" {
			o.Advertise = o.Bind
		}
		e, err := splitEndpoint(o.Advertise)
		return o.Bind, e, err
	}
	on := l.listens[listen]
	port := int64(l.portBase) + int64(id)
	if port > 65535 {
		return "", endpoint{}, fmt.Errorf("port %d + node id %d is above 65535", l.portBase, id)
	}
	if id < 0 {
		return "", endpoint{}, fmt.Errorf("node id %d is negative", id)
	}
	host, _, err := net.SplitHostPort(on.Bind)
	if err != nil {
		return "", endpoint{}, err
	}
	advertised = endpoint{host: on.Host, port: int32(port)}
	if on.Host == "" {
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

// openDeadEnds has a dead end ready on each listen.
func (l *nodeListeners) openDeadEnds() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.listens {
		if _, err := l.deadEnd(i); err != nil {
			return err
		}
	}
	return nil
}

// deadEnd returns an address on this listen's host that accepts and closes.
// The lock is held.
func (l *nodeListeners) deadEnd(listen int) (endpoint, error) {
	if e, ok := l.deadEnds[listen]; ok {
		return e, nil
	}
	on := l.listens[listen]
	host, _, err := net.SplitHostPort(on.Bind)
	if err != nil {
		return endpoint{}, err
	}
	ln, err := l.listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return endpoint{}, fmt.Errorf("listen for brokers that have no port: %w", plainListenError(err))
	}
	l.serve(ln, listen, deadEndNode)
	e := endpoint{host: on.Host, port: int32(ln.Addr().(*net.TCPAddr).Port)}
	if e.host == "" {
		e.host = host
	}
	l.deadEnds[listen] = e
	return e, nil
}

// plainListenError leaves out the address, which the caller names.
func plainListenError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// ListenError says which address could not be bound.
type ListenError struct {
	Address string
	Err     error
}

func (e *ListenError) Error() string { return fmt.Sprintf("listen on %s: %v", e.Address, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }
