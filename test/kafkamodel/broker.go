// Package kafkamodel models how a broker of Apache Kafka 4.3 handles the bytes that a client sends
// over one connection: where frames begin, what each is taken for, whether it is answered, and when
// the connection is closed. Fuzz tests compare the proxy with it: both must agree on which request
// a response belongs to.
//
// The model was written from Kafka's source alone and shares no code with package protocol, so the
// two do not share a mistake. The comments name the class and method that each rule comes from;
// classes without a package are in org.apache.kafka.common. TestModelAgreesWithKafka in package
// test compares the model with a running broker.
//
// Three things are not modelled. There is no clock: nothing expires, and what a broker does after a
// delay is done at once. The bodies of most requests are not parsed: a broker closes the connection
// after a malformed one, but the model answers. It also answers WriteTxnMarkers that name a
// partition twice, or an unknown partition after a known one, which a broker never answers. And the
// client never closes its side.
package kafkamodel

import "encoding/binary"

// Limits of a frame, without the four bytes of its length.
const (
	MaxRequest = 104857600 // socket.request.max.bytes
	MaxToken   = 524288    // sasl.server.max.receive.size, until a client is authenticated
)

// Config is the part of a broker that a connection depends on. The zero value is a listener without
// SASL whose broker stores all records.
type Config struct {
	SASL       bool     // the listener asks for authentication
	Mechanisms []string // those that it offers

	// Authenticate evaluates a client's token, the round-th of this authentication, counted from 0.
	// nil: Rounds.
	Authenticate func(mechanism string, token []byte, round int) Step

	// Reauthenticate reports whether the n-th SaslHandshake of an authenticated client, counted
	// from 0, starts another authentication. In a broker it does if the session has an end
	// (connections.max.reauth.ms, or a token that expires) and the last authentication began more
	// than a second ago. nil: never.
	Reauthenticate func(n int) bool

	// ProduceFails reports whether a well-formed Produce request gets an error, such as for a topic
	// that does not exist. nil: never.
	ProduceFails func(Event) bool

	// Respond returns the body of a response, without its header. nil, or a nil body: the default
	// of kmsg.
	Respond func(Event) []byte
}

// Kind is what a broker takes a frame for.
type Kind int

const (
	Refused Kind = iota // neither: the connection is closed
	Request             // a header, and a body
	Token               // a raw SASL token
)

// Event is how a broker handles one frame.
type Event struct {
	Kind Kind

	// Of a Request.
	Key, Version  int16
	CorrelationID int32

	Answered bool   // the broker sends something
	Response []byte // what it sends, the four bytes of length first
	Closes   bool   // it then closes the connection and reads nothing more
	Hangs    bool   // it does not answer, reads nothing more, and closes only when connections.max.idle.ms are over
	Why      string // why it closes or hangs
}

// Broker is the broker's side of one connection.
type Broker struct {
	cfg     Config
	buffer  []byte
	over    bool // closed, or hangs
	closed  bool
	sasl    saslState
	reauths int // how many times a client that was authenticated sent SaslHandshake
}

// New returns the broker's side of a new connection.
func New(cfg Config) *Broker {
	if cfg.Authenticate == nil {
		cfg.Authenticate = Rounds
	}
	b := &Broker{cfg: cfg}
	if !cfg.SASL {
		b.sasl.stage = authenticated
	}
	return b
}

// Closed reports whether the broker has closed the connection.
func (b *Broker) Closed() bool { return b.closed }

// Authenticated reports whether the next frame is read as a request by the broker's API handlers.
func (b *Broker) Authenticated() bool { return b.sasl.stage == authenticated }

// Buffered returns how many bytes of an incomplete frame have come.
func (b *Broker) Buffered() int { return len(b.buffer) }

// Receive takes the client's next bytes, split anywhere. It returns, in order, how the broker
// handles the frames that they complete. A broker reads a request only after it has answered the
// one before (SocketServer.scala, Processor.processCompletedReceives: selector.mute), so responses
// come in the order of the requests.
func (b *Broker) Receive(p []byte) []Event {
	if b.over {
		return nil
	}
	b.buffer = append(b.buffer, p...)
	var events []Event
	for !b.over {
		frame, refused := b.next()
		if refused != "" {
			events = append(events, b.end(refuse(refused)))
			break
		}
		if frame == nil {
			break
		}
		events = append(events, b.end(b.receive(frame)))
	}
	return events
}

// next returns the next complete frame: network.NetworkReceive.readFrom. A length of 0 is a frame.
// It returns nil until a frame is complete, but a bad length is refused at once.
func (b *Broker) next() (frame []byte, refused string) {
	if len(b.buffer) < 4 {
		return nil, ""
	}
	size, limit := int32(binary.BigEndian.Uint32(b.buffer)), int32(MaxRequest)
	if b.sasl.stage != authenticated {
		limit = MaxToken
	}
	if size < 0 {
		return nil, "negative length"
	}
	if size > limit {
		return nil, "length over the limit"
	}
	if len(b.buffer)-4 < int(size) {
		return nil, ""
	}
	frame, b.buffer = b.buffer[4:4+size:4+size], b.buffer[4+size:]
	return frame, ""
}

// receive handles a complete frame: security.authenticator. SaslServerAuthenticator.authenticate
// gets it until the client is authenticated, then SocketServer.scala,
// Processor.processCompletedReceives.
func (b *Broker) receive(frame []byte) Event {
	if b.sasl.stage != authenticated {
		return b.authenticate(frame)
	}
	return b.request(frame)
}

// end notes whether the connection goes on after the event.
func (b *Broker) end(e Event) Event {
	if e.Closes || e.Hangs {
		b.over, b.closed, b.buffer = true, e.Closes, nil
	}
	return e
}

// refuse returns the event that closes the connection without an answer, for a frame that could not
// be parsed.
func refuse(why string) Event { return Event{Closes: true, Why: why} }

// close makes the event the connection's last.
func (e Event) close(why string) Event {
	e.Closes, e.Why = true, why
	return e
}

// hang makes the event the connection's last, too.
func (e Event) hang(why string) Event {
	e.Hangs, e.Why = true, why
	return e
}
