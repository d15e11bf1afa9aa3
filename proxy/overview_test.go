package proxy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/events"
)

// observed is a path whose ends' documents a test reads, with the events that cmd/culvert adds.
type observed struct {
	running
	agent, gateway func() document.Document // gateway is nil without a tunnel
}

// observe starts a path. With probes, the agent asks brokers itself, as it does in life.
func observe(t *testing.T, bootstrap []string, transport string, probes bool) *observed {
	t.Helper()
	o := &observed{}
	up := waysTo(t, bootstrap, transport, func(g *Gateway) {
		var l events.Log
		g.Logger = slog.New(l.Handler(g.Logger.Handler()))
		o.gateway = func() document.Document {
			d := g.Status()
			d.Events = l.Events()
			return d
		}
	})()
	o.running = startAgent(t, up, func(a *Agent) {
		var l events.Log
		a.Logger = slog.New(l.Handler(a.Logger.Handler()))
		if probes {
			a.ask = nil
		}
		o.agent = func() document.Document {
			d := a.Status()
			d.Events = l.Events()
			return d
		}
	})
	return o
}

// ends are the documents of both ends.
func (o *observed) ends() map[string]func() document.Document {
	ends := map[string]func() document.Document{"agent": o.agent}
	if o.gateway != nil {
		ends["gateway"] = o.gateway
	}
	return ends
}

func nodeOf(d document.Document, id int32) document.Node {
	for _, n := range d.Nodes {
		if n.ID == id {
			return n
		}
	}
	return document.Node{ID: -1}
}

func TestTheDocumentShowsThePath(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.SeedTopics(3, "sight"))
		o := observe(t, c.Bootstrap(), transport, false)
		client := newClient(t, o.address)
		produce(t, client, "sight", 100)
		waitFor(t, "the agent to be ready", func() bool { return o.agent().State.Name == document.Ready }) // its own question may come late
		a := o.agent()
		if a.State.Since.IsZero() || a.End != document.Agent {
			t.Errorf("state %+v of %s", a.State, a.End)
		}
		if len(a.Listeners) != 1 || a.Listeners[0].Address != o.address || a.Listeners[0].Connections != a.Clients.Connections || a.Clients.Connections == 0 {
			t.Errorf("listeners %+v, clients %+v", a.Listeners, a.Clients)
		}
		if len(a.Tunnels) != 1 || a.Tunnels[0].Transport != transport {
			t.Errorf("tunnels %+v, want one over %s", a.Tunnels, transport)
		}
		for end, read := range o.ends() {
			d := read()
			if d.Cluster.ID != "kfake" || len(d.Nodes) != 3 {
				t.Fatalf("%s: cluster %+v, nodes %+v", end, d.Cluster, d.Nodes)
			}
			connections := 0
			for i, n := range d.Nodes {
				if n.ID != int32(i) || n.Advertised == "" || end == "agent" && !slices.Equal(n.Local, []string{o.node(n.ID)}) {
					t.Errorf("%s: node %+v", end, n)
				}
				connections += n.Connections
			}
			if connections == 0 {
				t.Errorf("%s: no connections to nodes: %+v", end, d.Nodes)
			}
			i := slices.IndexFunc(d.APIs, func(a document.API) bool { return a.Name == "Produce" })
			if i < 0 || d.APIs[i].Requests == 0 || d.APIs[i].Latency == nil {
				t.Errorf("%s: Produce is not among %+v", end, d.APIs)
			}
			noNulls(t, end, d)
		}
		if o.gateway == nil {
			return
		}
		g := o.gateway()
		if a.Tunnels[0].Version != "test" || a.Tunnels[0].Since.IsZero() || len(a.Tunnels[0].Tried) != 1 {
			t.Errorf("tunnel %+v", a.Tunnels[0])
		}
		for end, d := range map[string]document.Document{"agent": a, "gateway": g} {
			c := d.Tunnels[0].Carriers
			if len(c) != 1 || c[0].Transport != transport || c[0].Connections == 0 || c[0].Streams == 0 {
				t.Errorf("%s: carriers %+v, want one kind", end, c)
			}
		}
		if left := a.Credentials; len(left) != 1 || left[0].Setting != "--gateway-url" || left[0].Left <= 0 {
			t.Errorf("credentials %+v, want the certificate of the gateway", left)
		}
		if g.State.Name != document.Ready || len(g.Cluster.Bootstrap) != 3 || len(g.Listeners) != 1 || "https://"+g.Listeners[0].Address != a.Tunnels[0].Gateway {
			t.Errorf("gateway %+v %+v %+v", g.State, g.Cluster, g.Listeners)
		}
	})
}

// noNulls fails where a list of the document is not a list.
func noNulls(t *testing.T, end string, d document.Document) {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil || strings.Contains(string(text), "null") {
		t.Errorf("%s: %v, null in %s", end, err, text)
	}
}

// A broker that is down shows at both ends, with the event, and so does its return.
func TestABrokerThatIsDownShows(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2)
		o := observe(t, c.Bootstrap(), transport, false)
		dialKafka(t, o.address).brokers(t)
		waitFor(t, "both ends to know the nodes", func() bool {
			return len(o.agent().Nodes) == 2 && (o.gateway == nil || len(o.gateway().Nodes) == 2)
		})
		if n := nodeOf(o.agent(), 1); n.State != document.NodeUnknown {
			t.Errorf("before any connection: %+v", n)
		}
		address := c.Bootstrap()[1]
		if err := c.RemoveNode(1); err != nil {
			t.Fatal(err)
		}
		down := dialKafka(t, o.node(1))
		down.send(kmsg.NewPtrApiVersionsRequest(), 0)
		ended(t, down)
		for end, read := range o.ends() {
			waitFor(t, end+" to show that the broker is down", func() bool {
				n, failed := nodeOf(read(), 1), read().Events
				return n.State == document.NodeUnreachable && n.Error != "" && !n.Since.IsZero() && len(failed) == 1 && failed[0].Open()
			})
		}
		if err := c.AddAt(1, address); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the broker to answer again", func() bool {
			_, err := dialKafka(t, o.node(1)).ask(kmsg.NewPtrApiVersionsRequest(), 0)
			return err == nil
		})
		for end, read := range o.ends() {
			waitFor(t, end+" to show that the broker is back", func() bool {
				n, over := nodeOf(read(), 1), read().Events
				return n.State == document.NodeReached && n.Error == "" && len(over) == 1 && !over[0].Open() && over[0].Ended == "broker reached again"
			})
		}
	})
}

// In an outage of all brokers, neither end says that one is reached which was reached before.
func TestNoNodeIsReachedInAnOutage(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2)
		o := observe(t, c.Bootstrap(), transport, true)
		dialKafka(t, o.address).brokers(t)
		for id := range int32(2) {
			if _, err := dialKafka(t, o.node(id)).ask(kmsg.NewPtrApiVersionsRequest(), 0); err != nil {
				t.Fatal(err)
			}
		}
		before := map[string]time.Time{}
		for end, read := range o.ends() {
			waitFor(t, end+" to show that the node is reached", func() bool { return nodeOf(read(), 1).State == document.NodeReached })
			before[end] = nodeOf(read(), 1).Since
		}
		c.Close()
		down := dialKafka(t, o.node(0)) // has both ends check
		down.send(kmsg.NewPtrApiVersionsRequest(), 0)
		ended(t, down)
		for end, read := range o.ends() {
			waitFor(t, end+" to show that nothing is known of the node", func() bool {
				n := nodeOf(read(), 1)
				return n.State == document.NodeUnknown && n.Since.After(before[end]) && n.Error == ""
			})
		}
	})
}

// Without brokers both ends start, and the agent says why it is not ready.
func TestAnOutageAtTheStartShows(t *testing.T) {
	broker := freeAddress(t)
	o := observe(t, []string{broker}, "ws", true)
	waitFor(t, "the outage to show", func() bool {
		d := o.agent()
		return d.State.Name == document.Starting && d.State.Why != "" && len(d.Events) > 0 && d.Events[0].Open()
	})
	if d := o.gateway(); d.State.Name != document.Starting {
		t.Errorf("the gateway is %+v", d.State)
	}
}

// A port that another process has shows, and that it is free again.
func TestAPortThatIsTakenShows(t *testing.T) {
	c := startCluster(t, 1)
	base := freePortBase(t)
	holder, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	var read func() document.Document
	path := startAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), func(a *Agent) {
		var l events.Log
		a.BrokerPortBase, a.Logger = base, slog.New(l.Handler(a.Logger.Handler()))
		read = func() document.Document {
			d := a.Status()
			d.Events = l.Events()
			return d
		}
	})
	dialKafka(t, path.address).brokers(t)
	if d := read(); len(d.Nodes) != 1 || !d.Nodes[0].SparePort || d.Nodes[0].NoPort || len(d.Events) != 1 || !d.Events[0].Open() || d.Events[0].Remedy == "" {
		t.Errorf("with a port that is taken: %+v %+v", d.Nodes, d.Events)
	}
	holder.Close()
	waitFor(t, "the port to be free", func() bool {
		d := read()
		return !d.Nodes[0].SparePort && d.Nodes[0].Local[0] == path.node(0) && !d.Events[0].Open()
	})
}

// Latency truth: a broker answers each request after a known time. Both ends' documents say at least
// that, the agent no less than the gateway, and exactly what their histograms say.
func TestTheDocumentTellsTheTruthAboutLatency(t *testing.T) {
	const delay = 30 * time.Millisecond
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte {
		time.Sleep(delay)
		return metadata(id, 1)
	}))
	o := observe(t, []string{broker}, "h3", false)
	c := dialKafka(t, o.address)
	for range 20 {
		if _, err := c.ask(kmsg.NewPtrMetadataRequest(), 1); err != nil {
			t.Fatal(err)
		}
	}
	width := math.Exp2(1.0 / 8)
	var means []float64
	for _, end := range []string{"gateway", "agent"} {
		d := o.ends()[end]()
		i := slices.IndexFunc(d.APIs, func(a document.API) bool { return a.Name == "Metadata" })
		l := d.APIs[i].Latency
		if l.Count != 20 || l.Mean < delay.Seconds() || l.P50 < delay.Seconds()/width || l.P99 < l.P50 {
			t.Errorf("the %s says %+v of a broker that takes %v", end, l, delay)
		}
		means = append(means, l.Mean)
	}
	if means[1] < means[0] {
		t.Errorf("means: gateway %v, agent %v", means[0], means[1])
	}
	a := o.agent()
	i := slices.IndexFunc(a.APIs, func(a document.API) bool { return a.Name == "Metadata" })
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != "culvert_request_duration_seconds" || m.GetLabel()[0].GetValue() != "Metadata" {
				continue
			}
			h, l := m.GetHistogram(), a.APIs[i].Latency
			if h.GetSampleCount() != l.Count || math.Abs(h.GetSampleSum()/float64(l.Count)-l.Mean) > 1e-9 {
				t.Errorf("%+v, and the histogram has %d with %v s in all", l, h.GetSampleCount(), h.GetSampleSum())
			}
			for q, got := range map[float64]float64{0.5: l.P50, 0.9: l.P90} {
				lower := 0.0
				for _, b := range h.GetBucket() { // the classic bucket with the quantile
					if float64(b.GetCumulativeCount()) >= q*float64(l.Count) {
						if got < lower/width || got > b.GetUpperBound()*width {
							t.Errorf("quantile %v is %v, and in the classic histogram between %v and %v", q, got, lower, b.GetUpperBound())
						}
						break
					}
					lower = b.GetUpperBound()
				}
			}
		}
	}
}

// What a hostile broker names stays out of the document, or is printable in it, and the document is
// bounded.
func TestAHostileBrokerDoesNotFillTheDocument(t *testing.T) {
	evil := "\x1b[2J\u202e<script>" + strings.Repeat("x", 1000)
	names, cluster := 0, "c"
	broker := fakeBroker(t, answering(func(key, _ int16, id int32) []byte {
		r := kmsg.NewPtrMetadataResponse()
		r.Version, r.ClusterID = 2, &cluster
		for range 10_000 {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = int32(names), fmt.Sprintf("%s.kafka.example", strings.Repeat("y", 63)), 9092
			if names%3 == 0 {
				b.Host = evil
			}
			names++
			r.Brokers = append(r.Brokers, b)
		}
		return r.AppendTo([]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
	}))
	o := observe(t, []string{broker}, "ws", false)
	c := dialKafka(t, o.address)
	for range 3 {
		c.ask(kmsg.NewPtrMetadataRequest(), 2)
		c = dialKafka(t, o.address)
	}
	for end, read := range o.ends() {
		d := read()
		text, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Nodes) > document.MaxNodes || len(text) > document.MaxBytes {
			t.Errorf("%s: %d nodes, %d bytes", end, len(d.Nodes), len(text))
		}
		if strings.ContainsAny(string(text), "\x1b\u202e") || strings.Contains(string(text), `\u001b`) {
			t.Errorf("%s: not printable", end)
		}
		t.Logf("%s: %d nodes, %d bytes", end, len(d.Nodes), len(text))
	}
}

// BenchmarkDocument is what a document costs with 1,000 connections and 100 nodes.
func BenchmarkDocument(b *testing.B) {
	a := &Agent{
		Listens: []Listen{{Bind: "127.0.0.1:9092"}}, Upstream: NewDirect(&Brokers{Bootstrap: []string{"broker:9092"}}),
		Metrics: metrics.New(prometheus.NewRegistry(), metrics.Agent, "test"), listenOn: func(string, string) (net.Listener, error) { return nil, nil },
	}
	a.setUp(b.Context())
	a.nodes.serve = func(net.Listener, int, int32) {}
	a.bound.Store(&[]string{"127.0.0.1:9092"})
	ids := make([]int32, 100)
	for i := range ids {
		ids[i] = int32(i)
		a.nodes.put(node{id: ids[i], address: fmt.Sprintf("kafka-%d.kafka.example:9092", i)})
		if err := a.nodes.open(ids[i]); err != nil {
			b.Fatal(err)
		}
		a.watch.states.note(fmt.Sprint(i), nil)
	}
	a.Metrics.SetNodes(ids)
	for i := range 1000 {
		a.clients.add(&agentConn{listen: 0, nodeID: int32(i % 100)})
		a.Metrics.Connection(int32(i % 100))
	}
	for k := range 20 {
		key := a.Metrics.API(protocol.APIKey(k))
		for i := range 30 {
			key.Requests.Inc()
			key.Duration.Observe(0.0005 * math.Exp2(float64(i)/8))
		}
	}
	var size int
	b.ReportAllocs()
	for b.Loop() {
		text, err := json.MarshalIndent(a.Status(), "", "  ")
		if err != nil {
			b.Fatal(err)
		}
		size = len(text)
	}
	b.ReportMetric(float64(size), "bytes/document")
}
