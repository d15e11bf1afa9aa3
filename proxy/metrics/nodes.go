package metrics

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// What [Metrics.Connection] takes for a connection that leads to no node.
const (
	Bootstrap   int32 = -1 // to a bootstrap address
	UnknownNode int32 = -2 // to an address whose node id is not known
)

// connections counts open Kafka connections by node. It shows a node by its id
// while it is one of the current cluster, and as unknown else: node ids come from
// peers, and series must not pile up.
type connections struct {
	desc *prometheus.Desc

	mu      sync.Mutex
	open    map[int32]int // besides nodes with connections, those to show that have none any more
	current map[int32]struct{}
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

// label is how a node is shown now. The lock is held.
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

// forget drops a node without connections that is not to be shown. The lock is
// held.
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

// Connection counts an open Kafka connection to a node, to [Bootstrap] or to an
// [UnknownNode]. A node that is not one of those of [Metrics.SetNodes] is shown
// as unknown. The caller calls closed once, when the connection is over.
func (m *Metrics) Connection(nodeID int32) (closed func()) {
	if nodeID < 0 && nodeID != Bootstrap {
		nodeID = UnknownNode
	}
	m.connections.enter(nodeID)
	return func() { m.connections.leave(nodeID) }
}

// SetNodes says which nodes of the cluster are in the table: at most as many as
// there may be series.
func (m *Metrics) SetNodes(ids []int32) {
	m.nodes.Set(float64(len(ids)))
	m.connections.setCurrent(ids)
}
