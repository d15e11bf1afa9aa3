package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// maxNodes bounds the brokers that are dialled. No cluster known has as many.
	maxNodes = 10_000
	// maxNamed is how many brokers one line names; each has a line of its own too.
	maxNamed = 12
)

// Brokers examines a cluster through up, which the caller closes: a bootstrap broker, what it says
// of the cluster, and every broker that it names. known are tickets for brokers that are known
// already; they matter where Metadata wants a login.
func (d *Doctor) Brokers(ctx context.Context, up proxy.Upstream, known []tunnel.Ticket) {
	c := &cluster{Doctor: d, nodes: map[int32]node{}}
	c.open = func(ctx context.Context, to node) (net.Conn, error) {
		return proxy.Open(ctx, up, to.address, to.ticket, c.tickets.add)
	}
	for _, t := range known {
		c.nodes[t.NodeID] = node{t.NodeID, t.Address, &t}
	}
	c.examine(ctx)
}

// cluster is a cluster that is examined.
type cluster struct {
	*Doctor
	open    opener
	plain   bool // without culvert: brokers are dialled as their clients do it
	tickets tickets

	nodes      map[int32]node
	id         string   // of the cluster; "" until Metadata has told it
	mechanisms []string // that brokers log clients in by
	wantsLogin bool
	loggedIn   bool // the settings' login works, or none is needed
}

// opener opens a connection to a node. The zero node is a bootstrap broker.
type opener func(ctx context.Context, to node) (net.Conn, error)

type node struct {
	id      int32
	address string
	ticket  *tunnel.Ticket
}

func (c *cluster) examine(ctx context.Context) {
	if !c.hop(ctx, "bootstrap", c.bootstrap) {
		return
	}
	c.hop(ctx, "login", c.login)
	if c.loggedIn {
		c.hop(ctx, "metadata", c.metadata)
	}
	c.tally.reached = c.tally.reached || len(c.nodes) > 0
	c.runningAgents(ctx)
	c.nodePorts(ctx, slices.Collect(maps.Keys(c.nodes)))
	c.brokers(ctx)
	if c.Produce != "" {
		c.produce(ctx)
	}
	if c.Idle > 0 {
		c.examining("idle")
		f := c.idle(ctx)
		f.Hop = "idle"
		c.report(f)
	}
}

// bootstrap asks a bootstrap broker what every broker answers before a login, and whether it wants
// one.
func (c *cluster) bootstrap(ctx context.Context) Finding {
	start := time.Now()
	conn, err := c.open(ctx, node{})
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	n, err := apiVersions(ctx, conn)
	if err != nil {
		return c.failure(ctx, fmt.Errorf("ask a bootstrap broker for ApiVersions: %w", err)).or(c.whatListener())
	}
	took := time.Since(start)
	if err := c.learnLogin(ctx, conn); err != nil {
		return c.failure(ctx, fmt.Errorf("ask a bootstrap broker whether clients must log in: %w", err))
	}
	return ok("a bootstrap broker answers ApiVersions with %d API keys, %s after the dial", n, millis(took))
}

// learnLogin finds out whether brokers want a login. Kafka says so, and lists the mechanisms. A
// broker that does neither is asked for Metadata.
func (c *cluster) learnLogin(ctx context.Context, conn net.Conn) error {
	mechanisms, none, err := askForLogin(ctx, conn, c.mechanism())
	if err == nil && (none || len(mechanisms) > 0) {
		c.mechanisms, c.wantsLogin = mechanisms, !none
		return nil
	}
	stranger, err := c.open(ctx, node{})
	if err != nil {
		return err
	}
	defer stranger.Close()
	c.wantsLogin, err = refusesStrangers(ctx, stranger)
	return err
}

// whatListener asks whether it is the right listener of the broker.
func (c *cluster) whatListener() string {
	if c.plain {
		return "if this listener speaks TLS, " + c.Names.Sprintf("give a client's properties file with %s, and security.protocol=SSL or SASL_SSL in it", hints.ClientConfig)
	}
	return c.Names.Sprintf("do %s and %s of culvert gateway match a listener of the brokers?", hints.Bootstrap, hints.BrokerTLS)
}

// mechanism is that of the client, or one that most brokers know.
func (c *cluster) mechanism() string {
	if c.Client != nil && c.Client.LogsIn() {
		return c.Client.Mechanism
	}
	return "PLAIN"
}

// login logs in at a bootstrap broker, if that is needed and if the settings of a client are known.
func (c *cluster) login(ctx context.Context) Finding {
	client := c.Client
	want := "the brokers require a login"
	if len(c.mechanisms) > 0 {
		want += " by " + strings.Join(c.mechanisms, ", ")
	}
	switch {
	case !c.wantsLogin && (client == nil || !client.LogsIn()):
		c.loggedIn = true
		return ok("the brokers require no login")
	case !c.wantsLogin:
		return Finding{
			Result: Fail, Text: fmt.Sprintf("the client logs in by %s, but this listener does not use SASL", client.Mechanism), brief: "does not fit",
			Remedy: "set security.protocol to PLAINTEXT or SSL, or use the brokers' SASL listener",
		}
	case client == nil:
		return skipped(c.Names.Sprintf("the login, because there is no %s", hints.ClientConfig), want, c.Names.Sprintf("give a client's properties file with %s", hints.ClientConfig))
	case !client.LogsIn():
		return Finding{
			Result: Fail, Text: fmt.Sprintf("%s, but the client does not log in: security.protocol=%s", want, client.Protocol), brief: "is missing",
			Remedy: "set security.protocol to SASL_PLAINTEXT or SASL_SSL, sasl.mechanism and sasl.jaas.config",
		}
	case client.SASL == nil:
		return skipped("the login by "+client.Mechanism, strings.Join(client.Unsupported, "; "), "")
	case len(c.mechanisms) > 0 && !slices.Contains(c.mechanisms, client.Mechanism):
		return Finding{
			Result: Fail, Text: fmt.Sprintf("%s, and the client has sasl.mechanism=%s", want, client.Mechanism), brief: "does not fit",
			Remedy: "change sasl.mechanism, or sasl.enabled.mechanisms of the brokers",
		}
	}
	start := time.Now()
	if _, err := c.askAsClient(ctx, node{}, kmsg.NewPtrApiVersionsRequest()); err != nil {
		f := c.clientFailure(ctx, fmt.Errorf("log in by %s: %w", client.Mechanism, err)).or(c.whatPassword())
		if errors.Is(err, errClosed) {
			f.brief = "is refused" // as by brokers before Kafka 1.0
		}
		return f
	}
	c.loggedIn = true
	return ok("a bootstrap broker accepts the login by %s, %s after the dial", client.Mechanism, millis(time.Since(start)))
}

// metadata adds the brokers that a bootstrap broker names to the nodes.
func (c *cluster) metadata(ctx context.Context) Finding {
	m, err := c.askForMetadata(ctx, node{})
	if err != nil {
		return c.clientFailure(ctx, fmt.Errorf("ask a bootstrap broker for Metadata: %w", err))
	}
	c.id = clusterID(m)
	var names []string
	for _, b := range m.Brokers {
		address := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		if len(c.nodes) < maxNodes {
			c.nodes[b.NodeID] = node{b.NodeID, address, c.tickets.of(address)}
		}
		names = append(names, fmt.Sprintf("%d at %s", b.NodeID, addressOf(b)))
	}
	slices.Sort(names)
	if len(names) == 0 {
		return Finding{Result: Fail, Text: c.id + " names no brokers", Remedy: "are the brokers registered with their controllers?"}
	}
	return ok("%s, brokers %s", c.id, listed(names))
}

// addressOf is where a broker says that it is, to be shown.
func addressOf(b kmsg.MetadataResponseBroker) string {
	return printable.Text(net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), printable.Name)
}

// clusterID is how a cluster calls itself.
func clusterID(m *kmsg.MetadataResponse) string {
	if m.ClusterID == nil || *m.ClusterID == "" {
		return "cluster without an id"
	}
	return "cluster " + printable.Text(*m.ClusterID, printable.Name)
}

// brokers examines all brokers that are known.
func (c *cluster) brokers(ctx context.Context) {
	all := slices.SortedFunc(maps.Values(c.nodes), func(a, b node) int { return cmp.Compare(a.id, b.id) })
	hops := make([]string, len(all))
	for i, n := range all {
		hops[i] = "broker " + strconv.Itoa(int(n.id))
	}
	c.atOnce(ctx, hops, func(ctx context.Context, i int) Finding { return c.broker(ctx, all[i]) },
		func(_ int, f Finding) { c.report(f) })
}

// broker dials the address that a broker advertises, from where the dial is made for clients: this
// is where clients without culvert end in silence. There it does what a client does.
func (c *cluster) broker(ctx context.Context, n node) Finding {
	start := time.Now()
	conn, err := c.open(ctx, n)
	if err != nil {
		f := c.failure(ctx, err)
		if c.plain {
			f.unreachable = true
			return f.or(fmt.Sprintf("advertised.listeners of broker %d must be an address that clients can reach; if the network lets in only HTTPS, culvert provides one", n.id))
		}
		return f
	}
	defer conn.Close()
	if !c.loggedIn {
		if _, err := apiVersions(ctx, conn); err != nil {
			return c.failure(ctx, fmt.Errorf("%s: %w", n.address, err)).or(c.whatAddress())
		}
		return ok("%s answers, %s after the dial", n.address, millis(time.Since(start)))
	}
	m, err := c.metadataOver(ctx, conn)
	if err != nil {
		return c.clientFailure(ctx, fmt.Errorf("%s: %w", n.address, err)).or(c.whatAddress())
	}
	if id := clusterID(m); id != c.id {
		return Finding{
			Result: Fail, Text: fmt.Sprintf("%s leads to another cluster: %s", n.address, id), brief: "is another cluster's",
			Remedy: "this is the address that the broker advertises: what else listens there?",
		}
	}
	how := "answers"
	if c.wantsLogin {
		how = "accepts the login and answers"
	}
	return ok("%s %s, %s after the dial", n.address, how, millis(time.Since(start)))
}

func (c *cluster) whatAddress() string {
	if c.plain {
		return "this is the address that the broker advertises: does it lead to the broker from here?"
	}
	return "this is the address that the broker advertises: it must lead from the gateway to the broker"
}

// idle leaves a connection alone, and sees whether it is there afterwards.
func (c *cluster) idle(ctx context.Context) Finding {
	start := time.Now()
	conn, err := c.open(ctx, node{})
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	if _, err := apiVersions(ctx, conn); err != nil {
		return c.failure(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetReadDeadline(time.Now().Add(c.Idle))
	_, err = conn.Read(make([]byte, 1))
	lasted := time.Since(start)
	switch {
	case ctx.Err() != nil:
		return Finding{Result: Info, Took: lasted, Text: fmt.Sprintf("interrupted: an idle connection has stayed open for %s so far", lasted.Round(time.Second))}
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return Finding{
			Result: Warn, Took: lasted, Text: fmt.Sprintf("an idle connection was cut after %s: %v", lasted.Round(time.Second), err),
			Remedy: "clients connect again by themselves; if the time is short, look for the limit of the ingress or of connections.max.idle.ms",
		}
	}
	conn.SetReadDeadline(time.Time{})
	if _, err := apiVersions(ctx, conn); err != nil {
		return c.failure(ctx, fmt.Errorf("after %v without requests: %w", c.Idle, err))
	}
	f := ok("a connection without requests stayed open for %v", c.Idle)
	f.Took = time.Since(start)
	return f
}
