package metrics_test

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// sampling runs f in a bubble in which the collectors are sampled.
func sampling(t *testing.T, f func(t *testing.T, m *metrics.Metrics)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(prometheus.NewRegistry(), metrics.Agent, "v1.2.3")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Sample(ctx)
		}()
		synctest.Wait()
		f(t, m)
		stop()
		<-done
	})
}

func TestRatesMeansAndHistoryAreOfTheLastMinute(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		produce, fetch := m.API(protocol.Produce), m.API(protocol.Fetch)
		busy := func(seconds int, took float64) {
			for range seconds {
				for range 10 {
					produce.Requests.Inc()
					produce.RequestBytes.Add(1000)
					produce.ResponseBytes.Add(50)
					produce.Duration.Observe(took)
				}
				fetch.Requests.Inc()
				fetch.Duration.Observe(0.5)
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		busy(10, 0.004)
		over, total, apis := m.APIs()
		if over != 10*time.Second || len(apis) != 2 || apis[0].Name != "Fetch" || apis[1].Name != "Produce" {
			t.Fatalf("over %v: %+v", over, apis)
		}
		p := apis[1]
		if p.Rate != 10 || p.RequestByteRate != 10_000 || p.ResponseByteRate != 500 || p.Latency.Count != 100 || math.Abs(p.Latency.Mean-0.004) > 1e-9 {
			t.Errorf("after 10 s: %+v %+v", p, p.Latency)
		}
		if want := slices.Repeat([]float64{10}, 10); !slices.Equal(p.History, want) {
			t.Errorf("history %v, want %v", p.History, want)
		}
		if total.Requests != 100 || total.Latency.Count != 100 || total.Rate != 10 {
			t.Errorf("the total %+v has long polls in it, or lacks something", total)
		}
		busy(120, 0.040)
		over, _, apis = m.APIs()
		p = apis[1]
		if over <= 50*time.Second || over > document.MaxWindow || p.Rate != 10 || math.Abs(p.Latency.Mean-0.040) > 1e-9 || p.Requests != 1300 {
			t.Errorf("two minutes later, over %v: %+v %+v; want nothing of the first seconds in rates and means", over, p, p.Latency)
		}
		if len(p.History) != document.MaxHistory {
			t.Errorf("history of %d seconds", len(p.History))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if over, total, apis = m.APIs(); apis[1].Rate != 0 || apis[1].Latency != nil || total.Rate != 0 || apis[1].History[59] != 0 || over > document.MaxWindow {
			t.Errorf("when idle, over %v: %+v", over, apis[1])
		}
	})
}

// Keys come into use at any time. The total is of the window alone, also when the first of them is the
// youngest.
func TestTheTotalOfKeysThatCameLater(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		use := func(k protocol.APIKey, n int, took float64) {
			for range n {
				m.API(k).Requests.Inc()
				m.API(k).Duration.Observe(took)
			}
		}
		use(protocol.Metadata, 1000, 7)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		use(protocol.Produce, 10, 0.010)
		use(protocol.Metadata, 10, 0.010)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		_, total, _ := m.APIs()
		if total.Latency.Count != 20 || math.Abs(total.Latency.Mean-0.010) > 1e-9 || total.Requests != 1020 || total.Latency.P99 > 0.012 {
			t.Errorf("%+v %+v, want 20 durations of 10 ms in the window", total, total.Latency)
		}
		if n := len(total.History); n != 60 || total.History[n-2] != 20 || total.History[n-1] != 0 {
			t.Errorf("history %v, want 20 two seconds ago", total.History)
		}
	})
}

func TestTheTunnelsShareIsWhatTheGatewayDoesNotTake(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		a := m.API(protocol.Produce)
		for range 100 {
			a.Duration.Observe(0.030)
		}
		if _, _, apis := m.APIs(); apis[0].Gateway != nil || apis[0].Tunnel != 0 {
			t.Errorf("before the gateway tells: %+v", apis[0])
		}
		m.GatewayTimed(protocol.Produce, 100, 2*time.Second)
		_, total, apis := m.APIs()
		for _, a := range []document.API{apis[0], total} {
			if a.Gateway == nil || a.Gateway.Count != 100 || a.Gateway.Mean != 0.020 || math.Abs(a.Tunnel-0.010) > 1e-9 {
				t.Errorf("%s: gateway %+v, tunnel %v; want 20 ms and 10 ms", a.Name, a.Gateway, a.Tunnel)
			}
		}
		m.GatewayTimed(protocol.Produce, 100, 100*time.Second)
		if _, _, apis := m.APIs(); apis[0].Tunnel != 0 {
			t.Errorf("a gateway that says more than there is: tunnel %v, want 0", apis[0].Tunnel)
		}
		m.API(protocol.Fetch).Duration.Observe(0.500)
		m.GatewayTimed(protocol.Fetch, 1, 490*time.Millisecond)
		if _, _, apis := m.APIs(); apis[0].Name != "Fetch" || !apis[0].LongPoll || apis[0].Gateway == nil || apis[0].Tunnel != 0 {
			t.Errorf("a long poll: %+v, want the gateway's mean and no tunnel", apis[0])
		}
	})
}

// Quantiles come from the histogram's own buckets, each 9 % wide: the document, Prometheus' native
// and its classic histogram agree within a bucket.
// While only some gateways tell, as in an upgrade, the means would be of different requests.
func TestNoShareOfSomeRequestsOnly(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		for _, took := range []float64{0.101, 0.002} {
			for range 50 {
				m.API(protocol.Produce).Duration.Observe(took)
			}
		}
		m.GatewayTimed(protocol.Produce, 50, 50*time.Millisecond)
		if _, _, apis := m.APIs(); apis[0].Gateway != nil || apis[0].Tunnel != 0 {
			t.Errorf("%+v, tunnel %v", apis[0].Gateway, apis[0].Tunnel)
		}
		m.GatewayTimed(protocol.Produce, 40, 4*time.Second)
		if _, _, apis := m.APIs(); apis[0].Gateway == nil {
			t.Error("nothing of the gateway's share, which lacks the last requests")
		}
	})
}

func TestThereIsNoRateBeforeTheFirstSecond(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		m.API(protocol.Produce).Requests.Inc()
		time.Sleep(50 * time.Microsecond)
		if _, total, apis := m.APIs(); apis[0].Rate != 0 || total.Rate != 0 {
			t.Errorf("%v requests a second, in all %v", apis[0].Rate, total.Rate)
		}
	})
}

func TestQuantilesAreWithinABucketOfTheTruth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() float64{
		"constant":  func() float64 { return 0.0375 },
		"spread":    func() float64 { return 0.001 + 0.099*random.Float64() },
		"long tail": func() float64 { return 0.002 * math.Exp(random.NormFloat64()) },
	} {
		sampling(t, func(t *testing.T, m *metrics.Metrics) {
			a := m.API(protocol.Metadata)
			for range 5000 { // out of the window at the end, and with other durations
				a.Duration.Observe(7)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			var all []float64
			for range 20_000 {
				d := draw()
				all = append(all, d)
				a.Duration.Observe(d)
			}
			slices.Sort(all)
			_, total, apis := m.APIs()
			for _, l := range []*document.Latency{apis[0].Latency, total.Latency} {
				for q, got := range map[float64]float64{0.5: l.P50, 0.9: l.P90, 0.99: l.P99} {
					want := all[int(q*float64(len(all)))]
					if bucket := math.Exp2(1.0 / 8); got < want/bucket || got > want*bucket {
						t.Errorf("%s: quantile %v is %v, in truth %v: more than a bucket away", name, q, got, want)
					}
				}
				if l.Count != 20_000 {
					t.Errorf("%s: %d durations", name, l.Count)
				}
			}
		})
	}
}

// A histogram doubles the width of its buckets when there would be too many, and an hour after its
// last reset it starts anew.
func TestQuantilesSurviveWiderBucketsAndResets(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		a := m.API(protocol.Metadata)
		everything := func() {
			for d := 1e-6; d < 1e4; d *= 1.02 { // 20 octaves and more, in more than 100 buckets
				a.Duration.Observe(d)
			}
		}
		check := func(when string) {
			t.Helper()
			for range 10_000 {
				a.Duration.Observe(0.0375)
			}
			_, _, apis := m.APIs()
			if l := apis[0].Latency; l.P50 < 0.0375/2 || l.P50 > 0.0375*2 {
				t.Errorf("%s: the median is %v, want about 0.0375", when, l.P50)
			}
		}
		check("at first")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		everything()
		check("with wider buckets")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		everything()
		check("after a reset")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		check("later")
	})
}

// API keys that a peer invents leave the window bounded, and so does time.
func TestTheWindowIsBounded(t *testing.T) {
	sampling(t, func(t *testing.T, m *metrics.Metrics) {
		use := func() {
			for k := -1 << 10; k < 1<<10; k++ {
				a := m.API(protocol.APIKey(k))
				a.Requests.Inc()
				a.Duration.Observe(math.Exp2(float64(k%200) / 10))
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		for range 65 {
			use()
		}
		before := inUse()
		for range 65 {
			use()
		}
		if grown := inUse() - before; grown > 1<<20 {
			t.Errorf("%d bytes more after another minute", grown)
		}
		if _, _, apis := m.APIs(); len(apis) != int(protocol.MaxKey)+2 {
			t.Errorf("%d API keys", len(apis))
		}
		runtime.KeepAlive(m)
	})
}

func inUse() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// BenchmarkSample is what sampling costs in five seconds with twenty API keys whose durations are in
// thirty buckets, and what a document costs besides.
func BenchmarkSample(b *testing.B) {
	m := metrics.New(prometheus.NewRegistry(), metrics.Agent, "v1.2.3")
	for k := range protocol.APIKey(20) {
		a := m.API(k)
		for i := range 30 {
			a.Requests.Inc()
			a.Duration.Observe(0.0005 * math.Exp2(float64(i)/8))
		}
	}
	b.Run("five seconds", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.SampleFiveSeconds()
		}
	})
	b.Run("document", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.APIs()
		}
	})
}
