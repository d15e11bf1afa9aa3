package terminal

import (
	"fmt"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// now is when the documents of these tests were made.
var now = time.Date(2026, 11, 30, 16, 34, 26, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func lasted(count uint64, mean, p50, p99 float64) *document.Latency {
	return &document.Latency{Count: count, Mean: mean, P50: p50, P90: (p50 + p99) / 2, P99: p99}
}

// wave is a history that goes up and down.
func wave(most float64) (h []float64) {
	for i := range document.MaxHistory {
		h = append(h, most*float64(i%9)/8)
	}
	return h
}

// healthyAgent has everything that a page can show of an agent that works.
func healthyAgent() document.Document {
	return document.Document{
		Version: document.Version, Time: now, End: document.Agent, Started: ago(3*time.Hour + 12*time.Minute), Uptime: 11520,
		Build:   document.Build{Version: "0.1.0", GoVersion: "go1.26.8", Platform: "linux/amd64"},
		State:   document.State{Name: document.Ready, Since: ago(3*time.Hour + 11*time.Minute)},
		Clients: document.Clients{Connections: 12},
		Listeners: []document.Listener{
			{Name: "kafka", Address: "127.0.0.1:9092", Advertised: "127.0.0.1", Protocols: "kafka", Connections: 4},
			{Name: "kafka", Address: "0.0.0.0:9093", Advertised: "kafka.example.com", Protocols: "kafka over TLS", Connections: 1},
			{Name: "admin", Address: "127.0.0.1:9464"},
		},
		Tunnels: []document.Tunnel{{
			Gateway: "https://kafka.example.com", Version: "0.1.0", Ingress: "nginx", Transport: "h3", Since: ago(3 * time.Hour),
			Why: "it is preferred, and works", RTT: 0.0243,
			Tried: []document.Tried{
				{Transport: "h3", At: ago(3 * time.Hour), Took: 0.051},
				{Transport: "ws", At: ago(3 * time.Hour), Took: 0.0613},
				{Transport: "h2", At: ago(2 * time.Minute), Error: "the gateway answered 413: nginx limits the body, client_max_body_size", NextProbe: now.Add(14 * time.Minute)},
			},
			Carriers: []document.Carrier{
				{Transport: "h3", Connections: 2, Streams: 14, RTT: 0.0243, MaxRTT: 0.031, Sent: 123456, Lost: 148},
				{Transport: "ws", Connections: 5, Streams: 1, RTT: 0.0251, MaxRTT: 0.0251, Sent: 20, Lost: 0},
			},
		}},
		Cluster: document.Cluster{ID: "4L6g3nShT-eMCtK--X86sw"},
		Nodes: []document.Node{
			{ID: 0, Advertised: "kafka-0.kafka.internal:9092", Local: []string{"127.0.0.1:19092", "kafka.example.com:19092"}, State: document.NodeReached, Connections: 3},
			{ID: 1, Advertised: "kafka-1.kafka.internal:9092", Local: []string{"127.0.0.1:19093", "kafka.example.com:19093"}, State: document.NodeReached, Connections: 4},
			{ID: 1001, Local: []string{"127.0.0.1:20093", "kafka.example.com:20093"}, State: document.NodeUnknown},
		},
		Forwards: []document.Forward{{Name: "schema-registry", Address: "127.0.0.1:8081", State: document.NodeReached, Connections: 2}},
		Window:   60,
		Total:    document.API{Requests: 8123456, Rate: 1287, RequestByteRate: 1.3e6, ResponseByteRate: 51234, InFlight: 3, Latency: lasted(77220, 0.00123, 0.0011, 0.0049), Gateway: lasted(77220, 0.0009, 0, 0), Tunnel: 0.00033},
		APIs: []document.API{
			{Name: "ApiVersions", Requests: 60, Rate: 0.05, RequestByteRate: 2, ResponseByteRate: 30, Latency: lasted(3, 0.0251, 0.025, 0.0261), Gateway: lasted(3, 0.0004, 0, 0), Tunnel: 0.0247},
			{Name: "DescribeUserScramCredentials", Requests: 1, Throttle: 0.25},
			{Name: "Fetch", LongPoll: true, Requests: 9000, Rate: 4.1, RequestByteRate: 410, ResponseByteRate: 12_345_678, InFlight: 2, Latency: lasted(246, 0.482, 0.5, 0.51), Gateway: lasted(246, 0.4575, 0, 0), History: wave(5)},
			{Name: "Metadata", Requests: 400, Rate: 2.25, RequestByteRate: 100, ResponseByteRate: 4000, Latency: lasted(120, 0.0262, 0.026, 0.0312), Gateway: lasted(120, 0.0011, 0, 0), Tunnel: 0.0251, Errors: []document.Count{{Name: "metadata", Count: 7}}},
			{Name: "Produce", Requests: 8120000, Rate: 1284.7, RequestByteRate: 1_299_898, ResponseByteRate: 47234, InFlight: 3, Latency: lasted(77100, 0.00119, 0.0011, 0.0047), Gateway: lasted(77100, 0.00088, 0, 0), Tunnel: 0.00031, History: wave(1400)},
		},
		Credentials: []document.Credential{
			{Setting: "--token-file", Kind: "token", Loaded: ago(3 * time.Hour), Age: 10800},
			{Setting: "--listen-tls-cert-file", Kind: "certificate", Loaded: ago(3 * time.Hour), Age: 10800, Expires: now.Add(90 * 24 * time.Hour), Left: 90 * 86400},
		},
		Limits: []document.Limit{{Name: "connections", Setting: "--max-connections", Used: 12, Max: 10000}, {Name: "memory", Used: 40 << 20, Max: 1 << 30, Unit: "bytes"}},
		Events: []document.Event{{
			Time: ago(42 * time.Minute), Last: ago(41 * time.Minute), Count: 14, Level: "warn", Text: "the gateway answers, the brokers do not", About: "broker 1",
			Error: "dial tcp 10.0.3.7:9092: connect: connection refused", Remedy: "nothing listens there: is the broker running?",
			Lasting: true, Over: ago(40 * time.Minute), Ended: "brokers answer again",
		}},
	}
}

// brokenAgent has much that does not work.
func brokenAgent() document.Document {
	d := healthyAgent()
	d.State = document.State{Name: document.NotReady, Since: ago(125 * time.Second), Why: "no gateway is reached: dial tcp 203.0.113.7:443: connect: connection refused"}
	u := &d.Tunnels[0]
	u.Transport, u.Why, u.RTT, u.Carriers = "", "", 0, nil
	u.Error, u.RetryAt = "h3: no answer within 5s; ws: dial tcp 203.0.113.7:443: connect: connection refused", now.Add(4*time.Second)
	u.Tried[0].Error, u.Tried[0].At = "no answer within 5s: is UDP blocked on the way?", ago(30*time.Second)
	u.Tried[1].Error, u.Tried[1].At = "dial tcp 203.0.113.7:443: connect: connection refused", ago(time.Second)
	d.Nodes[0].State, d.Nodes[0].Error = document.NodeUnreachable, "dial broker 0 at kafka-0.kafka.internal:9092: i/o timeout"
	d.Nodes[1].SparePort, d.Nodes[2].NoPort = true, true
	d.Forwards = append(d.Forwards, document.Forward{Name: "connect", Address: "127.0.0.1:8083", State: document.NodeUnreachable, Error: "the gateway offers no forward connect: it offers schema-registry"})
	d.Total, d.APIs = document.API{Name: "total"}, nil
	d.Credentials = append(d.Credentials,
		document.Credential{Setting: "--gateway-cert-file", Kind: "certificate", Expires: now.Add(50 * time.Hour), Left: 180000},
		document.Credential{Setting: "--snowflake-pat-file", Kind: "token", Expires: ago(time.Minute), Left: -60, Age: 3660},
		document.Credential{Setting: "--token-file", Kind: "token", Error: "open token.txt: no such file or directory"})
	d.Limits = append(d.Limits, document.Limit{Name: "streams", Setting: "--max-streams", Used: 950, Max: 1000, Refused: 3},
		document.Limit{Name: "memory", Setting: "--max-memory", Used: 900 << 20, Max: 1 << 30, Unit: "bytes"})
	d.Events = append([]document.Event{
		{Time: ago(30 * time.Second), Count: 1, Level: "warn", Text: "client refused", Error: "it speaks TLS, and this port expects Kafka without it"},
		{Time: ago(125 * time.Second), Last: ago(time.Second), Count: 9, Level: "error", Lasting: true, Text: "no gateway is reached", About: "https://kafka.example.com",
			Error: "dial tcp 203.0.113.7:443: connect: connection refused", Remedy: "nothing listens there: is the gateway or its ingress running, and is the port in --gateway-url right?"},
		{Time: ago(3 * time.Minute), Count: 1, Level: "warn", Lasting: true, Text: "a broker's own port cannot be used", About: "broker 1001", Error: "listen on 127.0.0.1:20093: address already in use",
			Remedy: "free the port, or give the node another one with --node-address"},
	}, d.Events...)
	return d
}

// healthyGateway is a gateway that works.
func healthyGateway() document.Document {
	a := healthyAgent()
	d := document.Document{
		Version: document.Version, Time: now, End: document.Gateway, Uptime: 86400 * 3, Build: a.Build, State: a.State,
		Clients:   document.Clients{Connections: 31},
		Listeners: []document.Listener{{Name: "tunnel", Address: "[::]:8443", Protocols: "h3, ws, h2", Connections: 31}, {Name: "admin", Address: "127.0.0.1:9465"}},
		Tunnels:   []document.Tunnel{{Carriers: a.Tunnels[0].Carriers}},
		Cluster:   document.Cluster{ID: a.Cluster.ID, Bootstrap: []string{"kafka-0:9092", "kafka-1:9092"}},
		Forwards:  []document.Forward{{Name: "schema-registry", Address: "registry.internal:8081", State: document.NodeUnknown}},
		Window:    60, Total: a.Total, APIs: a.APIs,
	}
	d.Total.Gateway, d.Total.Tunnel = nil, 0
	for i := range d.APIs {
		d.APIs[i].Gateway, d.APIs[i].Tunnel = nil, 0
	}
	for id := range int32(100) {
		d.Nodes = append(d.Nodes, document.Node{ID: id, Advertised: fmt.Sprintf("kafka-%d.kafka.internal:9092", id), State: document.NodeReached, Connections: int(id % 7)})
	}
	return d
}

// brokenGateway has seen no broker yet, and some of its nodes fail.
func brokenGateway() document.Document {
	d := healthyGateway()
	d.State = document.State{Name: document.Starting, Why: "no broker has answered yet: dial tcp: lookup kafka-0: no such host"}
	d.Cluster.ID = ""
	d.Clients.Connections, d.Tunnels = 0, []document.Tunnel{{}}
	d.APIs = nil
	d.Limits = []document.Limit{{Name: "unauthenticated", Used: 2, Max: 1024, Refused: 7}}
	for i := range d.Nodes[:20] {
		d.Nodes[i].State, d.Nodes[i].Error = document.NodeUnreachable, "dial tcp: lookup kafka: no such host"
	}
	d.Events = []document.Event{
		{Time: ago(time.Minute), Count: 61, Level: "warn", Lasting: true, Text: "no broker answers", Error: "dial tcp: lookup kafka-0: no such host", Remedy: "does kafka-0 resolve here?"},
	}
	return d
}

// hostile is what another program could send: every text moves the cursor, hides, is wide or long.
func hostile() document.Document {
	evil := "\x1b[2J\x1b]0;owned\a\r\n\u202e東京" + strings.Repeat("長い", 400) + "\u0301\u009b31m\xff"
	d := brokenAgent()
	d.Version, d.End, d.Uptime, d.Window = 7, evil, 1e300, -1
	d.Build, d.State = document.Build{Version: evil, Platform: evil}, document.State{Name: evil, Why: evil}
	d.Tunnels = append(d.Tunnels, document.Tunnel{Gateway: evil, Version: evil, Ingress: evil, Transport: evil, Why: evil, RTT: -1, Tried: []document.Tried{{Transport: evil, Error: evil, Fixed: evil}}, Carriers: []document.Carrier{{Transport: evil, Streams: -1, Connections: 1 << 60, Sent: 1, Lost: 1 << 63}}})
	d.Listeners = append(d.Listeners, document.Listener{Name: evil, Address: evil, Advertised: evil, Protocols: evil})
	d.Cluster = document.Cluster{ID: evil, Bootstrap: []string{evil}}
	d.Nodes = append(d.Nodes, document.Node{ID: -1 << 31, Advertised: evil, Local: []string{evil, evil}, State: evil, Error: evil, SparePort: true, Connections: -5})
	d.Forwards = []document.Forward{{Name: evil, Address: evil, State: evil, Error: evil, Connections: -5}, {Name: evil, State: document.NodeUnreachable, Error: evil}}
	d.Total = document.API{Rate: 1e300, Throttle: 1e300, InFlight: -1}
	d.APIs = []document.API{{Name: evil, Rate: -1, Requests: 1 << 63, RequestByteRate: 1e300, Latency: &document.Latency{Mean: 1e300, P99: 1e-300}, Errors: []document.Count{{Name: evil, Count: 1<<64 - 1}}, History: []float64{-1, 1e300, 0}}}
	d.Credentials = []document.Credential{{Setting: evil, Kind: evil, Error: evil}}
	d.Limits = []document.Limit{{Name: evil, Setting: evil, Used: 1<<64 - 1, Max: 1, Unit: evil, Refused: 1<<64 - 1}}
	d.Events = []document.Event{{Level: evil, Text: evil, About: evil, Error: evil, Remedy: evil, Count: 1 << 60}, {Level: "warn", Text: evil, Lasting: true, Over: now, Ended: evil}, {Lasting: true, Text: evil, About: evil, Remedy: evil}}
	return d
}
