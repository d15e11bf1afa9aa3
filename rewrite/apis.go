package rewrite

import "github.com/culvert-proxy/culvert/protocol"

// Named says which brokers a response names.
type Named uint8

// Whom a response can name.
const (
	Nobody      Named = iota
	EveryNode         // all brokers of the cluster: clients connect to them
	SomeNodes         // some brokers of the cluster: clients connect to them
	Leaders           // the leaders to turn to after an error: a hint (KIP-951), without which clients ask for metadata
	Controllers       // controllers: no client of brokers connects to them
)

// Nodes reports whether these are brokers that clients connect to.
func (n Named) Nodes() bool { return n == EveryNode || n == SomeNodes }

// api is a row of [apis].
type api struct {
	since  int16 // the first version that names anybody
	newest int16 // the newest version that has been reviewed
	names  Named
	how    relayer // nil: the API is withheld, no version is offered or relayed
}

// relayer passes a response with its addresses replaced. c is at the start of its body. It takes
// the cursor by value, as walks do: a pointer would put it on the heap, once for each response.
type relayer interface {
	relay(c cursor, d Directory) (Result, error)
}

// apis has a row for each API whose responses can name brokers or controllers. What is rewritten,
// which versions are offered, what a gateway gives tickets for and what docs/compatibility.md lists
// follow from it. A new API needs its row and its walk here, a golden frame in testdata, and its
// line in that document; tests ask for each of them.
var apis = [protocol.MaxKey + 1]api{
	// since, newest, names, how and by which walk
	protocol.Produce:          {10, 13, Leaders, held{walkProduce, inTag}},
	protocol.Fetch:            {16, 18, Leaders, streamed{walkFetch, inTag}},
	protocol.Metadata:         {0, 13, EveryNode, learnt{walkMetadata, readBehindBrokers}},
	protocol.FindCoordinator:  {0, 6, SomeNodes, learnt{walkFindCoordinator, nil}},
	protocol.DescribeQuorum:   {2, 2, Controllers, hidden(walkDescribeQuorum)},
	protocol.DescribeCluster:  {0, 2, EveryNode, learnt{walkDescribeCluster, nil}},
	protocol.ShareFetch:       {0, 2, Leaders, streamed{walkShareFetch, inArray}},
	protocol.ShareAcknowledge: {0, 2, Leaders, held{walkShareAcknowledge, inArray}},

	// Controllers speak these among themselves. No client sends them.
	52: {1, 2, Controllers, nil}, // Vote
	53: {1, 1, Controllers, nil}, // BeginQuorumEpoch
	54: {1, 1, Controllers, nil}, // EndQuorumEpoch
	58: {0, 0, Controllers, nil}, // Envelope: another response, as bytes
	59: {1, 1, Controllers, nil}, // FetchSnapshot
	82: {0, 0, Controllers, nil}, // UpdateRaftVoter
}

// rowOf returns the row of an API. Without one it is empty, and names nobody.
func rowOf(key protocol.APIKey) api {
	if !key.Known() {
		return api{}
	}
	return apis[key]
}

// NamedBy returns which brokers responses of this version can name to a client.
func NamedBy(key protocol.APIKey, version int16) Named {
	row := rowOf(key)
	if 0 <= version && version < row.since {
		return Nobody
	}
	return row.names
}

// Touches reports whether responses of this version have to go through [Rewriter.Relay]: those with
// addresses to replace, and ApiVersions.
func Touches(key protocol.APIKey, version int16) bool {
	return key == protocol.APIVersions || rowOf(key).how != nil && NamedBy(key, version) != Nobody
}

// walkMetadata walks over the brokers of a Metadata response v0-13 and the cluster id behind them,
// and leaves the topics, which can be many.
//
//	throttle int32 (v3+)
//	[brokers] node int32, host string, port int32, rack string (v1+), TAGS
//	cluster id string (v2+)
func walkMetadata(c cursor) (cursor, found) {
	var f found
	if c.version >= 3 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		f.addresses = c.broker(f.addresses)
		if c.version >= 1 {
			c.string()
		}
		c.tags()
	}
	if c.version >= 2 {
		f.clusterID = string(c.string())
	}
	return c, f
}

// readBehindBrokers reads what walkMetadata leaves.
//
//	controller int32 (v1+)
//	[topics] error int16, name string, id (v10+), internal int8 (v1+)
//	  [partitions] error int16, index int32, leader int32, leader epoch int32 (v7+)
//	    [replicas] int32, [in-sync replicas] int32, [offline replicas] int32 (v5+), TAGS
//	  authorized operations int32 (v8+), TAGS
//	authorized operations int32 (v8-10), error int16 (v13+)
func readBehindBrokers(c cursor) cursor {
	if c.version >= 1 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.errorCode()
		c.string()
		if c.version >= 10 {
			c.skip(16)
		}
		if c.version >= 1 {
			c.skip(1)
		}
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.metadataPartition()
		}
		if c.version >= 8 {
			c.skip(4)
		}
		c.tags()
	}
	if c.version >= 8 && c.version <= 10 {
		c.skip(4)
	}
	if c.version >= 13 {
		c.errorCode()
	}
	return c
}

func (c *cursor) metadataPartition() {
	c.errorCode()
	if c.version >= 7 {
		c.skip(4 + 4 + 4)
	} else {
		c.skip(4 + 4)
	}
	c.numbers(4)
	c.numbers(4)
	if c.version >= 5 {
		c.numbers(4)
	}
	c.tags()
}

// walkFindCoordinator walks over a FindCoordinator response v0-6.
//
//	throttle int32 (v1+)
//	error int16, message string (v1+), node int32, host string, port int32            (v0-3)
//	[coordinators] key string, node int32, host string, port int32, error int16, message string, TAGS   (v4+)
//	TAGS
func walkFindCoordinator(c cursor) (cursor, found) {
	var f found
	if c.version >= 1 {
		c.skip(4)
	}
	if c.version < 4 {
		c.skip(2)
		if c.version >= 1 {
			c.string()
		}
		f.addresses = c.broker(f.addresses)
	} else {
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.string()
			f.addresses = c.broker(f.addresses)
			c.errorCode()
			c.string()
			c.tags()
		}
	}
	c.tags()
	c.end()
	return c, f
}

// controllerEndpoints is the endpoint type of DescribeCluster that an admin client asks controllers
// for (KIP-919). A broker refuses it.
const controllerEndpoints = 2

// walkDescribeCluster walks over a DescribeCluster response v0-2.
//
//	throttle int32, error int16, message string, endpoint type int8 (v1+)
//	cluster id string, controller int32
//	[brokers] node int32, host string, port int32, rack string, fenced int8 (v2+), TAGS
//	authorized operations int32, TAGS
func walkDescribeCluster(c cursor) (cursor, found) {
	var f found
	c.skip(4 + 2)
	c.string()
	if c.version >= 1 {
		if b := c.take(1); len(b) == 1 && b[0] == controllerEndpoints {
			c.fail("it names controllers, whose node ids are not to be taken for brokers'; is a bootstrap address one of a controller?")
			return c, f
		}
	}
	f.clusterID = string(c.string())
	c.skip(4)
	for n := c.array(); n > 0 && c.err == nil; n-- {
		f.addresses = c.broker(f.addresses)
		c.string()
		if c.version >= 2 {
			c.skip(1)
		}
		c.tags()
	}
	c.skip(4)
	c.tags()
	c.end()
	return c, f
}

// walkDescribeQuorum walks over a DescribeQuorum response v2. The addresses that it finds have a
// node id, no host and no port: the port is a uint16.
//
//	error int16, message string
//	[topics] name string
//	  [partitions] index int32, error int16, message string, leader int32, epoch int32, high watermark int64
//	    [voters], [observers], TAGS
//	  TAGS
//	[nodes] node int32
//	  [listeners] name string, host string, port uint16, TAGS
//	  TAGS
//	TAGS
func walkDescribeQuorum(c cursor) (cursor, found) {
	var f found
	c.skip(2)
	c.string()
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.string()
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(4 + 2)
			c.string()
			c.skip(4 + 4 + 8)
			c.quorumReplicas()
			c.quorumReplicas()
			c.tags()
		}
		c.tags()
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		node := Broker{NodeID: c.int32()}
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.string()
			from := c.at
			c.string()
			c.skip(2)
			f.addresses = append(f.addresses, address{node, span{from, c.at}})
			c.tags()
		}
		c.tags()
	}
	c.tags()
	c.end()
	return c, f
}

// quorumReplicas walks over the voters or the observers of a partition.
//
//	[replicas] node int32, directory id, log end offset int64, last fetch int64, last caught up int64, TAGS
func (c *cursor) quorumReplicas() {
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(4 + 16 + 8 + 8 + 8)
		c.tags()
	}
}

// walkProduce walks over a Produce response v0-13, up to its hint (v10+).
//
//	[topics] name string (v0-12) or id (v13+)
//	  [partitions] index int32, error int16, base offset int64, append time int64 (v2+), log start offset int64 (v5+)
//	    [record errors] batch index int32, message string, TAGS   (v8+)
//	    message string (v8+), TAGS
//	  TAGS
//	throttle int32 (v1+), hint
func walkProduce(c cursor) cursor {
	size := 4 + 2 + 8
	if c.version >= 2 {
		size += 8
	}
	if c.version >= 5 {
		size += 8
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.topic(13)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(size)
			if c.version >= 8 {
				c.recordErrors()
				c.string()
			}
			c.tags()
		}
		c.tags()
	}
	if c.version >= 1 {
		c.outcome.SetThrottle(c.int32())
	}
	return c
}

// topic walks over the name of a topic, or its id, which a version has instead.
func (c *cursor) topic(idSince int16) {
	if c.version >= idSince {
		c.skip(16)
	} else {
		c.string()
	}
}

func (c *cursor) recordErrors() {
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(4)
		c.string()
		c.tags()
	}
}

// walkFetch walks over a Fetch response v0-18, up to its hint (v16+).
//
//	throttle int32 (v1+), error int16 (v7+), session int32 (v7+)
//	[topics] name string (v0-12) or id (v13+)
//	  [partitions] index int32, error int16, high watermark int64, last stable offset int64 (v4+), log start offset int64 (v5+)
//	    [aborted] producer id int64, first offset int64, TAGS   (v4+)
//	    preferred read replica int32 (v11+), records bytes, TAGS
//	  TAGS
//	hint
func walkFetch(c cursor) cursor {
	if c.version >= 1 {
		c.skip(4)
	}
	if c.version >= 7 {
		c.skip(2 + 4)
	}
	size := 4 + 2 + 8
	if c.version >= 4 {
		size += 8
	}
	if c.version >= 5 {
		size += 8
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.topic(13)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(size)
			if c.version >= 4 {
				c.abortedTransactions()
			}
			if c.version >= 11 {
				c.skip(4)
			}
			c.records()
			c.tags()
		}
		c.tags()
	}
	return c
}

func (c *cursor) abortedTransactions() {
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(8 + 8)
		c.tags()
	}
}

// walkShareFetch walks over a ShareFetch response v0-2, up to its hint.
//
//	throttle int32, error int16, message string, acquisition lock timeout int32 (v1+)
//	[topics] id
//	  [partitions] index int32, error int16, message string, acknowledge error int16, acknowledge message string
//	    leader {node int32, epoch int32, TAGS}
//	    records bytes
//	    [acquired] first offset int64, last offset int64, delivery count int16, TAGS
//	    TAGS
//	  TAGS
//	hint
func walkShareFetch(c cursor) cursor {
	c.skip(4 + 2)
	c.string()
	if c.version >= 1 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(16)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(4 + 2)
			c.string()
			c.errorCode()
			c.string()
			c.skip(4 + 4)
			c.tags()
			c.records()
			for n := c.array(); n > 0 && c.err == nil; n-- {
				c.skip(8 + 8 + 2)
				c.tags()
			}
			c.tags()
		}
		c.tags()
	}
	return c
}

// walkShareAcknowledge walks over a ShareAcknowledge response v0-2, up to its hint.
//
//	throttle int32, error int16, message string, acquisition lock timeout int32 (v2+)
//	[topics] id
//	  [partitions] index int32, error int16, message string
//	    leader {node int32, epoch int32, TAGS}, TAGS
//	  TAGS
//	hint
func walkShareAcknowledge(c cursor) cursor {
	c.skip(4 + 2)
	c.string()
	if c.version >= 2 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(16)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(4 + 2)
			c.string()
			c.skip(4 + 4)
			c.tags()
			c.tags()
		}
		c.tags()
	}
	return c
}
