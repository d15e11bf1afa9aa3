package rewrite

import (
	"bytes"
	"strconv"
)

// relayDescribeQuorum passes a DescribeQuorum response v2 with the addresses of
// the controllers hidden: hosts become controller-<node id>.invalid, a name that
// nobody can resolve (RFC 6761), and ports 0. Tools display them, and no client
// of brokers connects to them; so the Directory never hears of them.
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
func relayDescribeQuorum(c *cursor) (Result, error) {
	c.skip(2)
	c.string()
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.string()
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 2)
			c.string()
			c.skip(4 + 4 + 8)
			c.quorumReplicas()
			c.quorumReplicas()
			c.tags()
		}
		c.tags()
	}
	var res Result
	var edits []edit
	for n := c.array(); n > 0 && c.err == nil; n-- {
		nodeID := c.int32()
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.string()
			from := c.at
			c.string()
			c.skip(2)
			with := hiddenController(nodeID)
			if c.err == nil && !bytes.Equal(c.b[from:c.at], with) {
				edits = append(edits, edit{span{from, c.at}, with})
			}
			res.Rewritten++
			c.tags()
		}
		c.tags()
	}
	c.tags()
	if c.end(); c.err != nil {
		return Result{}, c.err
	}
	return res, c.finish(edits)
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

func hiddenController(nodeID int32) []byte {
	b := appendString(nil, "controller-"+strconv.Itoa(int(nodeID))+".invalid", true)
	return append(b, 0, 0)
}
