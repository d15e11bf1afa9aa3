package browser

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// epoch is when what the documents tell began, so that an event has the same time in each.
var epoch = time.Now().UTC().Truncate(time.Second)

// Healthy returns the document of an agent that carries traffic, tick seconds after the first.
func Healthy(tick int) document.Document {
	now := time.Now().UTC().Truncate(time.Second)
	started := epoch.Add(-3*time.Hour - 24*time.Minute)
	d := document.Document{
		Version: document.Version, Time: now, End: document.Agent, Started: started, Uptime: now.Sub(started).Seconds(),
		Build: document.Build{Version: "v0.9.0", GoVersion: "go1.26.1", Platform: "linux/amd64"},
		State: document.State{Name: document.Ready, Since: started.Add(2 * time.Second)},

		Clients: document.Clients{Connections: 42},
		Listeners: []document.Listener{
			{Name: "kafka", Address: "127.0.0.1:9092", Advertised: "127.0.0.1", Protocols: "kafka", Connections: 42},
			{Name: "admin", Address: "127.0.0.1:9464"},
		},
		Tunnels: []document.Tunnel{{
			Gateway: "https://kafka.example.com", Version: "v0.9.0", Ingress: "envoy", Transport: "ws", Since: started.Add(time.Second),
			Why: "h3 did not answer", RTT: 0.0184,
			Tried: []document.Tried{
				{Transport: "h3", At: now.Add(-6 * time.Minute), Took: 5, Error: "timeout: no answer to a QUIC handshake on UDP port 443", NextProbe: now.Add(9 * time.Minute)},
				{Transport: "ws", At: started.Add(time.Second), Took: 0.231},
				{Transport: "h2"},
			},
			Carriers: []document.Carrier{{Transport: "ws", Connections: 46, Streams: 42, RTT: 0.0184, MaxRTT: 0.0231, Sent: 918242, Lost: 214}},
		}},
		Cluster: document.Cluster{ID: "5L6g3nShT-eMCtK--X86sw"},
		Window:  60,
		Closes: []document.Count{
			{Name: "client_fin", Count: 1204}, {Name: "broker_fin", Count: 37}, {Name: "drain", Count: 8}, {Name: "tunnel_cut", Count: 2},
		},
		Credentials: []document.Credential{
			{Setting: "--token-file", Kind: "token", Loaded: started, Age: now.Sub(started).Seconds()},
			{Setting: "--gateway-ca-file", Kind: "certificate", Loaded: started, Age: now.Sub(started).Seconds(), Expires: now.Add(212 * 24 * time.Hour), Left: 212 * 86400},
		},
		Limits: []document.Limit{
			{Name: "connections", Setting: "--max-connections", Used: 42, Max: 10000},
			{Name: "memory", Setting: "--max-memory", Used: 61 << 20, Max: 640 << 20, Unit: "bytes"},
		},
		Events: []document.Event{
			{Time: epoch.Add(-47 * time.Minute), Level: "warn", Count: 3, Last: epoch.Add(-46 * time.Minute), Text: "broker cannot be reached", About: "broker 2",
				Error:  "dial broker 2 at broker-2.kafka.internal:9092: connection refused",
				Remedy: "is the broker running, and does it listen on that port?", Lasting: true, Over: epoch.Add(-45 * time.Minute), Ended: "broker can be reached again"},
		},
	}
	for id := range int32(3) {
		d.Nodes = append(d.Nodes, document.Node{
			ID: id, Advertised: fmt.Sprintf("broker-%d.kafka.internal:9092", id), Local: []string{fmt.Sprintf("127.0.0.1:%d", 19092+id)},
			State: document.NodeReached, Since: now.Add(-45 * time.Minute), Connections: []int{18, 13, 11}[id],
		})
	}
	traffic(&d, tick)
	return d
}

// traffic fills the API keys.
func traffic(d *document.Document, tick int) {
	at := func(i int) float64 { return float64(tick+i)/7 + 0.3 }
	key := func(name string, rate, gateway, tunnel float64, in, out int, long bool) {
		a := document.API{Name: name, LongPoll: long, InFlight: int(rate * (gateway + tunnel))}
		for i := range document.MaxHistory {
			r := rand.New(rand.NewPCG(uint64(tick+i), uint64(len(name))))
			a.History = append(a.History, math.Max(0, math.Round(rate*(1+0.25*math.Sin(at(i)*2+float64(len(name)))+0.15*r.Float64()))))
		}
		for _, n := range a.History {
			a.Rate += n / float64(len(a.History))
		}
		a.Requests = uint64(rate * d.Uptime)
		a.RequestBytes, a.ResponseBytes = a.Requests*uint64(in), a.Requests*uint64(out)
		a.RequestByteRate, a.ResponseByteRate = a.Rate*float64(in), a.Rate*float64(out)
		mean := gateway + tunnel
		a.Latency = &document.Latency{Count: uint64(a.Rate * 60), Mean: mean, P50: mean * 0.86, P90: mean * 1.7, P99: mean * 3.1}
		if d.End == document.Agent {
			a.Gateway = &document.Latency{Count: a.Latency.Count, Mean: gateway}
			if !long {
				a.Tunnel = tunnel
			}
		} else {
			a.Latency.Mean, a.Latency.P50, a.Latency.P90, a.Latency.P99 = gateway, gateway*0.86, gateway*1.7, gateway*3.1
		}
		d.APIs = append(d.APIs, a)
	}
	key("ApiVersions", 0.4, 0.0008, 0.0187, 40, 520, false)
	key("Fetch", 96, 0.412, 0.0201, 160, 61000, true)
	key("Heartbeat", 7, 0.0011, 0.0189, 82, 12, false)
	key("Metadata", 1.2, 0.0014, 0.0192, 64, 912, false)
	key("OffsetCommit", 9, 0.0042, 0.0188, 210, 88, false)
	key("Produce", 311, 0.0063, 0.0196, 14300, 84, false)
	key("JoinGroup", 0.05, 2.81, 0.019, 310, 640, true)
	d.APIs[5].Errors = []document.Count{{Name: "metadata", Count: 4}}
	d.APIs[5].Throttle = 1.4
	total := document.API{Name: "total"}
	var mean, gateway float64
	for _, a := range d.APIs {
		if a.LongPoll {
			continue
		}
		total.Requests += a.Requests
		total.Rate += a.Rate
		total.InFlight += a.InFlight
		mean += a.Latency.Mean * a.Rate
		if a.Gateway != nil {
			gateway += a.Gateway.Mean * a.Rate
		}
		if total.History == nil {
			total.History = make([]float64, len(a.History))
		}
		for i, n := range a.History {
			total.History[i] += n
		}
	}
	mean /= total.Rate
	total.Latency = &document.Latency{Count: uint64(total.Rate * 60), Mean: mean, P50: mean * 0.86, P90: mean * 1.7, P99: mean * 3.1}
	if gateway > 0 {
		total.Gateway = &document.Latency{Count: total.Latency.Count, Mean: gateway / total.Rate}
		total.Tunnel = mean - total.Gateway.Mean
	}
	d.Total = total
}

// Broken returns the document of an agent with several failures: a broker that is down, one without
// its port, a gateway of two that no transport reaches, and a certificate that ends soon.
func Broken(tick int) document.Document {
	d := Healthy(tick)
	now := d.Time
	d.State.Missing = "broker 1 cannot be reached, and broker 2 has no port"
	d.State.Since = now.Add(-2 * time.Minute)
	d.Nodes[1].State, d.Nodes[1].Since, d.Nodes[1].Connections = document.NodeUnreachable, now.Add(-2*time.Minute), 0
	d.Nodes[1].Error = "dial broker-1.kafka.internal:9092: connection refused"
	d.Forwards = []document.Forward{
		{Name: "schema-registry", Address: "127.0.0.1:8081", State: document.NodeReached, Since: now.Add(-time.Hour), Connections: 2},
		{Name: "connect", Address: "127.0.0.1:8083", State: document.NodeUnreachable, Since: now.Add(-2 * time.Minute), Error: "dial connect at connect:8083: connection refused"},
	}
	d.Nodes[2].NoPort, d.Nodes[2].Local, d.Nodes[2].Connections = true, nil, 0
	d.Tunnels[0].Ingress = ""
	d.Tunnels = append(d.Tunnels, document.Tunnel{
		Gateway: "https://kafka-2.example.com", Error: "401 Unauthorized: the token was not accepted", RetryAt: now.Add(12 * time.Second),
		Tried: []document.Tried{
			{Transport: "h3", At: now.Add(-20 * time.Second), Took: 5, Error: "timeout: no answer to a QUIC handshake on UDP port 443"},
			{Transport: "ws", At: now.Add(-18 * time.Second), Took: 0.04, Error: "401 Unauthorized: the token was not accepted"},
			{Transport: "h2", At: now.Add(-18 * time.Second), Took: 0.04, Error: "401 Unauthorized: the token was not accepted"},
		},
	})
	d.Credentials[1].Expires, d.Credentials[1].Left = now.Add(5*24*time.Hour), 5*86400
	d.Credentials[0].Error = "--token-file token.txt: permission denied; the token that was read before is still used"
	d.Limits[0].Used, d.Limits[0].Refused = 9630, 12
	d.Refusals = []document.Count{{Name: "unknown_key", Count: 3}, {Name: "not_kafka", Count: 1}}
	d.Events = append([]document.Event{
		{Time: epoch.Add(-2 * time.Minute), Last: epoch.Add(-3 * time.Second), Count: 24, Level: "warn", Text: "broker cannot be reached", About: "broker 1",
			Error: "dial broker 1 at broker-1.kafka.internal:9092: connection refused", Remedy: "is the broker running, and does it listen on that port?", Lasting: true},
		{Time: epoch.Add(-4 * time.Minute), Count: 1, Level: "error", Text: "another process has the port of a broker", About: "broker 2",
			Error: "listen on 127.0.0.1:19094: address already in use", Remedy: "choose another range with --broker-port-base, or find out what uses the port: ss -ltnp 'sport = :19094'", Lasting: true},
		{Time: epoch.Add(-20 * time.Minute), Last: epoch.Add(-18 * time.Second), Count: 61, Level: "error", Text: "no transport works", About: "https://kafka-2.example.com",
			Error: "401 Unauthorized: the token was not accepted", Remedy: "is line 1 of --token-file one of the gateway's tokens?", Lasting: true},
	}, d.Events...)
	return d
}

// Gateway returns the document of the gateway at the other end.
func Gateway(tick int) document.Document {
	d := Healthy(tick)
	d.End = document.Gateway
	d.Listeners = []document.Listener{{Name: "tunnel", Address: "[::]:8443", Protocols: "h3, ws, h2", Connections: 46}, {Name: "admin", Address: "127.0.0.1:9465"}}
	d.Tunnels = []document.Tunnel{{Tried: []document.Tried{}, Carriers: []document.Carrier{
		{Transport: "h3", Connections: 2, Streams: 19, RTT: 0.0122, MaxRTT: 0.016, Sent: 51022, Lost: 81},
		{Transport: "ws", Connections: 27, Streams: 23, RTT: 0.0184, MaxRTT: 0.0231, Sent: 918242, Lost: 214},
	}}}
	d.Cluster.Bootstrap = []string{"kafka-0:9092", "kafka-1:9092"}
	for i := range d.Nodes {
		d.Nodes[i].Local = nil
	}
	d.APIs = nil
	traffic(&d, tick)
	return d
}

// Large returns a document with as much as there can be, and with texts as strangers choose them.
func Large(tick int) document.Document {
	d := Broken(tick)
	d.Clients.Connections = 1000
	d.Nodes = nil
	for id := range int32(document.MaxNodes) {
		n := document.Node{ID: id, Advertised: fmt.Sprintf("broker-%d.%s.kafka.internal:9092", id, strings.Repeat("long-", 20)), Local: []string{fmt.Sprintf("127.0.0.1:%d", 19092+id)},
			State: document.NodeReached, Connections: (int(id) + tick) % 7}
		if id%100 == 7 {
			n.State, n.Error = document.NodeUnreachable, "<img src=x onerror=alert(1)>"
		}
		d.Nodes = append(d.Nodes, n)
	}
	for i := len(d.APIs); i < 92; i++ {
		a := d.APIs[i%7]
		a.Name = fmt.Sprintf("%s%d", a.Name, i)
		d.APIs = append(d.APIs, a)
	}
	for i := len(d.Events); i < document.MaxEvents; i++ {
		d.Events = append(d.Events, document.Event{Time: epoch.Add(-time.Duration(i) * time.Minute), Count: i, Level: "warn", Text: "<b>" + strings.Repeat("nobreak", 40), About: "</script>", Remedy: strings.Repeat("do this ", 40)})
	}
	return d
}
