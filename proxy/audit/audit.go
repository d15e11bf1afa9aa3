// Package audit writes the audit log of a gateway: one line of JSON for each stream that has ended,
// and for each stream, login and connection that was refused. docs/audit.md describes the lines.
//
// Whoever writes a line carries a connection, so nobody waits for a disk: lines wait in a queue that
// is bounded. Those that do not fit are lost, which is counted and logged.
package audit

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Event says what a line is about.
type Event string

// The events.
const (
	StreamEnded       Event = "stream_ended"       // a stream that was open
	StreamRefused     Event = "stream_refused"     // a stream of an accepted agent that was not opened
	LoginRefused      Event = "login_refused"      // a request without valid credentials
	ConnectionRefused Event = "connection_refused" // a connection that was closed before a request on it was accepted
)

// Kind says what a stream leads to.
type Kind string

// The kinds.
const (
	Broker  Kind = "broker"
	Forward Kind = "forward"
)

// A Peer is who opened a stream, and from where.
type Peer struct {
	Identity     string `json:"identity,omitempty"`      // the name of a token, or of a certificate
	User         string `json:"user,omitempty"`          // that an ingress names
	ClientAddr   string `json:"client_addr"`             // of the agent, or of what is in front of the gateway
	ProxyAddr    string `json:"proxy_addr,omitempty"`    // of the load balancer that named ClientAddr in a PROXY header
	ForwardedFor string `json:"forwarded_for,omitempty"` // the X-Forwarded-For of the request, which anybody may have written
	Transport    string `json:"transport,omitempty"`
}

// A Target is what a stream leads to.
type Target struct {
	Kind    Kind   `json:"kind,omitempty"`
	Target  string `json:"target,omitempty"`  // as the agent asked for it
	NodeID  *int32 `json:"node_id,omitempty"` // of the broker, where a ticket names it
	Address string `json:"address,omitempty"` // that was dialled
}

// A Passage is what a stream carried, and for how long.
type Passage struct {
	Opened     time.Time `json:"opened"`
	Duration   Seconds   `json:"duration_seconds"`
	FromClient int64     `json:"from_client_bytes"`
	ToClient   int64     `json:"to_client_bytes"`
}

// Seconds is a duration that JSON has in seconds, to the millisecond.
type Seconds time.Duration

// MarshalJSON writes a number.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Round(time.Millisecond).Seconds())
}

// A Record is one line. It never holds a secret.
type Record struct {
	Time  time.Time `json:"time"` // set by [Log.Add]
	Event Event     `json:"event"`
	Peer
	Target
	*Passage        // nil unless Event is StreamEnded
	Cause    string `json:"cause"`
	Error    string `json:"error,omitempty"`
	Omitted  int    `json:"omitted,omitempty"` // lines of this event that were left out before this one; set by [Log.Add]
}

// maxTarget bounds a target, which has at most 261 bytes unless it has to be escaped.
const maxTarget = 512

// maxLine is more than a line can have, in bytes. JSON doubles backslashes and quotes.
const maxLine = 2 * (5*printable.Name + 2*maxTarget + printable.Sentence + 512)

// line returns the record as one line. Text of peers is made printable and bounded first.
func (r Record) line() []byte {
	for _, s := range []*string{&r.Identity, &r.User, &r.ClientAddr, &r.ProxyAddr, &r.ForwardedFor} {
		*s = printable.Text(*s, printable.Name)
	}
	for _, s := range []*string{&r.Target.Target, &r.Address} {
		*s = printable.Text(*s, maxTarget)
	}
	r.Transport = printable.Text(r.Transport, 16)
	r.Cause = printable.Text(r.Cause, 64)
	r.Error = printable.Text(r.Error, printable.Sentence)
	r.Time = r.Time.UTC().Truncate(time.Millisecond)
	if r.Passage != nil {
		p := *r.Passage
		p.Opened = p.Opened.UTC().Truncate(time.Millisecond)
		r.Passage = &p
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		panic(err) // none of the types can fail
	}
	return b.Bytes()
}
