package test

import (
	"bufio"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
)

// series are the samples of /metrics by name and labels.
type series map[string]float64

// scrape reads the metrics of an admin listener.
func scrape(t *testing.T, admin string) series {
	t.Helper()
	return scrapeAt(t, nil, admin)
}

// scrapeAt is scrape on one side of a network.
func scrapeAt(t *testing.T, at *netns.Namespace, admin string) series {
	t.Helper()
	transport := &http.Transport{DialContext: at.Dial}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	response, err := client.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	all := make(series)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, found := cutLast(lines.Text(), " ")
		if !found || strings.HasPrefix(name, "#") {
			continue
		}
		if all[name], err = strconv.ParseFloat(value, 64); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

// sum adds the samples whose name and labels contain all texts.
func (s series) sum(texts ...string) (sum float64) {
	for _, name := range slices.Collect(maps.Keys(s)) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(name, text) }) {
			sum += s[name]
		}
	}
	return sum
}

// TestMetricsCountWhatHappened reads the metrics of agents and gateway after clients have used
// them. In particular each agent must have used its transport: otherwise the other tests would
// prove less than they claim.
func TestMetricsCountWhatHappened(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "metrics-"+p.transport)
		produce(t, p.franz(t), numbered(topic, 10))
		agent := scrape(t, p.admin)
		for _, want := range [][]string{
			{"culvert_tunnel_dials_total", `result="ok"`, `transport="` + p.over() + `"`},
			{"culvert_streams", `transport="` + p.over() + `"`},
			{"culvert_requests_total", `api_key="Produce"`},
			{"culvert_request_duration_seconds_count", `api_key="Produce"`},
			{"culvert_rewritten_addresses_total", `api_key="Metadata"`},
		} {
			if agent.sum(want...) == 0 {
				t.Errorf("the agent's %v is zero", want)
			}
		}
		for _, other := range transports {
			if n := agent.sum("culvert_tunnel_dials_total", `transport="`+other+`"`); other != p.over() && n > 0 {
				t.Errorf("an agent over %s dialled %v times over %s", p.transport, n, other)
			}
		}
		if p.sumOverGateways(t, "culvert_request_duration_seconds_count", `api_key="Produce"`) == 0 {
			t.Error("the gateway has no latency of Produce")
		}
	})
}
