package proxy

import (
	"io"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// slowBroker answers each request after a time that its key decides.
func slowBroker(t *testing.T, takes map[protocol.APIKey]time.Duration) string {
	return fakeBroker(t, answering(func(k, _ int16, id int32) []byte {
		time.Sleep(takes[protocol.APIKey(k)])
		switch protocol.APIKey(k) {
		case protocol.APIVersions:
			return append(emptyAnswer(0, 0, id), make([]byte, 6)...)
		case protocol.Metadata:
			return metadata(id, 0)
		}
		return emptyAnswer(0, 0, id)
	}))
}

// byKey returns the metrics of a family by API key.
func byKey(t *testing.T, reg *prometheus.Registry, name string) map[string]*dto.Metric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.Metric{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				all[m.GetLabel()[0].GetValue()] = m
			}
		}
	}
	return all
}

// askAll sends requests, one after the other, and waits for each answer.
func askAll(t *testing.T, c io.ReadWriter, requests ...[]byte) {
	t.Helper()
	for _, r := range requests {
		c.Write(r)
		if _, err := readFrame(c); err != nil {
			t.Fatal(err)
		}
	}
}

// The agent knows what its gateway has measured: of each API key, the same number of requests and
// the same sum. So the agent's sum minus the gateway's is what the tunnel took, and never negative.
func TestTheGatewayTellsItsShare(t *testing.T) {
	takes := map[protocol.APIKey]time.Duration{listGroupsKey: 20 * time.Millisecond, heartbeat: 60 * time.Millisecond}
	versions := requestFrame(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	asked := requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2)
	beat := requestFrame(kmsg.NewPtrHeartbeatRequest(), 0, 3)
	unknown := framed([]byte{3, 0xe7, 0, 0, 0, 0, 0, 4, 0xff, 0xff})
	for _, transport := range slices.DeleteFunc(slices.Clone(transports), func(s string) bool { return s == "direct" }) {
		t.Run(transport, func(t *testing.T) {
			status := map[string]func() document.Document{}
			gateway := startGateway(t, []string{slowBroker(t, takes)}, func(g *Gateway) { status["gateway"] = g.Status })
			agent := startAgent(t, tunnelTo(t, gateway.address, transport), func(a *Agent) {
				a.RelayUnknownAPIs, status["agent"] = true, a.Status
			})
			c := dialAgent(t, agent.address)
			askAll(t, c, versions, listGroups, asked, listGroups, beat, unknown, listGroups)
			waitFor(t, "what the gateway tells while the connection is open", func() bool {
				return byKey(t, agent.metrics, "culvert_gateway_requests_total")["ListGroups"].GetCounter().GetValue() == 3
			})
			for name, end := range map[string]running{"agent": agent, "gateway": gateway} {
				if carriers, sent := series(t, end, "culvert_carriers", transport), series(t, end, "culvert_carrier_packets_sent_total", transport); carriers < 1 || sent < 2 && runtime.GOOS == "linux" {
					t.Errorf("%s: %v carriers, which have sent %v packets", name, carriers, sent)
				}
				d := status[name]().Tunnels[0]
				if len(d.Carriers) != 1 || d.Carriers[0].Transport != transport || d.Carriers[0].Connections < 1 || d.Carriers[0].Streams < 1 ||
					name == "agent" && d.RTT != d.Carriers[0].RTT || d.Carriers[0].RTT == 0 && runtime.GOOS == "linux" {
					t.Errorf("%s: the document says %+v", name, d)
				}
			}
			if cert, _ := certificate(); series(t, agent, "culvert_certificate_expiry_timestamp_seconds", "gateway") != float64(cert.Leaf.NotAfter.Unix()) {
				t.Error("the agent does not show when the gateway's certificate expires")
			}
			askAll(t, c, listGroups, beat)
			c.CloseWrite()
			if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
				t.Fatalf("read %q, %v", b, err)
			}
			waitFor(t, "the end of the connection", func() bool { return series(t, agent, "culvert_connection_closes_total", "client_fin") == 1 })

			timed, here := byKey(t, gateway.metrics, "culvert_request_duration_seconds"), byKey(t, agent.metrics, "culvert_request_duration_seconds")
			requests, seconds := byKey(t, agent.metrics, "culvert_gateway_requests_total"), byKey(t, agent.metrics, "culvert_gateway_request_seconds_total")
			for key, n := range map[string]uint64{"ApiVersions": 1, "Metadata": 1, "ListGroups": 4, "Heartbeat": 2, "unknown": 1} {
				if got := timed[key].GetHistogram().GetSampleCount(); got != n {
					t.Errorf("%s: the gateway timed %d requests, want %d", key, got, n)
				}
			}
			if len(requests) != len(timed) || len(seconds) != len(timed) {
				t.Errorf("told of %d and %d API keys, want %d", len(requests), len(seconds), len(timed))
			}
			for key, m := range timed {
				h, told := m.GetHistogram(), seconds[key].GetCounter().GetValue()
				if n := requests[key].GetCounter().GetValue(); n != float64(h.GetSampleCount()) {
					t.Errorf("%s: told of %v requests, the gateway timed %d", key, n, h.GetSampleCount())
				}
				if math.Abs(told-h.GetSampleSum()) > 1e-9 {
					t.Errorf("%s: told %v s, the gateway measured %v s", key, told, h.GetSampleSum())
				}
				if all := here[key].GetHistogram().GetSampleSum(); all < told {
					t.Errorf("%s: %v s at the agent, of them %v s at the gateway", key, all, told)
				}
			}
			for key, took := range takes {
				name := key.String()
				if least := took.Seconds() * float64(timed[name].GetHistogram().GetSampleCount()); seconds[name].GetCounter().GetValue() < least {
					t.Errorf("%s: told %v s, want %v s at least", name, seconds[name].GetCounter().GetValue(), least)
				}
			}
			if told := byKey(t, gateway.metrics, "culvert_gateway_requests_total"); len(told) > 0 {
				t.Errorf("the gateway says that it was told of %v", told)
			}
		})
	}
}

const listGroupsKey protocol.APIKey = 16

// Without a gateway nobody tells anything.
func TestWithoutAGatewayThereIsNoShare(t *testing.T) {
	agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{slowBroker(t, nil)}}), nil)
	c := dialAgent(t, agent.address)
	askAll(t, c, listGroups)
	c.Close()
	for _, name := range []string{"culvert_gateway_requests_total", "culvert_gateway_request_seconds_total"} {
		if got := byKey(t, agent.metrics, name); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}
