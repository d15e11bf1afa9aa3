package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// watched is a watch whose broker answers with err; nil is an answer.
type watched struct {
	brokerWatch
	log   *memoryLog
	asked atomic.Int64
	err   atomic.Pointer[error]

	failures atomic.Int64 // how many more asks fail although err is nil
}

func (w *watched) fail(err error) { w.err.Store(&err) }
func (w *watched) answer()        { w.err.Store(nil) }

// startWatch runs a watch in a bubble until the test ends.
func startWatch(t *testing.T, err error) *watched {
	w := &watched{log: &memoryLog{}}
	w.brokerWatch.log, w.clients, w.lost, w.every, w.early = w.log.logger(), true, "no broker answers", 30*time.Second, make(chan struct{}, 1)
	w.ask = func(context.Context) error {
		w.asked.Add(1)
		if err := w.err.Load(); err != nil {
			return *err
		}
		if w.failures.Add(-1) >= 0 {
			return errors.New("restarting")
		}
		return nil
	}
	if err != nil {
		w.fail(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return w
}

// lines are the messages and attributes that have been logged, without the time.
func (w *watched) lines() (lines []string) {
	for line := range strings.Lines(w.log.String()) {
		lines = append(lines, regexp.MustCompile(`^time=\S+ `).ReplaceAllString(strings.TrimSpace(line), ""))
	}
	return lines
}

func (w *watched) wantLines(t *testing.T, want ...string) {
	t.Helper()
	got := w.lines()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("one line too many: %s", got[i])
		case i >= len(got) || !strings.Contains(got[i], want[i]):
			t.Errorf("line %d of %q lacks %q", i, got, want[i])
		}
	}
}

// An outage is one line, whatever happens in it, and its end is another, which says how long it
// took and how many clients it has cost.
func TestAnOutageLeavesOneLineAndItsEndAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, nil)
		if ever, missing := w.state(); !ever || missing != nil {
			t.Fatalf("state = %v, %v, want that a broker answers", ever, missing)
		}
		w.fail(errors.New("dial 10.0.0.1:9092 from port 40001: refused; dial 10.0.0.2:9092: refused"))
		w.reset() // a client's connection shows it first
		time.Sleep(40 * time.Second)
		w.reset()
		w.fail(errors.New("dial 10.0.0.2:9092: refused; dial 10.0.0.1:9092 from port 40002: refused"))
		w.reset()
		_, missing := w.state()
		if want := "no broker answers: dial 10.0.0.1:9092"; missing == nil || !strings.HasPrefix(missing.Error(), want) {
			t.Errorf("missing %v, want %q", missing, want)
		}
		w.answer()
		time.Sleep(checkRetryMost)
		if _, missing := w.state(); missing != nil {
			t.Errorf("still missing after the end: %v", missing)
		}
		w.wantLines(t, `level=WARN msg="no broker answers" err="dial 10.0.0.1`, `level=INFO msg="brokers answer again" after=`)
		if last := w.lines()[1]; !regexp.MustCompile(`after=(39|4\d)\.\d+s clients_reset=3$`).MatchString(last) {
			t.Errorf("%q, want three clients in about 40 s", last)
		}

		w.fail(errors.New("refused"))
		w.reset()
		time.Sleep(10 * time.Second)
		w.wantLines(t, "no broker answers", "brokers answer again", "no broker answers")
	})
}

// What was reached before an outage is not known in it, and reached again after it.
func TestANodeIsNotKnownInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, nil)
		started := time.Now().UTC()
		w.states.note("1", nil)
		shows := func(node string, want document.Node) {
			t.Helper()
			var n document.Node
			if w.showNode(node, &n); !reflect.DeepEqual(n, want) {
				t.Errorf("node %s: %+v, want %+v", node, n, want)
			}
		}
		shows("1", document.Node{State: document.NodeReached, Since: started})
		time.Sleep(time.Minute)
		w.fail(errors.New("down"))
		time.Sleep(time.Minute)
		since := w.changed().UTC()
		if !since.After(started) {
			t.Fatalf("the outage began at %v", since)
		}
		shows("1", document.Node{State: document.NodeUnknown, Since: since})
		w.states.note("2", errors.New("refused"))
		shows("2", document.Node{State: document.NodeUnreachable, Since: time.Now().UTC(), Error: "refused"})
		shows("3", document.Node{State: document.NodeUnknown})
		w.answer()
		time.Sleep(time.Minute)
		shows("1", document.Node{State: document.NodeReached, Since: started})
	})
}

// A failed connection is logged unless an outage explains it, which is known after the next check.
func TestAnOutageExplainsTheConnectionsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, nil)
		fails := func() {
			w.reset()
			if !w.explains() {
				w.unlessOutage(func() { w.brokerWatch.log.Warn("connection reset") })
			}
		}
		fails()
		w.wantLines(t)
		time.Sleep(2 * checkAtMost)
		w.wantLines(t, "connection reset")

		w.fail(errors.New("refused"))
		fails()
		time.Sleep(10 * time.Second)
		fails()
		w.answer()
		time.Sleep(10 * time.Second)
		w.wantLines(t, "connection reset", "no broker answers", "brokers answer again")

	})
	var asked brokerWatch // whose next check does not come
	logged := 0
	for range 2 * maxUnexplained {
		asked.unlessOutage(func() { logged++ })
	}
	if n := len(asked.unexplained); n != maxUnexplained || logged != maxUnexplained {
		t.Errorf("%d lines wait and %d do not, want %d each", n, logged, maxUnexplained)
	}
}

// Another reason is another thing to do: it is said too, once, and not without end.
func TestAnotherReasonIsAnotherLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, errors.New("connection refused"))
		time.Sleep(time.Minute)
		w.fail(errors.New("TLS handshake: does this listener speak TLS?"))
		time.Sleep(time.Minute)
		w.fail(errors.New("connection refused"))
		time.Sleep(time.Minute)
		w.wantLines(t, `err="connection refused"`, "TLS handshake")
		for i := range 20 {
			w.fail(fmt.Errorf("reason %c", 'a'+i))
			time.Sleep(time.Minute)
		}
		if got := len(w.lines()); got != maxReasons {
			t.Errorf("%d lines, want %d", got, maxReasons)
		}
	})
}

// A gateway that restarts, or a broker, is no outage yet. The end of a first outage, at the start,
// is the line with "ready", which the caller prints.
func TestOneFailureIsNoOutageAndTheFirstEndIsNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, errors.New("refused"))
		time.Sleep(time.Minute)
		w.answer()
		time.Sleep(checkRetryMost)
		w.wantLines(t, "no broker answers")

		w.failures.Store(1)
		w.reset()
		time.Sleep(time.Minute)
		w.wantLines(t, "no broker answers")
		if w.failures.Load() >= 0 {
			t.Error("it was not asked again")
		}
	})
}

// Clients that reconnect many times a second do not have brokers asked as often.
func TestManyFailuresAreFewChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, nil)
		asked := w.asked.Load()
		for range 1000 {
			w.reset()
			time.Sleep(10 * time.Millisecond)
		}
		if n := w.asked.Load() - asked; n < 5 || n > 11 {
			t.Errorf("asked %d times in 10 s, want about once a second", n)
		}
	})
}

// What the tunnel has logged already is not logged again, but is what readiness says.
func TestAGatewayThatIsNotReachedIsLoggedByTheTunnelAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t, upstreamError{errors.New("dial gateway: refused"), true})
		time.Sleep(time.Minute)
		w.wantLines(t)
		if _, missing := w.state(); missing == nil || !strings.Contains(missing.Error(), "no stream to a broker: dial gateway: refused") {
			t.Errorf("missing %v", missing)
		}
		w.fail(upstreamError{errors.New("streams: too many"), false})
		time.Sleep(time.Minute)
		w.wantLines(t, `msg="no stream to a broker" err="streams: too many"`)
	})
}

// An agent finds out by itself which cluster is behind the gateway, and says it.
func TestTheAgentIntroducesItself(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		got := make(chan Path, 1)
		var agent *Agent
		path := startPath(t, c, transport, func(a *Agent) {
			agent, a.ask = a, nil
			a.Answered = func(p Path) { got <- p }
		})
		p := <-got
		if p.ClusterID == "" || p.Transport != transport || p.RoundTrip <= 0 || len(p.Nodes) != 3 {
			t.Errorf("the path is %+v", p)
		}
		for _, n := range p.Nodes {
			if n.Address != path.node(n.ID) {
				t.Errorf("node %d is at %s, want %s", n.ID, n.Address, path.node(n.ID))
			}
		}
		waitFor(t, "the agent to be ready", func() bool { return agent.Ready() == nil })
	})
}

// Brokers that want a login answer for their API versions. That shows that the way works; which
// brokers there are, clients learn.
func TestAnAgentIsReadyBeforeAnyLogin(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2, saslCluster...)
		got := make(chan Path, 1)
		startPath(t, c, transport, func(a *Agent) { a.ask, a.Answered = nil, func(p Path) { got <- p } })
		if p := <-got; p.ClusterID != "" || len(p.Nodes) > 0 || p.RoundTrip <= 0 {
			t.Errorf("the path is %+v, want one without a cluster", p)
		}
	})
}

// Behind a gateway that is there, brokers that are not make the agent not ready, and it says which
// of both it is.
func TestReadinessSaysWhetherTheGatewayOrTheBrokersAreMissing(t *testing.T) {
	log := &memoryLog{}
	gateway := freeAddress(t)
	broker := freeAddress(t)
	var agent *Agent
	startAgent(t, tunnelTo(t, "https://"+gateway, "ws"), func(a *Agent) { agent, a.ask, a.Logger = a, nil, log.logger() })
	missing := func(want string) {
		t.Helper()
		waitFor(t, want, func() bool {
			err := agent.Ready()
			return err != nil && strings.HasPrefix(err.Error(), want)
		})
	}
	missing("no stream to a broker: ")
	var g *Gateway
	startGatewayOn(t, gateway, []string{broker}, func(it *Gateway) { g = it })
	missing("the gateway answers, the brokers do not: ")
	if err := g.Ready(); err == nil || !strings.HasPrefix(err.Error(), "no bootstrap broker answers: ") {
		t.Errorf("the gateway is ready without brokers: %v", err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, log)
	}
}

// While one broker of several is down, each end has one line about it, however often clients try,
// and one when it is back.
func TestANodeThatIsDownIsOneLine(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2)
		agentLog, gatewayLog := &memoryLog{}, &memoryLog{}
		up := waysTo(t, c.Bootstrap(), transport, func(g *Gateway) { g.Logger = gatewayLog.logger() })()
		path := startAgent(t, up, func(a *Agent) { a.Logger = agentLog.logger() })
		logs := map[string]*memoryLog{"agent": agentLog}
		if transport != "direct" {
			logs["gateway"] = gatewayLog
		}
		dialKafka(t, path.address).brokers(t)
		address := c.Bootstrap()[1]
		if err := c.RemoveNode(1); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			down := dialKafka(t, path.node(1))
			down.send(kmsg.NewPtrApiVersionsRequest(), 0)
			ended(t, down)
		}
		for end, log := range logs {
			waitFor(t, end+" to log the broker", func() bool { return strings.Contains(log.String(), "level=WARN") })
		}
		if err := c.AddAt(1, address); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the broker to answer again", func() bool {
			_, err := dialKafka(t, path.node(1)).ask(kmsg.NewPtrApiVersionsRequest(), 0)
			return err == nil
		})
		for end, log := range logs {
			warned, back := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), `msg="broker reached again"`)
			if warned != 1 || back != 1 {
				t.Errorf("the %s has %d warnings and %d lines about the end, want one each:\n%s", end, warned, back, log)
			}
		}
	})
}

// So it is while a broker's name leads to an address that is never dialled.
func TestANodeThatMayNotBeDialledIsOneLine(t *testing.T) {
	c := startCluster(t, 2)
	resolver := &movedNode{}
	resolver.moved.Store(true)
	logs := map[string]*memoryLog{"agent": {}, "gateway": {}}
	up := waysTo(t, c.Bootstrap()[:1], "ws", func(g *Gateway) { g.Logger, g.Brokers.Resolver = logs["gateway"].logger(), resolver })()
	path := startAgent(t, up, func(a *Agent) { a.Logger = logs["agent"].logger() })
	dialKafka(t, path.address).brokers(t)
	ask := func() error {
		_, err := dialKafka(t, path.node(1)).ask(kmsg.NewPtrApiVersionsRequest(), 0)
		return err
	}
	for range 5 {
		if ask() == nil {
			t.Fatal("a broker on a link-local address answered")
		}
	}
	for end, log := range logs {
		waitFor(t, end+" to log the broker", func() bool { return strings.Contains(log.String(), "is link-local") })
	}
	resolver.moved.Store(false)
	waitFor(t, "the broker to answer", func() bool { return ask() == nil })
	for end, log := range logs {
		warned, back := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), `msg="broker reached again"`)
		if warned != 1 || back != 1 {
			t.Errorf("the %s has %d warnings and %d lines about the end, want one each:\n%s", end, warned, back, log)
		}
	}
}

// movedNode resolves the names of a cluster's brokers, that of node 1 to a link-local address while
// moved is set.
type movedNode struct{ moved atomic.Bool }

func (m *movedNode) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == fakekafka.Host(1) && m.moved.Load() {
		return []netip.Addr{netip.MustParseAddr("169.254.1.1")}, nil
	}
	return fakekafka.Resolver{}.LookupNetIP(ctx, network, host)
}

// A target that an agent may not ask for is no outage: those that are remembered are bounded, and an
// agent could fill them.
func TestARefusedTargetIsNoOutage(t *testing.T) {
	var gateway *Gateway
	up := tunnelTo(t, startGateway(t, []string{"10.0.0.1:9092"}, func(g *Gateway) { gateway = g }).address, "ws")
	defer up.close()
	if refused := askFor(t, up, "10.0.0.2:9092", nil); refused.Code != tunnel.CodeTarget {
		t.Errorf("%v, want it refused", refused)
	}
	if took, was := gateway.watch.nodes.ends("10.0.0.2:9092"); was {
		t.Errorf("the refusal is an outage of %v", took)
	}
}

// What an agent names cannot fill the memory, nor the log.
func TestOutagesAreBounded(t *testing.T) {
	var o outages
	for i := range 2 * maxOutages {
		if news := o.begins(fmt.Sprint(i)); news != (i < maxOutages) {
			t.Fatalf("outage %d is news: %v", i, news)
		}
	}
	if len(o.nodes) != maxOutages {
		t.Errorf("%d outages are remembered, want %d", len(o.nodes), maxOutages)
	}
}

// A node that comes and goes all the time must not fill the log, and one that stays away must not
// be silent for ever. Nodes that nobody asks for any more make room.
func TestANodeThatComesAndGoesIsLoggedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outages
		begun, ended := 0, 0
		for range 600 { // a minute
			if o.begins("2") {
				begun++
			}
			time.Sleep(50 * time.Millisecond)
			if _, was := o.ends("2"); was {
				ended++
			}
			time.Sleep(50 * time.Millisecond)
		}
		if begun < 6 || begun > 7 || ended != begun {
			t.Errorf("%d beginnings and %d ends were logged in a minute, want one of each in %v", begun, ended, warnEvery)
		}
		o.begins("2")
		o.ends("2")
		if o.begins("2") {
			t.Error("an outage right after the last one is logged")
		}
		time.Sleep(warnEvery)
		if !o.begins("2") {
			t.Error("an outage that lasts is not logged")
		}
		for i := range maxOutages {
			o.begins(fmt.Sprint("gone ", i))
		}
		time.Sleep(outageKept)
		if !o.begins("new") {
			t.Error("outages that nobody asks for leave no room")
		}
	})
}
