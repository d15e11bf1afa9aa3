package proxy

import (
	"crypto/rand"
	"encoding/binary"
)

// correlationIDs makes ids that nobody can foresee. The zero value is ready.
type correlationIDs struct {
	random [32]byte // for some ids: the system is asked for fewer bytes at a time at the same cost
	left   int
}

// next is never 0.
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
