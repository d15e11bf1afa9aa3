package rewrite

import "github.com/culvert-proxy/culvert/protocol"

// Pass passes the response that is next in f, unchanged, and reads the errors in it as it passes.
// size counts the length in front. What it cannot decode it passes all the same.
func Pass(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (protocol.Outcome, error) {
	if !key.Known() || errorWalks[key] == nil || !reviewed.Allow(key, version) {
		return protocol.Outcome{}, f.PassThrough(size)
	}
	c := newCursor(f, size, response{key: key, version: version})
	c.reading()
	c.header()
	return passRest(errorWalks[key](c), size)
}

// API keys whose responses name nobody.
const (
	listOffsets     protocol.APIKey = 2
	offsetCommit    protocol.APIKey = 8
	offsetFetch     protocol.APIKey = 9
	txnOffsetCommit protocol.APIKey = 28
)

// errorWalks read the errors of topics, partitions and groups. Those of other APIs are not read, but
// for what [protocol.PeekOutcome] reads.
var errorWalks = [protocol.MaxKey + 1]func(cursor) cursor{
	protocol.Produce:          walkProduce,
	protocol.Fetch:            walkFetch,
	listOffsets:               readListOffsets,
	protocol.Metadata:         readMetadata,
	offsetCommit:              readOffsetCommit,
	offsetFetch:               readOffsetFetch,
	protocol.FindCoordinator:  readFindCoordinator,
	txnOffsetCommit:           readOffsetCommit,
	protocol.ShareFetch:       walkShareFetch,
	protocol.ShareAcknowledge: walkShareAcknowledge,
}

// readListOffsets reads a ListOffsets response v0-11.
//
//	throttle int32 (v2+)
//	[topics] name string
//	  [partitions] index int32, error int16, [offsets] int64 (v0)
//	    timestamp int64 (v1+), offset int64 (v1+), leader epoch int32 (v4+), TAGS
//	  TAGS
func readListOffsets(c cursor) cursor {
	if c.version >= 2 {
		c.skip(4)
	}
	size := 4 + 2
	if c.version >= 1 {
		size += 8 + 8
	}
	if c.version >= 4 {
		size += 4
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.string()
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(size)
			if c.version == 0 {
				c.numbers(8)
			}
			c.tags()
		}
		c.tags()
	}
	return c
}

// readMetadata reads a Metadata response v0-13. Its first part is that of walkMetadata.
func readMetadata(c cursor) cursor {
	if c.version >= 3 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(4)
		c.string()
		c.skip(4)
		if c.version >= 1 {
			c.string()
		}
		c.tags()
	}
	if c.version >= 2 {
		c.string()
	}
	return readBehindBrokers(c)
}

// readOffsetCommit reads an OffsetCommit response v0-10, or a TxnOffsetCommit response v0-6.
//
//	throttle int32 (v3+ of OffsetCommit)
//	[topics] name string, or id (v10+ of OffsetCommit, v6+ of TxnOffsetCommit)
//	  [partitions] index int32, error int16, TAGS
//	  TAGS
func readOffsetCommit(c cursor) cursor {
	idSince := int16(10)
	if c.key == txnOffsetCommit {
		idSince = 6
	}
	if c.key == txnOffsetCommit || c.version >= 3 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.topic(idSince)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.partition(4 + 2)
			c.tags()
		}
		c.tags()
	}
	return c
}

// readOffsetFetch reads an OffsetFetch response v0-10.
//
//	throttle int32 (v3+)
//	topics, error int16 (v2+)                              (v0-7)
//	[groups] id string, topics, error int16, TAGS          (v8+)
func readOffsetFetch(c cursor) cursor {
	if c.version >= 3 {
		c.skip(4)
	}
	if c.version < 8 {
		c.fetchedOffsets()
		if c.version >= 2 {
			c.errorCode()
		}
		return c
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.string()
		c.fetchedOffsets()
		c.errorCode()
		c.tags()
	}
	return c
}

// fetchedOffsets walks over the topics of a group.
//
//	[topics] name string (v0-9) or id (v10+)
//	  [partitions] index int32, offset int64, leader epoch int32 (v5+), metadata string, error int16, TAGS
//	  TAGS
func (c *cursor) fetchedOffsets() {
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.topic(10)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 8)
			if c.version >= 5 {
				c.skip(4)
			}
			c.string()
			c.errorCode()
			c.tags()
		}
		c.tags()
	}
}

// readFindCoordinator reads a FindCoordinator response v4-6: see walkFindCoordinator. Older ones
// have one error, near their beginning.
func readFindCoordinator(c cursor) cursor {
	if c.version < 4 {
		return c
	}
	c.skip(4)
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.string()
		c.skip(4)
		c.string()
		c.skip(4)
		c.errorCode()
		c.string()
		c.tags()
	}
	return c
}
