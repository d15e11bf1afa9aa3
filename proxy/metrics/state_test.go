package metrics_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/metrics"
)

func TestStateIsAskedForAtEachScrape(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, metrics.Gateway, "v1.2.3")
	want := func(when string, family string, want map[string]float64) {
		t.Helper()
		if diff := cmp.Diff(want, values(gather(t, reg)[family])); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", when, family, diff)
		}
	}
	want("at the start", "culvert_ready", map[string]float64{"": 0})
	want("at the start", "culvert_limit_used", map[string]float64{})

	unready, expires, used := errors.New("no broker answers"), time.Time{}, int64(3)
	m.AskReady(func() error { return unready })
	m.AskExpiry("tls-cert-file", func() time.Time { return expires })
	m.AskLimits(func() []metrics.LimitUse {
		return []metrics.LimitUse{{metrics.LimitStreams, used, 10}, {metrics.LimitMemory, 1 << 20, 0}}
	})
	want("not ready", "culvert_ready", map[string]float64{"": 0})
	want("while the file cannot be read", "culvert_certificate_expiry_timestamp_seconds", map[string]float64{})
	want("with limits", "culvert_limit_used", map[string]float64{"streams": 3, "memory": 1 << 20})
	want("without a limit of memory", "culvert_limit_max", map[string]float64{"streams": 10})

	unready, expires, used = nil, time.Unix(1_900_000_000, 0), 4
	want("when ready", "culvert_ready", map[string]float64{"": 1})
	want("with a certificate", "culvert_certificate_expiry_timestamp_seconds", map[string]float64{"tls-cert-file": 1_900_000_000})
	want("with another stream", "culvert_limit_used", map[string]float64{"streams": 4, "memory": 1 << 20})
}
