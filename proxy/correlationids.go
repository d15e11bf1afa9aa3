package proxy

import (
	"crypto/rand"
	"encoding/binary"
)

// correlationIDs makes correlation ids that nobody can guess: see [request]. The zero value is
// ready.
type correlationIDs struct {
	random [32]byte // random bytes for 8 ids: reading 32 at once costs as much as reading 4
	left   int      // bytes of random that have not been used, at its start
}

// next returns a new id. It is never 0, which stands for no id of ours.
func (c *correlationIDs) next() int32 {
	for {
		if c.left == 0 {
			rand.Read(c.random[:])
			c.left = len(c.random)
		}
		c.left -= 4
		if id := int32(binary.BigEndian.Uint32(c.random[c.left:])); id != 0 {
			return id
		}
	}
}
