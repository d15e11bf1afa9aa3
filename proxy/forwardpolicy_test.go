package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/events"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func TestNamesOfForwards(t *testing.T) {
	for _, name := range []string{"a", "schema-registry", "ui2", "0", strings.Repeat("a", maxForwardName)} {
		if err := CheckForwards([]Forward{{Name: name}}); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "a.b", "a/b", "a b", "é", "a\n", "list=", strings.Repeat("a", maxForwardName+1)} {
		if CheckForwards([]Forward{{Name: name}}) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	if CheckForwards([]Forward{{Name: "a"}, {Name: "b"}, {Name: "a"}}) == nil {
		t.Error("a name is accepted twice")
	}
	if CheckForwards(make([]Forward, MaxForwards+1)) == nil {
		t.Error("too many are accepted")
	}
}

// A hostile agent gets nothing but what the gateway's own setting says for a name: no broker, and no
// address that may be dialled as one.
func TestAForwardLeadsNowhereElse(t *testing.T) {
	var dialled atomic.Int32
	allowed := fakeBroker(t, func(net.Conn) { dialled.Add(1) })
	g := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) {
		g.Brokers.Allow = []string{allowed}
		g.Forwards = []Forward{{"registry", "127.0.0.1:2"}}
	})
	u, _ := url.Parse(g.address)
	d := &tunnel.Dialer{URL: u, Transport: "ws", TLS: clientTLS(t)}
	defer d.Close()
	for _, name := range []string{
		"", allowed, "bootstrap", "hello", "Registry", "registry ", "registry/", "./registry", "registry\x00", "127.0.0.1:2", strings.Repeat("x", 200), "\x1b[31m",
	} {
		c, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetForward + name}, nil)
		if err == nil {
			_, err = io.ReadAll(c)
			c.Close()
		}
		told, ok := errors.AsType[*tunnel.Error](err)
		if !ok || told.Code != tunnel.CodeTarget || !strings.Contains(told.Message, "it offers registry") || len(told.Message) > 200 || strings.Contains(told.Message, "\x1b") {
			t.Errorf("forward %.20q: %v, want a refusal that says what there is", name, err)
		}
	}
	if n := dialled.Load(); n > 0 {
		t.Errorf("an address of --allow-broker was dialled %d times for a forward", n)
	}
}

// A name that the gateway does not offer is answered with what there is: before any client comes,
// when one does, and to whoever asks.
func TestAForwardThatNobodyOffers(t *testing.T) {
	g := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) { g.Forwards = []Forward{{"registry", "127.0.0.1:2"}, {"connect", "127.0.0.1:3"}} })
	said, address := new(memoryLog), freeAddress(t)
	var agent *Agent
	startAgent(t, tunnelTo(t, g.address, "ws"), func(a *Agent) {
		agent, a.Logger, a.Forwards = a, said.logger(), []Forward{{"registri", address}}
	})
	const want = "the gateway offers no forward registri: it offers connect, registry"
	waitFor(t, "the warning at the start", func() bool { return strings.Contains(said.String(), want) })
	wantClientReset(t, address)
	waitFor(t, "the state", func() bool {
		f := agent.Status().Forwards
		return len(f) == 1 && f[0].State == document.NodeUnreachable && strings.Contains(f[0].Error, want) && f[0].Address == address
	})
}

// As many names as there may be, each as long as it may be, fit into the answer to a hello. The answer
// to a stream of a client has none.
func TestAHelloTellsAllForwards(t *testing.T) {
	var all []Forward
	for i := range MaxForwards {
		all = append(all, Forward{fmt.Sprintf("%0*d", maxForwardName, i), "127.0.0.1:2"})
	}
	broker := fakeBroker(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	g := startGateway(t, []string{broker}, func(g *Gateway) { g.Forwards = all })
	u, _ := url.Parse(g.address)
	d := &tunnel.Dialer{URL: u, Transport: "ws", TLS: clientTLS(t)}
	defer d.Close()
	welcome, err := d.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if names, err := OfferedForwards(welcome.Opened); len(names) != MaxForwards || err != nil {
		t.Errorf("a hello tells %d names, %v, want %d", len(names), err, MaxForwards)
	}
	c, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if o, err := c.Opened(t.Context()); err != nil || o.Forwards != nil {
		t.Errorf("the stream to a broker tells %d names, %v", len(o.Forwards), err)
	}
}

// olderGateway is one that knows no forwards.
func olderGateway(t *testing.T) (address string) {
	t.Helper()
	ln := listenLoopback(t)
	s := &tunnel.Server{
		TLS: serverTLS(t), Opened: func() tunnel.Opened { return tunnel.Opened{Gateway: "0.9.0"} },
		Serve: func(_ context.Context, c *tunnel.Conn, open *tunnel.Open, _ *tunnel.Peer) {
			_, err := parseTarget(open.Target)
			c.Reset(&tunnel.Error{Code: tunnel.CodeTarget, Message: err.Error()})
		},
	}
	run(t, func(ctx context.Context) error {
		err := s.Run(ctx, ln, nil)
		over, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(over)
		return err
	})
	return "https://" + ln.Addr().String()
}

func TestAnOlderGatewayKnowsNoForwards(t *testing.T) {
	up := tunnelTo(t, olderGateway(t), "ws")
	defer up.close()
	err := TryForward(t.Context(), up, "registry")
	if err == nil || !strings.Contains(err.Error(), "the gateway runs culvert 0.9.0, which knows no forwards") || !slices.Equal(hints.Of(err, nil), []string{"upgrade the gateway"}) {
		t.Errorf("the error is %v, hint %q", err, hints.Of(err, nil))
	}
}

// wantClientReset connects and wants a reset, which may come before net.Dial has returned.
func wantClientReset(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client was told %v, want a reset", err)
	}
}

// Of several gateways, any may offer a forward. That one does not is nothing against it.
func TestAnotherGatewayMayOfferAForward(t *testing.T) {
	target := fakeBroker(t, func(c net.Conn) { c.Write([]byte("here")) })
	without := startGateway(t, []string{"127.0.0.1:1"}, nil)
	with := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) { g.Forwards = []Forward{{"registry", target}} })
	var dialers []*tunnel.Dialer
	for _, address := range []string{without.address, with.address} {
		u, _ := url.Parse(address)
		dialers = append(dialers, &tunnel.Dialer{URL: u, Transport: "ws", TLS: clientTLS(t)})
	}
	address := freeAddress(t)
	startAgent(t, NewTunnel(dialers...), func(a *Agent) { a.Forwards = []Forward{{"registry", address}} })
	if b, err := io.ReadAll(dialAgent(t, address)); string(b) != "here" || err != nil {
		t.Errorf("the client read %q, %v", b, err)
	}
}

// What cannot be reached is said once at each end, with what to do, and so is the end of it: the
// gateway looks by itself.
func TestAForwardWhoseTargetIsDown(t *testing.T) {
	target, address := freeAddress(t), freeAddress(t)
	var log events.Log
	said := new(memoryLog)
	var gateway *Gateway
	g := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) {
		gateway, g.Forwards, g.watchForwards = g, []Forward{{"registry", target}}, 10*time.Millisecond
		g.Logger = slog.New(log.Handler(g.Logger.Handler()))
	})
	up := tunnelTo(t, g.address, "h2")
	startAgent(t, up, func(a *Agent) { a.Forwards, a.Logger = []Forward{{"registry", address}}, said.logger() })
	open := func() int {
		return len(slices.DeleteFunc(log.Events(), func(e document.Event) bool { return !e.Open() || e.Text != "forward not reached" }))
	}
	waitFor(t, "the warning of the gateway", func() bool { return open() == 1 })
	const want = "dial registry at "
	if err := TryForward(t.Context(), up, "registry"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a diagnosis says %v", err)
	}
	for range 3 {
		wantClientReset(t, address)
	}
	waitFor(t, "the warning of the agent", func() bool { return strings.Contains(said.String(), want) })
	ln, err := net.Listen("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	waitFor(t, "the end of the outage", func() bool { return open() == 0 && gateway.Status().Forwards[0].State == document.NodeReached })
	if err := TryForward(t.Context(), up, "registry"); err != nil {
		t.Errorf("a diagnosis says %v", err)
	}
	if n := strings.Count(said.String(), "level=WARN msg=\"forward not reached\""); n != 1 {
		t.Errorf("the agent said it %d times:\n%s", n, said)
	}
}

// Connections of forwards count as those of Kafka clients do, what passes is counted, and the audit
// log has them.
func TestForwardsAreCounted(t *testing.T) {
	target, address := fakeBroker(t, func(c net.Conn) { io.Copy(c, c) }), freeAddress(t)
	file, withAudit := audited(t)
	g := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) {
		g.Forwards = []Forward{{"registry", target}}
		withAudit(g)
	})
	up := tunnelTo(t, g.address, "ws")
	a := startAgent(t, up, func(a *Agent) {
		a.Forwards, a.MaxConnections = []Forward{{"registry", address}}, 1
	})
	c := dialAgent(t, address)
	c.Write([]byte("abc"))
	io.ReadFull(c, make([]byte, 3))
	wantClientReset(t, address) // beyond the limit
	if n := counter(t, a, "culvert_limit_refusals_total", "connections"); n != 1 {
		t.Errorf("%v refusals for the limit, want 1", n)
	}
	for end, r := range map[string]running{"agent": a, "gateway": g} {
		if n := forwardSeries(t, r, "culvert_forward_connections", ""); n != 1 {
			t.Errorf("%s: %v connections, want 1", end, n)
		}
		for _, direction := range []string{"up", "down"} {
			if n := forwardSeries(t, r, "culvert_forward_bytes_total", direction); n != 3 {
				t.Errorf("%s: %v bytes %s, want 3", end, n, direction)
			}
		}
	}
	c.CloseWrite()
	io.ReadAll(c)
	for _, r := range []running{a, g} {
		waitFor(t, "the end to be counted", func() bool { return forwardSeries(t, r, "culvert_forward_closes_total", "client_fin") == 1 })
	}
	file.await(t, map[string]string{
		"event": "stream_ended", "kind": "forward", "target": "registry", "address": target, "cause": "client_fin", "from_client_bytes": "3", "to_client_bytes": "3",
	})
	if TryForward(t.Context(), up, "nothing") == nil {
		t.Error("a forward that there is not was opened")
	}
	file.await(t, map[string]string{"event": "stream_refused", "kind": "forward", "target": "nothing", "cause": "target"})
	if n := forwardSeries(t, g, "culvert_forward_dials_total", "ok"); n != 2 { // the gateway has looked, too
		t.Errorf("%v dials, want 2", n)
	}
}

// forwardSeries is the value of a series of the forward registry, with another label if that is not
// empty.
func forwardSeries(t *testing.T, r running, name, other string) (value float64) {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range s.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == name && labels["forward"] == "registry" && (other == "" || labels["direction"] == other || labels["cause"] == other || labels["result"] == other) {
				value += s.GetCounter().GetValue() + s.GetGauge().GetValue()
			}
		}
	}
	return value
}

// The ranges that are never dialled are not dialled for a forward either, whatever its name resolves
// to, and the remedy names the right setting.
func TestAForwardDoesNotReachMetadataServices(t *testing.T) {
	for _, address := range []string{"169.254.169.254:80", "metadata.example:80"} {
		targets := newForwardTargets(&Gateway{
			Forwards: []Forward{{"meta", address}}, Brokers: &Brokers{Resolver: fixedResolver{"169.254.169.254"}, Allow: []string{"169.254.169.254/32:80"}},
			Metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test"), Names: flags,
		})
		_, err := targets.dial(t.Context(), targets.all[0])
		if err == nil || err.Code != tunnel.CodeTarget || !strings.Contains(err.Remedy, "correct --forward of the gateway") {
			t.Errorf("%s: %+v, want a refusal", address, err)
		}
	}
}

// fixedResolver resolves every name to one address.
type fixedResolver struct{ ip string }

func (r fixedResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr(r.ip)}, nil
}

// The list of names is a gateway's, which may be hostile.
func TestWhatAGatewayOffersIsBounded(t *testing.T) {
	names := []string{"\x1b[31m", strings.Repeat("x", 10000)}
	for range 5000 {
		names = append(names, "name")
	}
	if got := offering(names); len(got) > 2000 || strings.Contains(got, "\x1b") || !strings.HasSuffix(got, " and 4986 more") {
		t.Errorf("it is shown as %.300q", got)
	}
}
