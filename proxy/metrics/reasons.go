package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// reasonMetrics counts rare events by their reason. Each counter is resolved when the process
// starts, so its series begins at zero.
type reasonMetrics struct {
	refused [numRefusals]prometheus.Counter
	closes  [numCloses]prometheus.Counter
	tickets [numTicketEvents]prometheus.Counter
	limited [numLimits]prometheus.Counter

	unfollowed prometheus.Counter
}

func newReasonMetrics(f promauto.Factory) *reasonMetrics {
	m := &reasonMetrics{}
	resolve(m.refused[:], refusals[:], f.NewCounterVec(counterOpts("refused_total",
		"Connections, requests and responses refused instead of being relayed."), []string{"reason"}))
	resolve(m.closes[:], closes[:], f.NewCounterVec(counterOpts("connection_closes_total",
		"Kafka connections that ended, by what ended them first."), []string{"cause"}))
	resolve(m.tickets[:], ticketEvents[:], f.NewCounterVec(counterOpts("tickets_total",
		"Tickets for broker addresses, by what became of them."), []string{"result"}))
	resolve(m.limited[:], limits[:], f.NewCounterVec(counterOpts("limit_refusals_total",
		"Streams and connections refused because a limit was reached."), []string{"limit"}))
	m.unfollowed = f.NewCounter(counterOpts("unfollowed_connections_total",
		"Kafka connections whose bytes a gateway relays without decoding them any more."))
	return m
}

// Unfollowed counts a connection that is relayed without being decoded any more.
func (m *reasonMetrics) Unfollowed() { m.unfollowed.Inc() }

// Refusal says why something was refused instead of being relayed.
type Refusal uint8

// The refusals.
const (
	RefusedUndecodable        Refusal = iota // a response that can carry an address and could not be decoded
	RefusedUnsupportedVersion                // a request of an API version that nobody has reviewed for addresses
	RefusedUnknownKey                        // a request of an API key that we do not know
	RefusedCorrelation                       // a response that does not answer the oldest request in flight
	RefusedNotKafka                          // a first frame that is no Kafka request: TLS, HTTP
	RefusedHeaderTimeout                     // a request whose header did not arrive in time
	RefusedFrameSize                         // a frame length that is negative, too small or too large
	RefusedIntroduction                      // a request that a bootstrap broker must not get in another node's place
	RefusedTLS                               // a client's TLS handshake that failed
	RefusedServerName                        // a client's TLS handshake for a name that leads to no broker
	RefusedSASL                              // a login whose raw tokens cannot be followed
	RefusedProxyHeader                       // a connection that began with a PROXY header, or without one
	numRefusals
)

var refusals = [numRefusals]string{
	RefusedUndecodable:        "undecodable",
	RefusedUnsupportedVersion: "unsupported_version",
	RefusedUnknownKey:         "unknown_key",
	RefusedCorrelation:        "correlation",
	RefusedNotKafka:           "not_kafka",
	RefusedHeaderTimeout:      "header_timeout",
	RefusedFrameSize:          "frame_size",
	RefusedIntroduction:       "introduction",
	RefusedTLS:                "tls",
	RefusedServerName:         "server_name",
	RefusedSASL:               "sasl",
	RefusedProxyHeader:        "proxy_header",
}

// String returns the value of the label reason.
func (r Refusal) String() string { return refusals[r] }

// Refused counts a refusal.
func (m *reasonMetrics) Refused(r Refusal) { m.refused[r].Inc() }

// Limit names a limit that was reached.
type Limit uint8

// The limits. LimitConnections is an agent's, the others are a gateway's.
const (
	LimitStreams            Limit = iota // streams
	LimitStreamsPerIdentity              // streams of one identity
	LimitSparesPerIdentity               // streams that one identity holds ready
	LimitMemory                          // memory in use
	LimitUnauthenticated                 // connections and streams of peers that have shown no credentials
	LimitConnections                     // an agent's connections of clients
	LimitOther                           // a limit missing from this list, which is a mistake of ours
	numLimits
)

var limits = [numLimits]string{
	LimitStreams:            "streams",
	LimitStreamsPerIdentity: "streams_per_identity",
	LimitSparesPerIdentity:  "spares_per_identity",
	LimitMemory:             "memory",
	LimitConnections:        "connections",
	LimitUnauthenticated:    "unauthenticated",
	LimitOther:              "other",
}

// String returns the value of the label limit.
func (l Limit) String() string { return limits[l] }

// LimitOf returns the limit with a name that package tunnel uses, or [LimitOther].
func LimitOf(name string) Limit {
	if i := slices.Index(limits[:], name); i >= 0 {
		return Limit(i)
	}
	return LimitOther
}

// Limited counts what was refused because a limit was reached.
func (m *reasonMetrics) Limited(l Limit) { m.limited[l].Inc() }

// Close says what ended a Kafka connection first.
type Close uint8

// The causes.
const (
	CloseClientFIN   Close = iota // the client closed its side
	CloseClientReset              // the client reset, or vanished
	CloseBrokerFIN                // the broker closed its side
	CloseBrokerReset              // the broker reset, or the gateway said so
	CloseTunnelCut                // the stream ended without a FIN or a reset
	CloseRefused                  // we refused a frame, see [Refusal]
	CloseDrain                    // we are shutting down
	CloseDial                     // the other side could not be reached
	CloseMoved                    // the node has another address now, or another cluster answers
	CloseSpread                   // it was idle, and the client's next one leads to a gateway with fewer
	numCloses
)

var closes = [numCloses]string{
	CloseClientFIN:   "client_fin",
	CloseClientReset: "client_reset",
	CloseBrokerFIN:   "broker_fin",
	CloseBrokerReset: "broker_reset",
	CloseTunnelCut:   "tunnel_cut",
	CloseRefused:     "refused",
	CloseDrain:       "drain",
	CloseDial:        "dial",
	CloseMoved:       "moved",
	CloseSpread:      "spread",
}

// String returns the value of the label cause.
func (c Close) String() string { return closes[c] }

// Closed counts the end of a Kafka connection.
func (m *reasonMetrics) Closed(c Close) { m.closes[c].Inc() }

// TicketEvent says what became of a ticket.
type TicketEvent uint8

// The events.
const (
	TicketIssued   TicketEvent = iota // a gateway signed and sent it
	TicketReceived                    // an agent received it
	TicketAccepted                    // a gateway verified it and dialled its address
	TicketExpired                     // a gateway refused it: it had expired
	TicketInvalid                     // a gateway refused it: wrong signature, or another address
	numTicketEvents
)

var ticketEvents = [numTicketEvents]string{
	TicketIssued:   "issued",
	TicketReceived: "received",
	TicketAccepted: "accepted",
	TicketExpired:  "expired",
	TicketInvalid:  "invalid",
}

// String returns the value of the label result.
func (e TicketEvent) String() string { return ticketEvents[e] }

// Ticket counts what became of a ticket.
func (m *reasonMetrics) Ticket(e TicketEvent) { m.tickets[e].Inc() }
