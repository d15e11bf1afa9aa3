// Package protocol reads the Kafka wire protocol as far as a proxy must: the length of each frame,
// the headers of requests and responses, the acks of a Produce request, and the raw tokens of old
// SASL.
//
// It takes bytes and gives bytes. There are no sockets, goroutines, locks, clocks or logs in it:
// those belong to the owner of a connection.
package protocol
