// Package proxy is where Kafka meets the tunnel. An [Agent] stands beside the
// clients, a [Gateway] beside the brokers, and each relays Kafka connections,
// one stream for each: docs/architecture.md follows a request through both.
package proxy
