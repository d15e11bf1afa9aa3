package test

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

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
			{"culvert_ready"},
			{"culvert_limit_used", `limit="connections"`},
			{"culvert_limit_max", `limit="connections"`},
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
		for _, want := range [][]string{{"culvert_ready"}, {"culvert_limit_used", `limit="streams"`}, {"culvert_limit_used", `limit="memory"`}} {
			if p.sumOverGateways(t, want...) == 0 {
				t.Errorf("the gateway's %v is zero", want)
			}
		}
	})
}

// TestMetricsCountWhatBrokersRefuse has brokers refuse requests and throttle a client, and reads
// the metrics of both ends.
func TestMetricsCountWhatBrokersRefuse(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		topic, id := p.cluster.Topic(t, "refused-"+p.transport), "throttled-"+p.transport
		client := p.franz(t, kgo.ProducerBatchMaxBytes(4<<20))
		unknown := kmsg.NewPtrMetadataRequest()
		unknown.Topics = []kmsg.MetadataRequestTopic{{Topic: new("there-is-no-such-topic")}}
		if _, err := unknown.RequestWith(ctx, client); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(ctx, filled(topic, 1, 2<<20)...).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
			t.Fatalf("a record that is too large: %v", err)
		}
		_, err := kadm.NewClient(client).AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{
			Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &id}},
			Ops:    []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 1024}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		produce(t, p.franz(t, kgo.ClientID(id)), filled(topic, 1, 64<<10))

		agent := scrape(t, p.admin)
		for _, want := range [][]string{
			{"culvert_response_errors_total", `api_key="Metadata"`, `class="topic"`},
			{"culvert_response_errors_total", `api_key="Produce"`, `class="record"`},
			{"culvert_throttled_responses_total", `api_key="Produce"`},
			{"culvert_throttle_seconds_total", `api_key="Produce"`},
		} {
			if n := agent.sum(want...); n <= 0 || n > 120 { // the broker asks for 54 s
				t.Errorf("the agent's %v is %v", want, n)
			}
			if n := p.sumOverGateways(t, want...); n <= 0 {
				t.Errorf("the gateway's %v is %v", want, n)
			}
		}
		t.Logf("the broker asked the client to wait %v s", agent.sum("culvert_throttle_seconds_total", `api_key="Produce"`))
	})
}
