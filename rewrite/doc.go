// Package rewrite finds the broker addresses in Kafka's responses and replaces them, so that
// clients dial what they can reach.
//
// Responses are not encoded again: the bytes of a host, of a port and of the lengths around them
// change, and no others. A mapping of each address to itself changes no byte. What cannot be
// decoded is refused and not passed, because an address could be in it.
//
// The package takes bytes and gives bytes, through a [protocol.Flow]. There are no sockets,
// goroutines, clocks or logs in it.
package rewrite
