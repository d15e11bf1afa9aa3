package chart

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestAlertsAreInstalled compares the PrometheusRule with alerts.yaml. Helm must not take Prometheus'
// templates for its own.
func TestAlertsAreInstalled(t *testing.T) {
	content, err := os.ReadFile(chartDir + "/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(content, &want); err != nil {
		t.Fatal(err)
	}
	rendered := all[*monitoringv1.PrometheusRule](objects(t, parseValues(t, `prometheusRule: {enabled: true, labels: {release: prometheus}}`)))
	if len(rendered) != 1 || rendered[0].Labels["release"] != "prometheus" {
		t.Fatalf("PrometheusRules %v", rendered)
	}
	if diff := cmp.Diff(want, rendered[0].Spec); diff != "" {
		t.Errorf("the PrometheusRule differs from alerts.yaml (-file +rendered):\n%s", diff)
	}
	without := all[*monitoringv1.PrometheusRule](objects(t, parseValues(t, `prometheusRule: {enabled: true, disabled: [CulvertDown, CulvertThrottled]}`)))[0].Spec
	want.Groups[0].Rules = slices.DeleteFunc(want.Groups[0].Rules, func(r monitoringv1.Rule) bool {
		return r.Alert == "CulvertDown" || r.Alert == "CulvertThrottled"
	})
	if diff := cmp.Diff(want, without); diff != "" {
		t.Errorf("without two alerts (-want +rendered):\n%s", diff)
	}
}

// TestDashboardsAreInstalled compares the ConfigMaps with the files, byte by byte.
func TestDashboardsAreInstalled(t *testing.T) {
	files, err := filepath.Glob(chartDir + "/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("dashboards %q, %v", files, err)
	}
	maps := all[*corev1.ConfigMap](objects(t, parseValues(t, `dashboards: {enabled: true}`)))
	if len(maps) != len(files) {
		t.Errorf("%d ConfigMaps for %d dashboards", len(maps), len(files))
	}
	for i, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := maps[i].Data[filepath.Base(file)] + "\n"; got != string(want) {
			t.Errorf("%s differs in ConfigMap %s: %v", file, maps[i].Name, cmp.Diff(string(want), got))
		}
		if maps[i].Labels["grafana_dashboard"] != "1" {
			t.Errorf("ConfigMap %s has labels %v, which the sidecar does not look for", maps[i].Name, maps[i].Labels)
		}
	}
}

// TestMonitoringIsOffByDefault: without the operator, a PrometheusRule is an unknown kind, and the
// installation fails.
func TestMonitoringIsOffByDefault(t *testing.T) {
	rendered := objects(t, parseValues(t, goodGateway+`}`))
	if n := len(all[*monitoringv1.PrometheusRule](rendered)); n != 0 {
		t.Errorf("%d PrometheusRules", n)
	}
	if n := len(all[*corev1.ConfigMap](rendered)); n != 0 {
		t.Errorf("%d ConfigMaps", n)
	}
}
