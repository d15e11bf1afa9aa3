package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// used returns the registry of an end at which everything has happened.
func used(t *testing.T, end metrics.End) (*prometheus.Registry, *metrics.Metrics) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, end, "v1.2.3")
	a := m.API(protocol.Fetch)
	a.Requests.Inc()
	a.RequestBytes.Add(100)
	a.ResponseBytes.Add(1 << 20)
	a.Duration.Observe(0.004)
	a.Transfer.Observe(0.0001)
	a.Queued.Inc()
	a.Rewritten.Add(3)
	a.Blanked.Inc()
	a.InFlight.Add(1)
	a.Outcome(protocol.Outcome{Throttle: 1000})
	m.AskGateways(func() map[string]int { return map[string]int{"gateway:443": 3} })
	m.AskCarriers(func() []tunnel.CarrierStats {
		return []tunnel.CarrierStats{
			{Transport: "h3", Carriers: 1, Measured: 1, RTT: 10 * time.Millisecond, MaxRTT: 10 * time.Millisecond, Sent: 100, Lost: 1},
			{Transport: "ws", Carriers: 2, Sent: 5},
			{Transport: "h3", Carriers: 5, Measured: 3, RTT: 20 * time.Millisecond, MaxRTT: 30 * time.Millisecond, Sent: 40, Lost: 2},
			{Transport: "h3", Carriers: 1, Sent: 10},
		}
	})
	m.AskReady(func() error { return nil })
	m.AskExpiry("tls-cert-file", func() time.Time { return time.Unix(1_900_000_000, 0) })
	m.AskLimits(func() []metrics.LimitUse { return []metrics.LimitUse{{metrics.LimitStreams, 3, 10}} })
	m.GatewayTimed(protocol.Fetch, 2, 3*time.Millisecond)
	m.Connection(metrics.Bootstrap)
	m.Connection(2)
	m.Stream("h3")
	m.SetNodes([]int32{1, 2, 3})
	m.BrokerDial(nil)
	m.Forward("schema-registry")
	m.TunnelDial("ws", metrics.ResultOK, 80*time.Millisecond)
	tun := m.Tunnel("gateway:443")
	tun.Uses("h3")
	tun.Uses("ws")
	tun.NextProbe("h3", time.Now())
	m.UDPBuffers(4<<20, 208<<10)
	m.Logins("snowflake", "gateway:443")(nil, time.Now())
	m.Refused(metrics.RefusedNotKafka)
	m.Closed(metrics.CloseClientFIN)
	m.Limited(metrics.LimitStreams)
	m.Ticket(metrics.TicketIssued)
	m.AuditWritten()
	m.AuditLost(2)
	m.AuditOmitted()
	return reg, m
}

func gather(t *testing.T, reg prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	list, err := reg.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	families := make(map[string]*dto.MetricFamily)
	for _, f := range list {
		families[f.GetName()] = f
	}
	return families
}

// values returns the label values of each series of a family and its value or count.
func values(f *dto.MetricFamily) map[string]float64 {
	got := make(map[string]float64)
	for _, s := range f.GetMetric() {
		var labels []string
		for _, l := range s.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		got[strings.Join(labels, " ")] = s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
	}
	return got
}

func TestPrometheusLintFindsNothing(t *testing.T) {
	for _, end := range []metrics.End{metrics.Agent, metrics.Gateway} {
		reg, _ := used(t, end)
		problems, err := testutil.GatherAndLint(reg)
		if err != nil {
			t.Fatalf("lint: %v", err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", end, p.Metric, p.Text)
		}
	}
}

func TestThereIsNoSummary(t *testing.T) {
	reg, _ := used(t, metrics.Agent)
	for name, f := range gather(t, reg) {
		if f.GetType() == dto.MetricType_SUMMARY {
			t.Errorf("%s is a summary, whose quantiles cannot be aggregated", name)
		}
	}
}

func TestEveryDurationIsANativeAndAClassicHistogram(t *testing.T) {
	reg, _ := used(t, metrics.Agent)
	for name, f := range gather(t, reg) {
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		for _, s := range f.GetMetric() {
			h := s.GetHistogram()
			if len(h.GetBucket()) != 10 {
				t.Errorf("%s has %d classic buckets, want 10", name, len(h.GetBucket()))
			}
			if h.GetSchema() != 3 || len(h.GetPositiveSpan()) == 0 {
				t.Errorf("%s: schema %d, %d spans; want a native histogram of schema 3, the widest with a factor below 1.1",
					name, h.GetSchema(), len(h.GetPositiveSpan()))
			}
		}
	}
}

func TestScrapeWorksInEveryFormat(t *testing.T) {
	reg, _ := used(t, metrics.Gateway)
	handler := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	tests := []struct {
		name, accept string
		native       bool
	}{
		{"text", "text/plain;version=0.0.4", false},
		{"protobuf", string(expfmt.NewFormat(expfmt.TypeProtoDelim)), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := httptest.NewRequest("GET", "/metrics", nil)
			req.Header.Set("Accept", tt.accept)
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, req)
			h := scraped(t, rec, "culvert_request_duration_seconds").GetMetric()[0].GetHistogram()
			if h.GetSampleCount() != 1 || h.GetSampleSum() != 0.004 {
				t.Errorf("count %d, sum %v; want 1, 0.004", h.GetSampleCount(), h.GetSampleSum())
			}
			if native := len(h.GetPositiveSpan()) > 0; native != tt.native {
				t.Errorf("native buckets: %v, want %v", native, tt.native)
			}
			if len(h.GetBucket()) < 10 {
				t.Errorf("%d classic buckets, want 10", len(h.GetBucket()))
			}
		})
	}
}

func scraped(t *testing.T, rec *httptest.ResponseRecorder, name string) *dto.MetricFamily {
	t.Helper()
	dec := expfmt.NewDecoder(rec.Body, expfmt.ResponseFormat(rec.Header()))
	for {
		f := &dto.MetricFamily{}
		if err := dec.Decode(f); err != nil {
			t.Fatalf("look for %s in the scrape: %v", name, err)
		}
		if f.GetName() == name {
			return f
		}
	}
}

func TestOnlyUsedAPIKeysHaveSeries(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	if f := gather(t, reg)["culvert_requests_total"]; f != nil {
		t.Errorf("before the first request: %v, want no series", f)
	}
	m.API(protocol.Metadata).Requests.Inc()
	families := gather(t, reg)
	for _, name := range []string{"culvert_requests_total", "culvert_request_duration_seconds"} {
		if _, ok := values(families[name])["Metadata"]; !ok || len(families[name].GetMetric()) != 1 {
			t.Errorf("%s: series %v, want Metadata alone", name, values(families[name]))
		}
	}
}

func TestUnknownAPIKeysShareOneSeries(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	for k := -1 << 15; k < 1<<15; k++ {
		m.API(protocol.APIKey(k)).Requests.Inc()
	}
	want := map[string]float64{"unknown": 1<<16 - float64(protocol.MaxKey+1)}
	for k := range protocol.MaxKey + 1 {
		want[k.String()] = 1
	}
	if diff := cmp.Diff(want, values(gather(t, reg)["culvert_requests_total"])); diff != "" {
		t.Errorf("requests by API key (-want +got):\n%s", diff)
	}
}

func TestAPIReturnsTheSameCollectorsEachTime(t *testing.T) {
	m := metrics.New(prometheus.NewRegistry(), metrics.Agent, "v1.2.3")
	var wg sync.WaitGroup
	got := make([]*metrics.API, 8)
	for i := range got {
		wg.Go(func() { got[i] = m.API(protocol.Produce) })
	}
	wg.Wait()
	for i, a := range got {
		if a == nil || a != got[0] {
			t.Errorf("caller %d got %p, caller 0 %p", i, a, got[0])
		}
	}
}

func TestCountingAFrameAllocatesNothing(t *testing.T) {
	m := metrics.New(prometheus.NewRegistry(), metrics.Agent, "v1.2.3")
	relay := func(key protocol.APIKey) {
		a := m.API(key)
		a.Requests.Inc()
		a.RequestBytes.Add(1044)
		a.Queued.Inc()
		a.Duration.Observe(0.00317)
		a.ResponseBytes.Add(1 << 20)
		a.Transfer.Observe(0.21)
		a.Rewritten.Add(3)
		a.Blanked.Inc()
		a.InFlight.Add(1)
		a.InFlight.Add(-1)
		a.Outcome(protocol.Outcome{Throttle: 20, Errors: 1<<protocol.ClassTopic | 1<<protocol.ClassOther})
		m.Refused(metrics.RefusedUndecodable)
		m.Closed(metrics.CloseClientFIN)
		m.Ticket(metrics.TicketIssued)
	}
	for _, key := range []protocol.APIKey{protocol.Fetch, protocol.MaxKey, 1234} {
		if n := testing.AllocsPerRun(100, func() { relay(key) }); n != 0 {
			t.Errorf("%v: %v allocations, want 0", key, n)
		}
	}
}

func TestLabelsAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	way := m.Tunnel("gateway:443")
	way.Uses("made up")
	for i := range 100 {
		made := fmt.Sprint("made-up-", i)
		m.Stream(made)
		m.TunnelDial(made, metrics.Result(made), time.Second)
		way.Uses(made)
		m.TunnelFault(made, tunnel.Slow, tunnel.Outcomes()[0])
		m.Connection(int32(-3 - i))
	}
	families := gather(t, reg)
	for name, want := range map[string]string{
		"culvert_streams":                "other",
		"culvert_tunnel_dials_total":     "error other",
		"culvert_tunnel_fallbacks_total": "other other",
		"culvert_tunnel_faults_total":    "slow fixed other",
		"culvert_connections":            "unknown",
	} {
		if got := values(families[name])[want]; got != 100 {
			t.Errorf("%s: %v, want 100 of %q", name, values(families[name]), want)
		}
	}
}

func TestGaugesFallWhenConnectionsAndStreamsEnd(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	m.SetNodes([]int32{1001})
	m.Connection(metrics.Bootstrap)
	m.Connection(1001)
	m.Connection(1001)()
	m.Stream("ws")()
	m.Stream("direct")
	families := gather(t, reg)
	if diff := cmp.Diff(map[string]float64{"bootstrap": 1, "1001": 1}, values(families["culvert_connections"])); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"ws": 0, "direct": 1}, values(families["culvert_streams"])); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
}

// Node ids come from peers: only those of the current cluster have series, and only as long as they
// are of it.
func TestOnlyNodesOfTheCurrentClusterHaveSeries(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, metrics.Gateway, "v1.2.3")
	want := func(when string, want map[string]float64) {
		t.Helper()
		if diff := cmp.Diff(want, values(gather(t, reg)["culvert_connections"])); diff != "" {
			t.Errorf("%s: connections (-want +got):\n%s", when, diff)
		}
	}
	var closed []func()
	for id := range int32(10_000) {
		closed = append(closed, m.Connection(id))
	}
	want("before a cluster is known", map[string]float64{"unknown": 10_000})
	m.SetNodes([]int32{0, 1, 20_000})
	want("with a cluster", map[string]float64{"0": 1, "1": 1, "unknown": 9_998})
	for _, c := range closed {
		c()
	}
	want("when all is over", map[string]float64{"0": 0, "1": 0})
	m.Connection(1)
	m.SetNodes([]int32{7})
	want("with another cluster", map[string]float64{"unknown": 1})
	for i := range int32(10_000) {
		m.SetNodes([]int32{i})
		m.Connection(i)()
	}
	want("when node ids come and go", map[string]float64{"9999": 0, "unknown": 1})
}

func TestNodeIDsThatComeAndGoLeaveMemoryWhereItWas(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Gateway, "v1.2.3")
	visit := func(ids int32) (series int, heap uint64) {
		for id := range ids {
			closed := m.Connection(id)
			m.SetNodes([]int32{id, id + 1, id + 2})
			closed()
		}
		for _, f := range gather(t, reg) {
			series += len(f.GetMetric())
		}
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return series, stats.HeapAlloc
	}
	visit(100)
	series, heap := visit(100)
	seriesAfter, heapAfter := visit(10_000)
	if seriesAfter != series {
		t.Errorf("%d series before, %d after", series, seriesAfter)
	}
	if heapAfter > heap+64<<10 {
		t.Errorf("%d bytes of heap before, %d after", heap, heapAfter)
	}
	t.Logf("%d series, %d bytes of heap before and %d after", series, heap, heapAfter)
	runtime.KeepAlive(m)
}

func TestOnlyDialsThatSucceedAreTimed(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	m.TunnelDial("h3", metrics.ResultTimeout, 5*time.Second)
	m.TunnelDial("h3", metrics.ResultOK, 50*time.Millisecond)
	families := gather(t, reg)
	if h := families["culvert_tunnel_dial_duration_seconds"].GetMetric()[0].GetHistogram(); h.GetSampleSum() != 0.05 {
		t.Errorf("sum of dial durations %v, want 0.05", h.GetSampleSum())
	}
	dials := values(families["culvert_tunnel_dials_total"])
	if dials["ok h3"] != 1 || dials["timeout h3"] != 1 {
		t.Errorf("dials %v, want one ok and one timeout over h3", dials)
	}
}

func TestRareEventsStartAtZero(t *testing.T) {
	tests := []struct {
		end    metrics.End
		family string
		series int
	}{
		{metrics.Agent, "culvert_refused_total", 12},
		{metrics.Agent, "culvert_connection_closes_total", 10},
		{metrics.Agent, "culvert_tickets_total", 5},
		{metrics.Agent, "culvert_tunnel_dials_total", 15},
		{metrics.Agent, "culvert_tunnel_fallbacks_total", 6},
		{metrics.Agent, "culvert_tunnel_faults_total", 27},
		{metrics.Agent, "culvert_broker_dials_total", 0},
		{metrics.Gateway, "culvert_broker_dials_total", 5},
		{metrics.Gateway, "culvert_tunnel_dials_total", 0},
	}
	for _, tt := range tests {
		reg := prometheus.NewRegistry()
		metrics.New(reg, tt.end, "v1.2.3")
		got := values(gather(t, reg)[tt.family])
		if len(got) != tt.series {
			t.Errorf("%s, %s: %d series %v, want %d", tt.end, tt.family, len(got), got, tt.series)
		}
		for labels, n := range got {
			if n != 0 {
				t.Errorf("%s, %s: %s starts at %v, want 0", tt.end, tt.family, labels, n)
			}
		}
	}
}

func TestResultOf(t *testing.T) {
	dial := func(err error) error { return fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: err}) }
	tests := []struct {
		err  error
		want metrics.Result
	}{
		{nil, metrics.ResultOK},
		{context.Canceled, metrics.ResultCanceled},
		{dial(context.DeadlineExceeded), metrics.ResultTimeout},
		{dial(os.ErrDeadlineExceeded), metrics.ResultTimeout},
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), metrics.ResultRefused},
		{errors.New("no such host"), metrics.ResultError},
	}
	for _, tt := range tests {
		if got := metrics.ResultOf(tt.err); got != tt.want {
			t.Errorf("ResultOf(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestBuildInfoNamesEndAndVersion(t *testing.T) {
	reg, _ := used(t, metrics.Gateway)
	got := map[string]string{}
	for _, l := range gather(t, reg)["culvert_build_info"].GetMetric()[0].GetLabel() {
		got[l.GetName()] = l.GetValue()
	}
	if got["end"] != "gateway" || got["version"] != "v1.2.3" || !strings.HasPrefix(got["go_version"], "go1") {
		t.Errorf("build info %v, want end gateway, version v1.2.3 and Go's", got)
	}
}

// BenchmarkCountFrame is what one request and its response cost.
func BenchmarkCountFrame(b *testing.B) {
	m := metrics.New(prometheus.NewRegistry(), metrics.Agent, "v1.2.3")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a := m.API(protocol.Fetch)
			a.Requests.Inc()
			a.RequestBytes.Add(100)
			a.Duration.Observe(0.004)
			a.InFlight.Add(1)
			a.Outcome(protocol.Outcome{})
			a.ResponseBytes.Add(1000)
			a.Transfer.Observe(0.0001)
			a.InFlight.Add(-1)
		}
	})
}

func TestUDPBuffersAreReportedByDirection(t *testing.T) {
	reg, _ := used(t, metrics.Gateway)
	got := values(gather(t, reg)["culvert_udp_buffer_bytes"])
	if want := map[string]float64{"receive": 4 << 20, "send": 208 << 10}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestLoginsAndWhenTheirTokensExpire(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, metrics.Agent, "v1")
	first, second := m.Logins("snowflake", "gateway:443"), m.Logins("snowflake", "other:443")
	first(nil, time.Unix(1_800_000_000, 0))
	first(errors.New("no"), time.Time{})
	second(errors.New("no"), time.Time{})
	all := gather(t, reg)
	if got, want := values(all["culvert_snowflake_logins_total"]), map[string]float64{"gateway:443 ok": 1, "gateway:443 error": 1, "other:443 ok": 0, "other:443 error": 1}; !maps.Equal(got, want) {
		t.Errorf("logins = %v, want %v", got, want)
	}
	if got, want := values(all["culvert_snowflake_token_expiry_timestamp_seconds"]), map[string]float64{"gateway:443": 1_800_000_000}; !maps.Equal(got, want) {
		t.Errorf("expiry = %v, want %v", got, want)
	}
}

func TestAnUnknownLimitIsCountedAsOther(t *testing.T) {
	for l := range metrics.LimitOther {
		if got := metrics.LimitOf(l.String()); got != l {
			t.Errorf("LimitOf(%q) = %v", l, got)
		}
	}
	if got := metrics.LimitOf("an unknown limit"); got != metrics.LimitOther || got.String() != "other" {
		t.Errorf("LimitOf = %v, want other", got)
	}
}

// A gateway can name any API key, and as many as it likes. Only those count that the agent has seen
// itself.
func TestAGatewayCannotMakeSeries(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, metrics.Agent, "v1.2.3")
	m.API(protocol.Produce)
	m.API(-1)
	for key := range 1 << 16 {
		m.GatewayTimed(protocol.APIKey(int16(key)), 1, time.Millisecond)
	}
	if n, s := m.API(protocol.Fetch).GatewayShare(); n != 0 || s != 0 {
		t.Errorf("the share of Fetch: %d requests, %v s", n, s)
	}
	if n, s := m.API(protocol.Produce).GatewayShare(); n != 1 || s != 0.001 {
		t.Errorf("the share of Produce: %d requests, %v s", n, s)
	}
	const unknown = 1<<16 - float64(protocol.MaxKey) - 1
	for name, want := range map[string]map[string]float64{
		"culvert_gateway_requests_total":        {"Produce": 1, "unknown": unknown},
		"culvert_gateway_request_seconds_total": {"Produce": 0.001, "unknown": unknown / 1000},
	} {
		if diff := cmp.Diff(want, values(gather(t, reg)[name]), cmpopts.EquateApprox(0, 1e-6)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCarriersOfAllGatewaysAreAddedUp(t *testing.T) {
	reg, _ := used(t, metrics.Agent)
	families := gather(t, reg)
	for name, want := range map[string]map[string]float64{
		"culvert_carriers":                   {"h3": 7, "ws": 2},
		"culvert_carrier_rtt_seconds":        {"mean h3": 0.0175, "max h3": 0.03},
		"culvert_carrier_packets_sent_total": {"h3": 150, "ws": 5},
		"culvert_carrier_packets_lost_total": {"h3": 3, "ws": 0},
		"culvert_gateway_streams":            {"gateway:443": 3},
	} {
		if diff := cmp.Diff(want, values(families[name])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
