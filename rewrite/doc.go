// Package rewrite finds the broker addresses in Kafka's responses and puts
// others in their place, so that clients dial what they can reach.
//
// Addresses are spliced, never re-encoded: the bytes of a host, of a port and
// of the lengths around them change, and no other. A mapping that maps each
// address to itself changes no byte. What cannot be decoded is refused and not
// passed, for an address could be in it.
//
// The package takes bytes and gives bytes, through a [protocol.Flow]: there are
// no sockets, goroutines, clocks or logs in it.
package rewrite
