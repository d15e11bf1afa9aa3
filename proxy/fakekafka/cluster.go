// Package fakekafka runs a Kafka cluster in this process, for the demo and for tests. Its brokers
// advertise host names that no DNS server resolves, as brokers inside a platform do, so clients
// reach them only through culvert.
//
// The cluster is kfake's: it speaks the real protocol and keeps records in memory.
package fakekafka

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Domain is the domain of the advertised host names. The top-level domain invalid never resolves
// (RFC 6761 section 6.4).
const Domain = "kafka.internal.invalid"

// Host returns the host name that a node advertises.
func Host(nodeID int32) string { return fmt.Sprintf("broker-%d.%s", nodeID, Domain) }

// Cluster is a running cluster. Its owner calls Close, which ends all brokers.
type Cluster struct {
	*kfake.Cluster
	names *names
}

// Start starts a cluster of n brokers on loopback, with node ids from 0. opts must not set a listen
// function.
func Start(n int, opts ...kfake.Opt) (*Cluster, error) {
	names := &names{}
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(n), kfake.ListenFn(names.listen))...)
	if err != nil {
		return nil, fmt.Errorf("start embedded cluster: %w", err)
	}
	return &Cluster{c, names}, nil
}

// Add starts one more broker.
func (c *Cluster) Add(nodeID int32) error { return c.add(nodeID, Host(nodeID), 0) }

// AddAt starts one more broker, which advertises address, a host:port, and listens on that port of
// loopback.
func (c *Cluster) AddAt(nodeID int32, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	return c.add(nodeID, host, int(n))
}

func (c *Cluster) add(nodeID int32, host string, port int) error {
	c.names.expect(host)
	_, _, err := c.AddNode(nodeID, port)
	return err
}

// Bootstrap returns where the brokers really listen, as host:port.
func (c *Cluster) Bootstrap() []string { return c.names.bound() }

// Resolver returns the resolver of a process beside the brokers: it resolves the advertised names,
// to loopback.
func (c *Cluster) Resolver() Resolver { return Resolver{} }

// Resolver resolves the names in [Domain], and no others.
type Resolver struct{}

// LookupNetIP implements the proxy's Resolver.
func (Resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if strings.HasSuffix(host, "."+Domain) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// names makes kfake's listeners, each with the host name to advertise: kfake advertises what a
// listener's Addr prints.
type names struct {
	mu        sync.Mutex
	next      int32  // node id of the next listener, if expected is ""
	expected  string // host of the next listener
	listeners []net.Listener
}

func (n *names) expect(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = host
}

func (n *names) listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	host := n.expected
	if host == "" {
		host = Host(n.next)
		n.next++
	}
	n.expected = ""
	n.listeners = append(n.listeners, ln)
	return &named{Listener: ln, addr: name{host, ln.Addr().(*net.TCPAddr).Port}, names: n, conns: map[net.Conn]struct{}{}}, nil
}

func (n *names) forget(ln net.Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = slices.DeleteFunc(n.listeners, func(l net.Listener) bool { return l == ln })
}

func (n *names) bound() (addresses []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ln := range n.listeners {
		addresses = append(addresses, ln.Addr().String())
	}
	return addresses
}

// named is the listener of one broker. Close also closes the broker's connections, as a broker that
// stops does. kfake alone would leave them open, and never answer.
type named struct {
	net.Listener
	addr  name
	names *names

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func (n *named) Addr() net.Addr { return n.addr }

func (n *named) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
	}
	n.conns[c] = struct{}{}
	return &accepted{c, n}, nil
}

func (n *named) Close() error {
	n.names.forget(n.Listener)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for c := range n.conns {
		c.Close()
	}
	return n.Listener.Close()
}

// accepted is a connection of a listener, which forgets it on Close.
type accepted struct {
	net.Conn
	of *named
}

func (a *accepted) Close() error {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	delete(a.of.conns, a.Conn)
	return a.Conn.Close()
}

// name is the [net.Addr] that kfake advertises.
type name struct {
	host string
	port int
}

func (n name) Network() string { return "tcp" }
func (n name) String() string  { return net.JoinHostPort(n.host, strconv.Itoa(n.port)) }
