package rewrite

import (
	"encoding/binary"
	"fmt"

	"github.com/culvert-proxy/culvert/protocol"
)

// An address is a broker's, and where its host and port, which always follow
// each other, stand in a response.
type address struct {
	Broker
	span
}

// broker reads node int32, host string, port int32, and appends the address to
// those before it. Without a host there is none: the answer to an unknown
// coordinator is node -1, host "", port -1.
func (c *cursor) broker(before []address) []address {
	b := Broker{NodeID: c.int32()}
	from := c.at
	b.Host = string(c.string())
	b.Port = c.int32()
	if b.Host == "" {
		return before
	}
	return append(before, address{b, span{from, c.at}})
}

// replace returns the edit that puts another address in the place of a.
func (c *cursor) replace(a address, host string, port int32) edit {
	with := appendString(make([]byte, 0, len(host)+9), host, c.flexible)
	return edit{a.span, binary.BigEndian.AppendUint32(with, uint32(port))}
}

// names is what a response says of the cluster's brokers.
type names struct {
	clusterID string
	addresses []address
}

func (n names) brokers() []Broker {
	var brokers []Broker
	for _, a := range n.addresses {
		if a.NodeID >= 0 {
			brokers = append(brokers, a.Broker)
		}
	}
	return brokers
}

// relayBrokers passes a response that names brokers to connect to.
func (w *Rewriter) relayBrokers(c *cursor, r response) (Result, error) {
	n, err := c.walkBrokers(r)
	if err != nil {
		return Result{}, err
	}
	if err := w.Directory.Learn(n.clusterID, n.brokers()); err != nil {
		return Result{}, fmt.Errorf("learn the brokers of %s: %w", r, err)
	}
	edits, missing := w.edits(c, n.addresses)
	if missing >= 0 {
		b := n.addresses[missing]
		return Result{}, fmt.Errorf("rewrite %s: no local address for broker %d at %.255s:%d", r, b.NodeID, b.Host, b.Port)
	}
	return Result{Rewritten: len(n.addresses)}, c.finish(edits)
}

// edits replaces the addresses by those of the Directory; those that stay the
// same need no edit. missing is the first that the Directory lacks, or -1.
func (w *Rewriter) edits(c *cursor, addresses []address) (edits []edit, missing int) {
	for i, a := range addresses {
		host, port, ok := w.Directory.Local(a.Broker)
		if !ok {
			return nil, i
		}
		if host != a.Host || port != a.Port {
			edits = append(edits, c.replace(a, host, port))
		}
	}
	return edits, -1
}

// walkBrokers walks over as much of a response as names brokers.
func (c *cursor) walkBrokers(r response) (names, error) {
	var n names
	switch r.key {
	case protocol.Metadata:
		n = c.metadata(r.version)
	case protocol.FindCoordinator:
		n = c.findCoordinator(r.version)
	case protocol.DescribeCluster:
		n = c.describeCluster(r.version)
	default:
		c.fail("names no brokers")
	}
	return n, c.err
}

// metadata walks over the brokers of a Metadata response v0-13 and the cluster
// id behind them. The topics, which can be many, are left to stream.
//
//	throttle int32 (v3+)
//	[brokers] node int32, host string, port int32, rack string (v1+), TAGS
//	cluster id string (v2+)
func (c *cursor) metadata(version int16) (found names) {
	if version >= 3 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		found.addresses = c.broker(found.addresses)
		if version >= 1 {
			c.string()
		}
		c.tags()
	}
	if version >= 2 {
		found.clusterID = string(c.string())
	}
	return found
}

// findCoordinator walks over a FindCoordinator response v0-6.
//
//	throttle int32 (v1+)
//	error int16, message string (v1+), node int32, host string, port int32            (v0-3)
//	[coordinators] key string, node int32, host string, port int32, error int16, message string, TAGS   (v4+)
//	TAGS
func (c *cursor) findCoordinator(version int16) (found names) {
	if version >= 1 {
		c.skip(4)
	}
	if version < 4 {
		c.skip(2)
		if version >= 1 {
			c.string()
		}
		found.addresses = c.broker(found.addresses)
	} else {
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.string()
			found.addresses = c.broker(found.addresses)
			c.skip(2)
			c.string()
			c.tags()
		}
	}
	c.tags()
	c.end()
	return found
}

// controllerEndpoints is the endpoint type of DescribeCluster that an admin
// client asks controllers for (KIP-919). A broker refuses it.
const controllerEndpoints = 2

// describeCluster walks over a DescribeCluster response v0-2.
//
//	throttle int32, error int16, message string, endpoint type int8 (v1+)
//	cluster id string, controller int32
//	[brokers] node int32, host string, port int32, rack string, fenced int8 (v2+), TAGS
//	authorized operations int32, TAGS
func (c *cursor) describeCluster(version int16) (found names) {
	c.skip(4 + 2)
	c.string()
	if version >= 1 {
		if b := c.take(1); len(b) == 1 && b[0] == controllerEndpoints {
			c.fail("it names controllers, whose node ids are not to be taken for brokers'; is a bootstrap address one of a controller?")
			return found
		}
	}
	found.clusterID = string(c.string())
	c.skip(4)
	for n := c.array(); n > 0 && c.err == nil; n-- {
		found.addresses = c.broker(found.addresses)
		c.string()
		if version >= 2 {
			c.skip(1)
		}
		c.tags()
	}
	c.skip(4)
	c.tags()
	c.end()
	return found
}
