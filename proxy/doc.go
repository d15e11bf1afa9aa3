// Package proxy relays Kafka connections through a tunnel. An [Agent] runs beside the clients and a
// [Gateway] beside the brokers. Each Kafka connection is one stream of the tunnel. The agent
// replaces the brokers' addresses in responses with its own, so that clients connect to it.
//
// docs/architecture.md follows a request through both ends.
package proxy
