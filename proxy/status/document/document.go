// Package document defines the status document: what a running agent or gateway says about itself.
// /status serves it as JSON, and culvert status, culvert top and the live page show it and nothing
// else. docs/status.md describes every field.
//
// A document holds no secret and no record data. Its texts are printable and bounded, also where a
// peer chose them. Times are in UTC, durations in seconds. Lists are in a fixed order, and are
// bounded as their comments say.
package document

import "time"

// Version is the version of the document's format. New fields do not change it: readers ignore what
// they do not know. It changes when a field changes its meaning or goes.
const Version = 1

// Limits of a document.
const (
	MaxEvents  = 100              // newest first
	MaxNodes   = 1024             // as many as an agent's table of nodes holds
	MaxHistory = 60               // values of API.History
	MaxWindow  = 60 * time.Second // what rates, means and quantiles are taken over
	MaxBytes   = 4 << 20          // of a document as JSON; usually it has some ten KiB
)

// The ends.
const (
	Agent   = "agent"
	Gateway = "gateway"
)

// Document is the state of one process at one time.
type Document struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	End     string    `json:"end"` // agent or gateway
	Build   Build     `json:"build"`
	Started time.Time `json:"started"`
	Uptime  float64   `json:"uptime_seconds"`
	State   State     `json:"state"`

	Clients   Clients    `json:"clients"`
	Listeners []Listener `json:"listeners"`
	Tunnels   []Tunnel   `json:"tunnels"`  // of an agent: one for each gateway; of a gateway: one, what its agents use
	Cluster   Cluster    `json:"cluster"`  // the brokers
	Nodes     []Node     `json:"nodes"`    // by id
	Forwards  []Forward  `json:"forwards"` // as the settings name them

	Window float64 `json:"window_seconds"` // what rates, means and quantiles are taken over: MaxWindow, or less after a start
	Total  API     `json:"total"`          // of all API keys but long polls
	APIs   []API   `json:"apis"`           // those that were used, by name

	Closes      []Count      `json:"closes"`   // connections that ended, by cause; the causes of culvert_connection_closes_total
	Refusals    []Count      `json:"refusals"` // by reason; the reasons of culvert_refused_total
	Credentials []Credential `json:"credentials"`
	Limits      []Limit      `json:"limits"`
	Events      []Event      `json:"events"` // by their last occurrence, newest first
}

// Build says what runs.
type Build struct {
	Version   string `json:"version"`
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"` // such as linux/amd64
}

// The states of a process. Only ready is ready.
const (
	Starting = "starting" // it listens, and has seen no broker answer yet
	Ready    = "ready"
	NotReady = "not_ready"
	Draining = "draining"
)

// State says whether clients get answers.
type State struct {
	Name    string    `json:"name"` // starting, ready, not_ready or draining
	Since   time.Time `json:"since,omitzero"`
	Why     string    `json:"why,omitempty"`     // why it is not ready: what /readyz says
	Missing string    `json:"missing,omitempty"` // what does not work although it is ready
}

// Clients are the connections that this end has accepted: of Kafka clients at an agent, streams of
// agents at a gateway.
type Clients struct {
	Connections int `json:"connections"`
}

// Listener is an address on which this end listens.
type Listener struct {
	Name        string `json:"name"`                 // kafka: for clients; tunnel: for agents; admin
	Address     string `json:"address"`              // as bound
	Advertised  string `json:"advertised,omitempty"` // the host that is written into responses for clients of this listener, or the template of the names of brokers
	Protocols   string `json:"protocols,omitempty"`  // such as "kafka", "kafka over TLS", "h3, ws, h2"
	Connections int    `json:"connections"`          // of kafka: with those to the ports of its brokers; of tunnel: of agents, or of the ingress; of admin: not counted
}

// Tunnel is the way between an agent and a gateway.
type Tunnel struct {
	Gateway   string    `json:"gateway,omitempty"`         // of an agent: the gateway's URL
	Version   string    `json:"gateway_version,omitempty"` // of the gateway that answered last
	Streams   int       `json:"streams,omitempty"`         // of an agent: Kafka connections through this gateway, its own probes included
	Ingress   string    `json:"ingress,omitempty"`         // what the ingress calls itself, if it says so
	Transport string    `json:"transport"`                 // for new streams: h3, ws or h2; direct: no tunnel; "": none works, or none has answered yet
	Since     time.Time `json:"since,omitzero"`            // when the transport was chosen
	Why       string    `json:"why,omitempty"`             // why it was chosen
	Error     string    `json:"error,omitempty"`           // why none works
	RetryAt   time.Time `json:"retry_at,omitzero"`         // when the next try is due, if none works
	RTT       float64   `json:"rtt_seconds,omitempty"`     // that of the carrier of the transport in use; 0: not known
	Tried     []Tried   `json:"tried"`                     // the transports of an agent, most preferred first
	Carriers  []Carrier `json:"carriers"`                  // by transport
}

// Tried is what an agent knows about one transport to one gateway.
type Tried struct {
	Transport string    `json:"transport"`
	At        time.Time `json:"at,omitzero"`            // end of the last try; zero: never
	Took      float64   `json:"took_seconds,omitempty"` // from the start of the dial to the end of the echo
	Error     string    `json:"error,omitempty"`        // of the last try, or of later use
	Fixed     string    `json:"fixed,omitempty"`        // how it is used differently, because it was slow
	NextProbe time.Time `json:"next_probe,omitzero"`    // not probed before this
}

// Carrier is the sum of the connections that carry streams over one transport: QUIC connections for
// h3, TCP connections for ws and h2.
type Carrier struct {
	Transport   string  `json:"transport"`
	Connections int     `json:"connections"`
	Streams     int     `json:"streams"`
	RTT         float64 `json:"rtt_seconds,omitempty"`     // mean of the connections' minimum round trips; 0: not known
	MaxRTT      float64 `json:"max_rtt_seconds,omitempty"` // the largest of those minima
	Sent        uint64  `json:"packets_sent"`              // since the start; QUIC packets or TCP segments
	Lost        uint64  `json:"packets_lost"`              // of those: lost (QUIC) or sent again (TCP)
}

// Cluster is what is known about the brokers as a whole.
type Cluster struct {
	ID        string   `json:"id,omitempty"`
	Bootstrap []string `json:"bootstrap"` // addresses that this end dials first: of a gateway, or of an agent without a tunnel
}

// The states of a node.
const (
	NodeUnknown     = "unknown"     // nobody has connected to it yet, or no broker answers at the moment
	NodeReached     = "reached"     // the last connection to it succeeded
	NodeUnreachable = "unreachable" // the last connection to it failed
)

// Node is one broker.
type Node struct {
	ID          int32     `json:"id"`
	Advertised  string    `json:"advertised,omitempty"` // the broker's own address, host:port; "": expected, but not named by a response yet
	Local       []string  `json:"local,omitempty"`      // at an agent: where its clients reach it, for each listener
	SparePort   bool      `json:"spare_port,omitempty"` // its own port is taken, clients are told another
	NoPort      bool      `json:"no_port,omitempty"`    // its own port is taken, and clients cannot reach it
	State       string    `json:"state"`                // unknown, reached or unreachable
	Since       time.Time `json:"since,omitzero"`       // of the state
	Error       string    `json:"error,omitempty"`      // why it is unreachable
	Connections int       `json:"connections"`
}

// Forward is something beside Kafka that clients reach through the tunnel.
type Forward struct {
	Name        string    `json:"name"`
	Address     string    `json:"address"`         // at an agent where it listens, at a gateway what it dials
	State       string    `json:"state"`           // unknown, reached or unreachable, as of a node
	Since       time.Time `json:"since,omitzero"`  // of the state
	Error       string    `json:"error,omitempty"` // why it is unreachable
	Connections int       `json:"connections"`
}

// API is what this end has measured for one API key.
type API struct {
	Name     string `json:"name"`                // Kafka's name of the API key; "unknown": all that culvert does not know; "total"
	LongPoll bool   `json:"long_poll,omitempty"` // brokers hold these requests on purpose: Fetch, JoinGroup, SyncGroup, ShareFetch

	// Since the start.
	Requests      uint64  `json:"requests"`
	RequestBytes  uint64  `json:"request_bytes"`
	ResponseBytes uint64  `json:"response_bytes"`
	Errors        []Count `json:"errors,omitempty"` // responses with an error, by class
	Throttle      float64 `json:"throttle_seconds"` // how long brokers asked clients to wait, the sum
	InFlight      int     `json:"in_flight"`        // requests that await their response now

	// Over the window.
	Rate             float64  `json:"rate"`                          // requests per second
	RequestByteRate  float64  `json:"request_byte_rate"`             // bytes per second
	ResponseByteRate float64  `json:"response_byte_rate"`            // bytes per second
	Latency          *Latency `json:"latency,omitempty"`             // as measured here; nil: no response in the window
	Gateway          *Latency `json:"gateway,omitempty"`             // of an agent: the brokers' answer, as timed at the gateway, without quantiles; nil: its gateways do not tell
	Tunnel           float64  `json:"tunnel_mean_seconds,omitempty"` // Latency.Mean - Gateway.Mean, not below 0; 0 if there is no Gateway, and of long polls

	History []float64 `json:"history,omitempty"` // requests in each of the last seconds, the newest last
}

// Latency sums up durations from a request's header read to its response's correlation id read.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_seconds"`
	P50   float64 `json:"p50_seconds,omitempty"`
	P90   float64 `json:"p90_seconds,omitempty"`
	P99   float64 `json:"p99_seconds,omitempty"`
}

// Count is a number under a name.
type Count struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// Credential is a token or certificate that this end uses or shows. Its content is never in a
// document.
type Credential struct {
	Setting string    `json:"setting"`                // the flag that names it, such as --token-file
	Kind    string    `json:"kind"`                   // token, certificate, ca, key, login
	Loaded  time.Time `json:"loaded,omitzero"`        // when the file was changed last, or the login was
	Age     float64   `json:"age_seconds"`            // since Loaded
	Expires time.Time `json:"expires,omitzero"`       // zero: not known, or never
	Left    float64   `json:"left_seconds,omitempty"` // until Expires; negative: it has expired
	Error   string    `json:"error,omitempty"`        // of the last try to read or obtain it
}

// Limit is a limit and its use.
type Limit struct {
	Name    string `json:"name"`              // the label of culvert_limit_refusals_total: connections, streams, memory, …
	Setting string `json:"setting,omitempty"` // the flag that raises it
	Used    uint64 `json:"used"`
	Max     uint64 `json:"max"`            // 0: no limit
	Unit    string `json:"unit,omitempty"` // bytes; "": a number of things
	Refused uint64 `json:"refused"`        // how often it was reached
}

// Event is something that went wrong, or the end of it. Events that repeat are counted, not listed
// again.
type Event struct {
	Time   time.Time `json:"time"`            // of the first occurrence
	Last   time.Time `json:"last,omitzero"`   // of the last one, if there were several
	Count  int       `json:"count"`           // how many there were
	Level  string    `json:"level"`           // warn or error
	Text   string    `json:"text"`            // as in the log
	About  string    `json:"about,omitempty"` // what it concerns: broker 2, a transport, a file, a gateway
	Error  string    `json:"error,omitempty"`
	Remedy string    `json:"remedy,omitempty"` // what to do
	// Lasting says that the event began something that lasts until it is over, such as an outage.
	// Otherwise it was about a moment.
	Lasting bool      `json:"lasting"`
	Over    time.Time `json:"over,omitzero"`   // when a lasting event ended; zero: it has not
	Ended   string    `json:"ended,omitempty"` // the line of the log that said so
}

// Open reports whether the event is a failure that goes on.
func (e Event) Open() bool { return e.Lasting && e.Over.IsZero() }

// At returns a time that a peer or a file chose as a document has it: in UTC, and not beyond the year
// 9999, which JSON cannot write. The zero time stays zero.
func At(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() > 9999:
		return time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	case t.Year() < 0:
		return time.Date(0, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}
