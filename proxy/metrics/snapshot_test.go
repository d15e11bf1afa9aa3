package metrics_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

func TestDocumentShowsWhatWasCounted(t *testing.T) {
	m := metrics.New(prometheus.NewPedanticRegistry(), metrics.Agent, "v1.2.3")
	a := m.API(protocol.Produce)
	a.Requests.Add(3)
	a.RequestBytes.Add(3000)
	a.ResponseBytes.Add(150)
	a.InFlight.Add(1)
	a.Duration.Observe(0.004)
	a.Outcome(protocol.Outcome{Throttle: 1500, Errors: 1<<protocol.ClassTopic | 1<<protocol.ClassRecord})
	a.Outcome(protocol.Outcome{Errors: 1 << protocol.ClassTopic})
	m.API(protocol.Fetch)
	m.Closed(metrics.CloseMoved)
	m.Refused(metrics.RefusedTLS)
	m.Limited(metrics.LimitConnections)
	m.AskLimits(func() []metrics.LimitUse { return []metrics.LimitUse{{metrics.LimitConnections, 9, 10}} })

	_, total, apis := m.APIs()
	if len(apis) != 2 || apis[1].Latency == nil || apis[1].Latency.Mean != 0.004 || !apis[0].LongPoll {
		t.Fatalf("%+v, want two API keys, one of them with a duration", apis)
	}
	want := []document.API{{Name: "Fetch", LongPoll: true}, {
		Name: "Produce", Requests: 3, RequestBytes: 3000, ResponseBytes: 150, InFlight: 1, Throttle: 1.5,
		Errors: []document.Count{{Name: "topic", Count: 2}, {Name: "record", Count: 1}},
	}}
	ignored := cmpopts.IgnoreFields(document.API{}, "Latency")
	if diff := cmp.Diff(want, apis, ignored); diff != "" {
		t.Errorf("API keys (-want +got):\n%s", diff)
	}
	want[1].Name = "total"
	if diff := cmp.Diff(want[1], total, ignored); diff != "" {
		t.Errorf("total (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]document.Limit{{Name: "connections", Used: 9, Max: 10, Refused: 1}}, m.Limits()); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	closes, refusals := m.Closes(), m.Refusals()
	for _, counted := range []struct {
		in   []document.Count
		name string
	}{{closes, "moved"}, {refusals, "tls"}} {
		for _, c := range counted.in {
			if want := counted.name == c.Name; (c.Count == 1) != want {
				t.Errorf("%s: %d", c.Name, c.Count)
			}
		}
	}
	if len(closes) != 10 || len(refusals) != 12 {
		t.Errorf("%d causes and %d reasons, want all: 10 and 12", len(closes), len(refusals))
	}
}
