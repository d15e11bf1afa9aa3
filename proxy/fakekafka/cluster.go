// Package fakekafka runs a Kafka cluster in this process whose brokers
// advertise names that nobody can resolve, as brokers inside a platform do.
// The demo and the tests stand culvert in front of it.
//
// The cluster is kfake's: real protocol, records in memory.
package fakekafka

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Domain is that of the advertised names. The top-level domain invalid never
// resolves (RFC 6761).
const Domain = "kafka.internal.invalid"

// Host is the name that a node advertises.
func Host(nodeID int32) string { return fmt.Sprintf("broker-%d.%s", nodeID, Domain) }

// Cluster is a running cluster. Close ends it.
type Cluster struct {
	*kfake.Cluster
	names *names
}

// Start starts a cluster of n brokers on loopback, with node ids from 0. opts
// may not set ports or a listen function.
func Start(n int, opts ...kfake.Opt) (*Cluster, error) {
	names := &names{}
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(n), kfake.ListenFn(names.listen))...)
	if err != nil {
		return nil, fmt.Errorf("start embedded cluster: %w", err)
	}
	return &Cluster{c, names}, nil
}

// Add starts one more broker.
func (c *Cluster) Add(nodeID int32) error {
	c.names.expect(nodeID)
	_, _, err := c.AddNode(nodeID, 0)
	return err
}

// Bootstrap returns where the brokers really listen, as host:port.
func (c *Cluster) Bootstrap() []string { return c.names.bound() }

// Resolver resolves the advertised names, to loopback: what stands beside the
// brokers can, and nobody else.
func (c *Cluster) Resolver() Resolver { return Resolver{} }

// Resolver knows the names of [Domain] alone.
type Resolver struct{}

// LookupNetIP implements the proxy's Resolver.
func (Resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if strings.HasSuffix(host, "."+Domain) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// names gives each listener of kfake the name that it shall advertise: kfake
// advertises whatever the listener's Addr prints.
type names struct {
	mu        sync.Mutex
	next      int32
	listeners []net.Listener
}

func (n *names) expect(nodeID int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next = nodeID
}

func (n *names) listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	host := Host(n.next)
	n.next++
	n.listeners = append(n.listeners, ln)
	return named{ln, name{host, ln.Addr().(*net.TCPAddr).Port}}, nil
}

func (n *names) bound() (addresses []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ln := range n.listeners {
		addresses = append(addresses, ln.Addr().String())
	}
	return addresses
}

type named struct {
	net.Listener
	addr name
}

func (n named) Addr() net.Addr { return n.addr }

type name struct {
	host string
	port int
}

func (n name) Network() string { return "tcp" }
func (n name) String() string  { return net.JoinHostPort(n.host, strconv.Itoa(n.port)) }
