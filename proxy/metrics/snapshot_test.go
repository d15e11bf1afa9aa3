package metrics_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

func TestSnapshotIsWhatWasCounted(t *testing.T) {
	m := metrics.New(prometheus.NewPedanticRegistry(), metrics.Agent, "v1.2.3")
	a := m.API(protocol.Produce)
	a.Requests.Add(3)
	a.RequestBytes.Add(3000)
	a.ResponseBytes.Add(150)
	a.InFlight.Add(1)
	a.Duration.Observe(0.004)
	a.Throttled(1500 * time.Millisecond)
	a.Failed(1<<protocol.ClassTopic | 1<<protocol.ClassRecord)
	a.Failed(1 << protocol.ClassTopic)
	m.API(protocol.Fetch)
	m.Closed(metrics.CloseMoved)
	m.Refused(metrics.RefusedTLS)
	m.Limited(metrics.LimitConnections)
	m.AskLimits(func() []metrics.LimitUse { return []metrics.LimitUse{{metrics.LimitConnections, 9, 10}} })

	got := m.Snapshot()
	if len(got.APIs) != 2 || got.APIs[1].Duration.GetSampleCount() != 1 || got.APIs[1].Duration.GetSampleSum() != 0.004 {
		t.Fatalf("%+v, want two API keys, one of them with a duration", got.APIs)
	}
	want := []metrics.APISnapshot{{Name: "Fetch"}, {
		Name: "Produce", Requests: 3, RequestBytes: 3000, ResponseBytes: 150, InFlight: 1,
		Throttle: 1500 * time.Millisecond, Throttled: 1, Errors: []metrics.Count{{"topic", 2}, {"record", 1}},
	}}
	if diff := cmp.Diff(want, got.APIs, cmpopts.IgnoreFields(metrics.APISnapshot{}, "Duration")); diff != "" {
		t.Errorf("API keys (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]metrics.LimitSnapshot{{metrics.LimitUse{metrics.LimitConnections, 9, 10}, 1}}, got.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	for _, counted := range []struct {
		in   []metrics.Count
		name string
	}{{got.Closes, "moved"}, {got.Refusals, "tls"}} {
		for _, c := range counted.in {
			if want := counted.name == c.Name; (c.Count == 1) != want {
				t.Errorf("%s: %d", c.Name, c.Count)
			}
		}
	}
	if len(got.Closes) != 9 || len(got.Refusals) != 10 {
		t.Errorf("%d causes and %d reasons, want all: 9 and 10", len(got.Closes), len(got.Refusals))
	}
}
