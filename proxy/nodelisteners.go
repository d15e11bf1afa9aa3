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

// Node ids of listeners that belong to no node. Kafka's own are not negative.
const (
	bootstrapNode   int32 = -1
	placeholderNode int32 = -2
)

// maxListeners bounds the listeners that responses can make an agent open: one for each node on
// each bootstrap address. Each takes a file descriptor. Many systems allow a process 4096, and
// connections need the other half.
const maxListeners = 2048

// maxLogged bounds the nodes without a listener that are logged one by one. A hostile broker could
// name thousands.
const maxLogged = 16

// Listen is one bootstrap address of an agent. Each has its own listeners for the brokers, on the
// same host.
type Listen struct {
	Bind string // host:port to listen on
	Host string // to write into responses; "" means the host of Bind
}

// NodeAddress is the address of one node, where the port base does not fit.
type NodeAddress struct {
	Bind      string // host:port to listen on
	Advertise string // host:port to write into responses; "" means Bind
}

// endpoint is an address in a response to a client.
type endpoint struct {
	host string
	port int32
}

// nodeListeners opens an agent's listeners for nodes. Each is opened once, when a node is named
// first, and stays open while the agent runs: clients keep an address for long. It gives each
// listener to serve, which owns and closes it. Call init before use.
type nodeListeners struct {
	listens   []Listen
	portBase  int
	overrides map[int32]NodeAddress
	// serve is called with each new listener. It must not block, and closes the listener when the
	// agent ends.
	serve  func(ln net.Listener, listen int, nodeID int32)
	listen func(network, address string) (net.Listener, error) // net.Listen, but for tests
	log    *slog.Logger
	names  hints.Names

	mu           sync.Mutex
	locals       map[int32][]endpoint // what clients are told, by node id and then index of listens
	placeholders map[int]endpoint     // by index of listens
	fullLogged   bool                 // errTooManyNodes has been logged
	logged       int                  // how many nodes without a listener have been logged
}

func (l *nodeListeners) init() {
	if l.listen == nil {
		l.listen = net.Listen
	}
	l.locals = map[int32][]endpoint{}
	l.placeholders = map[int]endpoint{}
}

var errTooManyNodes = errors.New("too many nodes have listeners already")

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
// node without a listener of its own has the placeholder's. ok is false if there is neither.
func (l *nodeListeners) local(listen int, id int32) (e endpoint, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.locals[id]; ok {
		return at[listen], true
	}
	e, ok = l.placeholders[listen]
	return e, ok && id >= 0
}

// open opens the listeners of a node, unless they are open. If a port cannot be bound, the node
// gets the placeholder instead: an address of this agent that closes connections at once. The
// node's own port must not be written into a response, since the process that has it may be the
// agent of another cluster. open returns an error only if the placeholder cannot be opened.
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
			l.logMissing(id, err)
			if e, err = l.placeholder(i); err != nil {
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

// logMissing logs why a node has no listener, once for each of the first maxLogged nodes and once
// for all nodes that are too many. The caller holds mu.
func (l *nodeListeners) logMissing(id int32, err error) {
	if errors.Is(err, errTooManyNodes) {
		if l.fullLogged {
			return
		}
		l.fullLogged = true
	} else if l.logged++; l.logged > maxLogged {
		if l.logged == maxLogged+1 {
			l.log.Error("more brokers have no listener and are not listed here")
		}
		return
	}
	l.log.Error("no listener for a broker, clients cannot reach it", "node_id", id, "err", err,
		"hint", l.names.Sprintf("give this broker its own address with %s %d=HOST:PORT, or move all brokers to another port range with %s", hints.NodeAddress, id, hints.BrokerPortBase))
}

// openOne opens the listener of a node for one bootstrap address. before are the node's addresses
// for the earlier ones. The caller holds mu.
func (l *nodeListeners) openOne(listen int, id int32, before []endpoint, full bool) (endpoint, error) {
	if full {
		return endpoint{}, errTooManyNodes
	}
	bind, advertised, err := l.place(listen, id)
	if err != nil {
		return endpoint{}, err
	}
	for i, e := range before { // a NodeAddress is the same for all bootstrap addresses
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

// place returns where to listen for a node, and what to write into responses.
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

// openPlaceholders opens the placeholder of each bootstrap address.
func (l *nodeListeners) openPlaceholders() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.listens {
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
	on := l.listens[listen]
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

// ListenError is returned by [Agent.Run] if a bootstrap address cannot be bound.
type ListenError struct {
	Address string
	Err     error
}

func (e *ListenError) Error() string { return fmt.Sprintf("listen on %s: %v", e.Address, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }
