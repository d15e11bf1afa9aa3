package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/prometheus"
)

// mayBeEmpty are the queries that return nothing while all is well, by a part of them.
var mayBeEmpty = map[string]string{
	"changes(process_start_time_seconds": "marks starts, and nothing starts meanwhile",
}

// The alerts that are not silent.
const (
	fires   = "CulvertThrottled"      // the clients have a quota
	mayFire = "CulvertUDPBufferSmall" // the machine may have small buffers
)

// TestEveryQueryReturnsData runs agents over each transport and their gateways with real brokers and
// clients, has Prometheus scrape them, and evaluates every query of the dashboards, of the alerts
// and of the documents. Each must return a number, with classic and with native histograms, except
// those that are for one kind only. No alert may fire but the one about quotas.
func TestEveryQueryReturnsData(t *testing.T) {
	prometheus.Need(t)
	bed := sharedTestbed(t)
	t.Cleanup(startTraffic(t, bed))
	kinds, err := prometheus.Kinds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range kinds {
		t.Run(string(h), func(t *testing.T) {
			t.Parallel()
			server := bed.startPrometheus(t, h)
			waitScrapes(t, server, 8)
			checkQueries(t, server, slices.DeleteFunc(queries(t), func(q prometheus.Query) bool { return !q.Fits(h) }))
			checkAlerts(t, server)
		})
	}
}

// startPrometheus starts a Prometheus that scrapes all ends of a testbed and ends with the test.
func (b *testbed) startPrometheus(t *testing.T, h prometheus.Histograms) *prometheus.Server {
	t.Helper()
	ports, err := kafka.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	var agents, gateways []string
	for _, p := range b.paths {
		agents = append(agents, p.admin)
		if p.standIn == nil && p.transport != direct && !slices.Contains(gateways, p.gateway.admin) {
			gateways = append(gateways, p.gateway.admin)
		}
	}
	server, err := prometheus.Start(t.Context(), t.TempDir(), address(clientHost, ports[0]), h, []prometheus.Job{
		{Name: "culvert-agent", Targets: agents}, // without a namespace, as outside of Kubernetes
		{Name: "culvert-gateway", Targets: gateways, Labels: map[string]string{"namespace": "kafka"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("Prometheus %s", server.Version)
	return server
}

// waitScrapes waits until every end was scraped some times, so that rates and means say something.
func waitScrapes(t *testing.T, server *prometheus.Server, count int) {
	t.Helper()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); ; <-again.C {
		few, err := server.Query(t.Context(), fmt.Sprintf("count_over_time(up[1m]) < %d or up == 0 or absent(up)", count))
		if err == nil && len(few) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not scraped %d times in time: %v, %v", count, few, err)
		}
	}
}

// queries returns all queries of the repository.
func queries(t *testing.T) []prometheus.Query {
	t.Helper()
	all, err := prometheus.DocumentQueries("..")
	if err != nil {
		t.Fatal(err)
	}
	dashboards, err := prometheus.ReadDashboards("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dashboards {
		all = append(append(all, d.Queries()...), d.Marks()...)
	}
	rules, err := prometheus.Rules("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		all = append(all, r.Selectors()...)
	}
	return all
}

// checkQueries evaluates queries until each has returned a number. A query that Prometheus refuses
// fails at once.
func checkQueries(t *testing.T, server *prometheus.Server, left []prometheus.Query) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("not all queries returned data in time"))
	defer cancel()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		left = slices.DeleteFunc(left, func(q prometheus.Query) bool {
			result, err := server.Query(ctx, q.Expr)
			switch {
			case err != nil && ctx.Err() == nil:
				t.Errorf("%s: %v", q.Where, err)
				return true
			case err == nil && hasNumber(result):
				t.Logf("%s\t%s\t%d series\t%s", q.Where, oneLine(q.Expr), len(result), shown(result))
				return true
			}
			return false
		})
		if !slices.ContainsFunc(left, func(q prometheus.Query) bool { return emptyWhy(q) == "" }) {
			break
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			for _, q := range left {
				if emptyWhy(q) == "" {
					t.Errorf("%s returns nothing: %s", q.Where, q.Expr)
				}
			}
			return
		}
	}
	for _, q := range left {
		t.Logf("%s\t%s\tnothing\t%s", q.Where, oneLine(q.Expr), emptyWhy(q))
	}
}

// checkAlerts evaluates the alerts' expressions.
func checkAlerts(t *testing.T, server *prometheus.Server) {
	rules, err := prometheus.Rules("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		result, err := server.Query(t.Context(), r.Expr)
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		if firing := len(result) > 0; firing != (r.Alert == fires) && r.Alert != mayFire {
			t.Errorf("%s fires: %v: %s", r.Alert, firing, shown(result))
		}
		t.Logf("alert %s\t%s\t%d series\t%s", r.Alert, oneLine(r.Expr), len(result), shown(result))
	}
}

// emptyWhy returns why a query may return nothing, or "".
func emptyWhy(q prometheus.Query) string {
	for part, why := range mayBeEmpty {
		if strings.Contains(q.Expr, part) {
			return why
		}
	}
	return ""
}

// hasNumber reports whether a result has a value. The mean of nothing is NaN.
func hasNumber(result []prometheus.Sample) bool {
	return slices.ContainsFunc(result, func(s prometheus.Sample) bool { return s.Value != "NaN" })
}

// shown is the largest value of a result with its labels. A histogram counts as none.
func shown(result []prometheus.Sample) string {
	if len(result) == 0 {
		return ""
	}
	number := func(s prometheus.Sample) float64 {
		v, err := strconv.ParseFloat(s.Value, 64)
		if err != nil || math.IsNaN(v) {
			return math.Inf(-1)
		}
		return v
	}
	s := slices.MaxFunc(result, func(a, b prometheus.Sample) int { return cmp.Compare(number(a), number(b)) })
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		labels = append(labels, fmt.Sprintf("%s=%q", name, s.Labels[name]))
	}
	return fmt.Sprintf("{%s} %s", strings.Join(labels, ", "), s.Value)
}

func oneLine(expr string) string { return strings.Join(strings.Fields(expr), " ") }

// slowClient is a client id with a quota.
const slowClient = "throttled"

// startTraffic has clients use every path of a testbed: they join groups, produce and consume, and
// reach a quota. It returns what stops them.
func startTraffic(t *testing.T, bed *testbed) (stop func()) {
	t.Helper()
	rate := []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 2000}, {Key: "consumer_byte_rate", Value: 2000}}
	entity := kadm.ClientQuotaEntity{{Type: "client-id", Name: new(slowClient)}}
	if _, err := bed.cluster.Admin(t).AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: rate}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, p := range bed.paths {
		topic := bed.cluster.Topic(t, "queries-"+p.transport)
		all.Go(func() {
			for ctx.Err() == nil {
				p.use(ctx, topic)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// use is what clients do within a second or two. What it returns does not matter: other tests check
// that clients work.
func (p *path) use(ctx context.Context, topic string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.bootstrap), kgo.ClientID(slowClient),
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.FetchMaxWait(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return
	}
	defer client.CloseAllowingRebalance()
	client.Produce(ctx, filled(topic, 1, 4000)[0], nil)
	for ctx.Err() == nil {
		client.PollFetches(ctx)
	}
}
