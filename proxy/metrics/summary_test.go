package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Snowflake's Prometheus sidecar takes no summaries, and Go's usual collector brings one.
func TestNoMetricIsASummary(t *testing.T) {
	for _, end := range []End{Agent, Gateway} {
		reg := prometheus.NewRegistry()
		New(reg, end, "test").API(0).Duration.Observe(1)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetType() == dto.MetricType_SUMMARY {
				t.Errorf("%s: %s is a summary", end, f.GetName())
			}
		}
		if len(families) < 20 {
			t.Errorf("%s: only %d metrics were looked at", end, len(families))
		}
	}
}
