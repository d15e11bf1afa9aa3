package metrics

import (
	"maps"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Node ids for [Metrics.Connection], of connections whose node is not known.
const (
	Bootstrap   int32 = -1 // to a bootstrap address
	UnknownNode int32 = -2 // to an address whose node id is not known
)

// connections counts open Kafka connections by node id. Node ids come from peers, so a series for
// each would grow without end: at a scrape, only the nodes of the current cluster appear by id. All
// others are added up as "unknown".
type connections struct {
	desc *prometheus.Desc

	mu      sync.Mutex
	open    map[int32]int      // connections by node id; 0 for a current node whose connections have ended
	current map[int32]struct{} // the nodes of the current cluster
}

var _ prometheus.Collector = (*connections)(nil)

func newConnections() *connections {
	name := prometheus.BuildFQName(namespace, "", "connections")
	return &connections{
		desc: prometheus.NewDesc(name, "Kafka connections open now.", []string{"node_id"}, nil),
		open: map[int32]int{},
	}
}

func (c *connections) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c *connections) Collect(into chan<- prometheus.Metric) {
	for label, n := range c.byLabel() {
		into <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), label)
	}
}

func (c *connections) byLabel() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	shown := map[string]int{}
	for id, n := range c.open {
		shown[c.label(id)] += n
	}
	return shown
}

// label returns the label of a node. The caller holds mu.
func (c *connections) label(id int32) string {
	if id == Bootstrap {
		return "bootstrap"
	}
	if _, is := c.current[id]; is {
		return strconv.Itoa(int(id))
	}
	return "unknown"
}

func (c *connections) enter(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[id]++
}

func (c *connections) leave(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[id]--
	c.forget(id)
}

// forget drops a node that has no connections and is not in the current cluster. Without it, open
// would grow with each node id that a peer invents. The caller holds mu.
func (c *connections) forget(id int32) {
	if _, is := c.current[id]; !is && id >= 0 && c.open[id] == 0 {
		delete(c.open, id)
	}
}

func (c *connections) setCurrent(ids []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = make(map[int32]struct{}, len(ids))
	for _, id := range ids {
		c.current[id] = struct{}{}
	}
	for id := range c.open {
		c.forget(id)
	}
}

// nodeMetrics counts connections and dials to the brokers of a cluster.
type nodeMetrics struct {
	connections *connections
	nodes       prometheus.Gauge
	withoutPort prometheus.Gauge
	brokerDials *prometheus.CounterVec
}

func newNodeMetrics(f promauto.Factory, reg prometheus.Registerer) *nodeMetrics {
	m := &nodeMetrics{
		connections: newConnections(),
		nodes: f.NewGauge(gaugeOpts("nodes",
			"Nodes of the cluster that this process knows.")),
		withoutPort: f.NewGauge(gaugeOpts("nodes_without_port",
			"Nodes whose own port the agent cannot listen on.")),
		brokerDials: f.NewCounterVec(counterOpts("broker_dials_total",
			"Dials of a broker that ended."), []string{"result"}),
	}
	reg.MustRegister(m.connections)
	return m
}

// startAtZero creates the series of a gateway's dials before the first dial: see
// [tunnelMetrics.startAtZero].
func (m *nodeMetrics) startAtZero() {
	for _, r := range results {
		m.brokerDials.WithLabelValues(string(r))
	}
}

// Connection counts an open Kafka connection to a node, to [Bootstrap] or to an [UnknownNode]. A
// node that is not among those of [Metrics.SetNodes] is counted as unknown. The caller calls closed
// once, when the connection has ended.
func (m *nodeMetrics) Connection(nodeID int32) (closed func()) {
	if nodeID < 0 && nodeID != Bootstrap {
		nodeID = UnknownNode
	}
	m.connections.enter(nodeID)
	return func() { m.connections.leave(nodeID) }
}

// Connections returns how many Kafka connections are open now, by node id. Those to a [Bootstrap]
// address are among them.
func (m *nodeMetrics) Connections() map[int32]int {
	m.connections.mu.Lock()
	defer m.connections.mu.Unlock()
	return maps.Clone(m.connections.open)
}

// SetNodes sets the nodes of the current cluster. Each of them may get a series, so the caller
// bounds how many there are.
func (m *nodeMetrics) SetNodes(ids []int32) {
	m.nodes.Set(float64(len(ids)))
	m.connections.setCurrent(ids)
}

// SetNodesWithoutPort sets how many nodes have no port of their own.
func (m *nodeMetrics) SetNodesWithoutPort(n int) { m.withoutPort.Set(float64(n)) }

// BrokerDial counts a dial of a broker that ended with err, which may be nil.
func (m *nodeMetrics) BrokerDial(err error) {
	m.brokerDials.WithLabelValues(ResultOf(err).label()).Inc()
}
