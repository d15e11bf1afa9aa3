package test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// slowAPIs are asked of a broker that takes its time, each another one. Nothing but this test asks
// for them. The times lie just above the end of a classic bucket, so that a duration that is measured
// too short falls below it.
var slowAPIs = []struct {
	request func() kmsg.Request
	delay   time.Duration
}{
	{func() kmsg.Request { return kmsg.NewPtrListGroupsRequest() }, 12 * time.Millisecond},
	{func() kmsg.Request { return kmsg.NewPtrDescribeClientQuotasRequest() }, 60 * time.Millisecond},
	{func() kmsg.Request { return kmsg.NewPtrDescribeClusterRequest() }, 270 * time.Millisecond},
}

// requestsOfSlowAPI is how often each is asked for.
const requestsOfSlowAPI = 5

// TestLatencyIsTrueInEveryView delays each API by another time at the broker. What the broker takes,
// each end measures and the client waits must be in that order, and the status document and both
// forms of the histogram must tell the same of it.
func TestLatencyIsTrueInEveryView(t *testing.T) {
	needReal(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.agent.flags["transport"] = transport
			took := s.delayBroker()
			for _, e := range []*end{s.gateway, s.agent} {
				e.start()
				e.mustBe("listening")
			}
			s.agent.mustBe("ready")
			waited := s.askSlowAPIs()
			for _, api := range slowAPIs {
				key := api.request().Key()
				name := kmsg.NameForKey(key)
				gateway, agent := s.views(s.gateway, name), s.views(s.agent, name)
				last := took.mean(key)
				for _, step := range []struct {
					who  string
					mean float64
				}{{"the gateway", gateway.mean}, {"the agent", agent.mean}, {"the client", waited[key].Seconds() / requestsOfSlowAPI}} {
					if step.mean < last {
						t.Errorf("%s: %s measured %v on average, and who is nearer to the broker %v", name, step.who, step.mean, last)
					}
					last = step.mean
				}
				t.Logf("%s: broker %.4g s, gateway %.4g, agent %.4g, client %.4g", name, took.mean(key), gateway.mean, agent.mean, last)
				s.wantShare(name, gateway.mean)
			}
		})
	}
}

// stopwatch sums up how long the broker took, by API key.
type stopwatch struct {
	mu   sync.Mutex
	took map[int16]time.Duration
}

func (w *stopwatch) add(key int16, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took[key] += d
}

func (w *stopwatch) mean(key int16) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.took[key].Seconds() / requestsOfSlowAPI
}

// delayBroker has the brokers take their time for slowAPIs.
func (s *site) delayBroker() *stopwatch {
	w := &stopwatch{took: map[int16]time.Duration{}}
	for _, api := range slowAPIs {
		key := api.request().Key()
		s.cluster.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
			s.cluster.KeepControl()
			start := time.Now()
			time.Sleep(api.delay)
			w.add(key, time.Since(start))
			return nil, nil, false
		})
	}
	return w
}

// askSlowAPIs asks one broker through the agent, one request after the other, and returns how long
// it waited for each API key.
func (s *site) askSlowAPIs() map[int16]time.Duration {
	s.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.agent.flags["listen"]))
	try(s.T, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	waited := map[int16]time.Duration{}
	for range requestsOfSlowAPI {
		for _, api := range slowAPIs {
			request := api.request()
			start := time.Now()
			// That the broker refuses what is asked does not matter here.
			if _, err := client.Broker(0).Request(ctx, request); err != nil && !errors.As(err, new(*kerr.Error)) {
				s.Fatalf("%s: %v", kmsg.NameForKey(request.Key()), err)
			}
			waited[request.Key()] += time.Since(start)
		}
	}
	return waited
}

// latency is what one end tells of one API key.
type latency struct {
	count uint64
	mean  float64 // in seconds
}

// views reads the status document, the native histogram and the classic one of one end, and fails
// unless they agree.
func (s *site) views(e *end, name string) latency {
	s.Helper()
	admin := e.flags["admin-listen"]
	api := apiOf(s.document(admin), name)
	if api == nil || api.Latency == nil {
		s.Fatalf("/status of the %s has no latency of %s", e.command, name)
	}
	h := s.histogram(admin, name)
	text := scrape(s.T, admin)
	labels := `{api_key="` + name + `"}`
	classic := latency{uint64(text["culvert_request_duration_seconds_count"+labels]), 0}
	classic.mean = text["culvert_request_duration_seconds_sum"+labels] / float64(classic.count)
	native := latency{h.GetSampleCount(), h.GetSampleSum() / float64(h.GetSampleCount())}
	told := latency{api.Latency.Count, api.Latency.Mean}
	for view, got := range map[string]latency{"native histogram": native, "classic histogram": classic} {
		if got.count != requestsOfSlowAPI || got.count != told.count || math.Abs(got.mean-told.mean) > 1e-9 {
			s.Errorf("%s at the %s: /status tells %+v, the %s %+v, of %d requests", name, e.command, told, view, got, requestsOfSlowAPI)
		}
	}
	if low, high := medianBucket(h); api.Latency.P50 < low/(1+1e-9) || api.Latency.P50 > high*(1+1e-9) {
		s.Errorf("%s at the %s: the median is %v in /status, and from %v to %v in the native histogram", name, e.command, api.Latency.P50, low, high)
	}
	if low, high := medianOfClassic(h); api.Latency.P50 < low || api.Latency.P50 > high {
		s.Errorf("%s at the %s: the median is %v in /status, and from %v to %v in the classic histogram", name, e.command, api.Latency.P50, low, high)
	}
	for _, b := range h.GetBucket() {
		if b.GetUpperBound() <= s.delayOf(name) && b.GetCumulativeCount() > 0 {
			s.Errorf("%s at the %s: %d requests took less than %v s, which the broker alone took", name, e.command, b.GetCumulativeCount(), b.GetUpperBound())
		}
	}
	return told
}

// delayOf is how long the broker takes at least, in seconds.
func (s *site) delayOf(name string) float64 {
	for _, api := range slowAPIs {
		if kmsg.NameForKey(api.request().Key()) == name {
			return api.delay.Seconds()
		}
	}
	s.Fatalf("%s is not delayed", name)
	return 0
}

// wantShare waits until the gateway has told the agent how long its requests took there.
func (s *site) wantShare(name string, mean float64) {
	s.Helper()
	labels := `{api_key="` + name + `"}`
	var text series
	await(s.T, patience, "the gateway's share of "+name, func() bool {
		text = scrape(s.T, s.agent.flags["admin-listen"])
		return text["culvert_gateway_requests_total"+labels] == requestsOfSlowAPI
	})
	if got := text["culvert_gateway_request_seconds_total"+labels] / requestsOfSlowAPI; math.Abs(got-mean) > 1e-6 {
		s.Errorf("%s: the gateway measured %v on average, and told the agent %v", name, mean, got)
	}
}

// document reads /status of an admin listener.
func (s *site) document(admin string) (d document.Document) {
	s.Helper()
	response, err := http.Get("http://" + admin + "/status")
	try(s.T, err)
	defer response.Body.Close()
	try(s.T, json.NewDecoder(response.Body).Decode(&d))
	return d
}

func apiOf(d document.Document, name string) *document.API {
	for i := range d.APIs {
		if d.APIs[i].Name == name {
			return &d.APIs[i]
		}
	}
	return nil
}

// histogram reads the durations of one API key from /metrics, as Prometheus does where it scrapes
// native histograms.
func (s *site) histogram(admin, name string) *dto.Histogram {
	s.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+admin+"/metrics", nil)
	try(s.T, err)
	request.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	response, err := http.DefaultClient.Do(request)
	try(s.T, err)
	defer response.Body.Close()
	families := expfmt.NewDecoder(response.Body, expfmt.ResponseFormat(response.Header))
	for {
		var f dto.MetricFamily
		if err := families.Decode(&f); errors.Is(err, io.EOF) {
			s.Fatalf("no durations of %s at %s", name, admin)
		} else {
			try(s.T, err)
		}
		if f.GetName() != "culvert_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == name {
				return m.GetHistogram()
			}
		}
	}
}

// medianBucket returns where the bucket of a native histogram begins and ends that holds the median.
func medianBucket(h *dto.Histogram) (low, high float64) {
	end := func(index int32) float64 { return math.Exp2(float64(index) * math.Exp2(-float64(h.GetSchema()))) }
	deltas, index, count, before := h.GetPositiveDelta(), int32(0), int64(0), int64(0)
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			if before += count; 2*before >= int64(h.GetSampleCount()) {
				return end(index - 1), end(index)
			}
			index++
		}
	}
	return 0, 0
}

// medianOfClassic is medianBucket of the classic buckets.
func medianOfClassic(h *dto.Histogram) (low, high float64) {
	for _, b := range h.GetBucket() {
		if high = b.GetUpperBound(); 2*b.GetCumulativeCount() >= h.GetSampleCount() {
			return low, high
		}
		low = high
	}
	return low, math.Inf(1)
}
