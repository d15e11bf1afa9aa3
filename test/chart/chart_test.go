package chart

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// TestLints is helm lint --strict.
func TestLints(t *testing.T) {
	check := func(t *testing.T, values map[string]any) {
		for _, m := range lint.RunAll(chartDir, values, namespace).Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", m.Path, m.Err)
			}
		}
	}
	t.Run("no values", func(t *testing.T) { check(t, nil) })
	eachFile(t, check)
}

func TestRendersValidKubernetesObjects(t *testing.T) {
	eachFile(t, func(t *testing.T, values map[string]any) {
		var kinds []string
		for _, o := range objects(t, values) {
			kinds = append(kinds, o.GetObjectKind().GroupVersionKind().Kind)
		}
		if !slices.Contains(kinds, "Deployment") || !slices.Contains(kinds, "Service") {
			t.Errorf("rendered %v, want a Deployment and a Service among them", kinds)
		}
	})
}

func TestSidecarIsAValidKubernetesObject(t *testing.T) {
	if n := len(all[*appsv1.Deployment](sidecar(t))); n != 1 {
		t.Errorf("%d Deployments, want 1", n)
	}
}

func sidecar(t *testing.T) []runtime.Object {
	t.Helper()
	content, err := os.ReadFile(examples + "/sidecar/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, "sidecar", string(content))
}

// pods returns the pods of deployments and the standalone ones, by name.
func pods(objects []runtime.Object) map[string]*corev1.PodSpec {
	found := map[string]*corev1.PodSpec{}
	for _, d := range all[*appsv1.Deployment](objects) {
		found[d.Name] = &d.Spec.Template.Spec
	}
	for _, p := range all[*corev1.Pod](objects) {
		found[p.Name] = &p.Spec
	}
	return found
}

// TestPodsAreRestricted applies the rules of the namespace label
// pod-security.kubernetes.io/enforce: restricted.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	check := func(t *testing.T, objects []runtime.Object) {
		for name, spec := range pods(objects) {
			if result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &metav1.ObjectMeta{}, spec)); !result.Allowed {
				t.Errorf("%s: %s: %s", name, result.ForbiddenReason(), result.ForbiddenDetail())
			}
			for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
				if isCulvert(c) && (c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem) {
					t.Errorf("%s: container %s has a writable root file system", name, c.Name)
				}
			}
		}
	}
	eachFile(t, func(t *testing.T, values map[string]any) { check(t, objects(t, values)) })
	t.Run("sidecar", func(t *testing.T) { check(t, sidecar(t)) })
}

func isCulvert(c corev1.Container) bool { return strings.Contains(c.Image, "culvert") }

func TestServicesTargetPorts(t *testing.T) {
	eachFile(t, func(t *testing.T, values map[string]any) {
		rendered := objects(t, values)
		for _, s := range all[*corev1.Service](rendered) {
			pods := selected(rendered, labels.SelectorFromSet(s.Spec.Selector))
			if len(pods) != 1 {
				t.Errorf("service %s selects the pods of %d deployments, want those of one", s.Name, len(pods))
				continue
			}
			seen := map[string]bool{}
			for _, p := range s.Spec.Ports {
				if _, ok := containerPort(pods[0], p.TargetPort, p.Protocol); !ok {
					t.Errorf("service %s: port %s targets %s %s, which no container has", s.Name, p.Name, p.Protocol, p.TargetPort.String())
				}
				if key := fmt.Sprint(p.Protocol, p.Port); seen[key] {
					t.Errorf("service %s: port %d twice", s.Name, p.Port)
				} else {
					seen[key] = true
				}
			}
		}
		for _, i := range all[*networkingv1.Ingress](rendered) {
			backend := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
			if !slices.ContainsFunc(all[*corev1.Service](rendered), func(s *corev1.Service) bool {
				return s.Name == backend.Name && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == backend.Port.Name })
			}) {
				t.Errorf("ingress %s targets port %s of service %s, which does not exist", i.Name, backend.Port.Name, backend.Name)
			}
		}
	})
}

// selected returns the pods of deployments that a selector matches.
func selected(objects []runtime.Object, selector labels.Selector) []corev1.PodTemplateSpec {
	var pods []corev1.PodTemplateSpec
	for _, d := range all[*appsv1.Deployment](objects) {
		if selector.Matches(labels.Set(d.Spec.Template.Labels)) {
			pods = append(pods, d.Spec.Template)
		}
	}
	return pods
}

func containerPort(pod corev1.PodTemplateSpec, port intstr.IntOrString, protocol corev1.Protocol) (int32, bool) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if (port.StrVal == p.Name || port.IntVal == p.ContainerPort) && orTCP(protocol) == orTCP(p.Protocol) {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

func orTCP(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func TestSelectorsMatchOneComponent(t *testing.T) {
	eachFile(t, func(t *testing.T, values map[string]any) {
		rendered := objects(t, values)
		selectors := map[string]*metav1.LabelSelector{}
		for _, d := range all[*appsv1.Deployment](rendered) {
			selectors["deployment "+d.Name] = d.Spec.Selector
			for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
				selectors["spread of "+d.Name+" over "+c.TopologyKey] = c.LabelSelector
			}
		}
		for _, b := range all[*policyv1.PodDisruptionBudget](rendered) {
			selectors["budget "+b.Name] = b.Spec.Selector
		}
		for _, p := range all[*networkingv1.NetworkPolicy](rendered) {
			selectors["policy "+p.Name] = &p.Spec.PodSelector
		}
		for what, s := range selectors {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(selected(rendered, selector)); n != 1 {
				t.Errorf("%s selects the pods of %d deployments, want those of one", what, n)
			}
		}
	})
}

// Probes and Prometheus must reach their ports from outside the pod, and a pod must not be killed
// while it drains.
func TestPodsCanBeProbedAndDrain(t *testing.T) {
	check := func(t *testing.T, objects []runtime.Object) {
		for _, d := range all[*appsv1.Deployment](objects) {
			pod := d.Spec.Template
			if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
				t.Errorf("%s: service links are enabled", d.Name)
			}
			for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				if !isCulvert(c) {
					continue
				}
				for what, probe := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe, "startup": c.StartupProbe} {
					if probe == nil {
						continue
					}
					port, ok := containerPort(pod, probe.HTTPGet.Port, corev1.ProtocolTCP)
					if want := fmt.Sprintf("--admin-listen=:%d", port); !ok || !slices.Contains(c.Args, want) {
						t.Errorf("%s: the %s probe uses port %d, but %s is not in %q", d.Name, what, port, want, c.Args)
					}
				}
				if c.LivenessProbe == nil || c.LivenessProbe.HTTPGet.Path != "/healthz" {
					t.Errorf("%s: no liveness probe of /healthz", d.Name)
				}
				drain := 25 * time.Second
				if s := flagValue(c.Args, "drain-timeout"); s != "" {
					drain, _ = time.ParseDuration(s)
				}
				if grace := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace < drain+5*time.Second {
					t.Errorf("%s: killed after %v, drains for %v", d.Name, grace, drain)
				}
			}
		}
	}
	eachFile(t, func(t *testing.T, values map[string]any) { check(t, objects(t, values)) })
	t.Run("sidecar", func(t *testing.T) { check(t, sidecar(t)) })
}

// flagValue returns the value of a flag that is written --name=value.
func flagValue(args []string, name string) string {
	for _, a := range args {
		if value, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// Each file that a flag names must be in a mounted volume, under that name. It must come from a
// Secret that the chart creates with that key, or that the values name.
func TestFilesOfFlagsAreMounted(t *testing.T) {
	eachFile(t, func(t *testing.T, values map[string]any) {
		rendered := objects(t, values)
		made := map[string][]string{}
		for _, s := range all[*corev1.Secret](rendered) {
			made[s.Name] = slices.Concat(slices.Collect(maps.Keys(s.Data)), slices.Collect(maps.Keys(s.StringData)))
		}
		for _, d := range all[*appsv1.Deployment](rendered) {
			files := map[string]bool{}
			for _, m := range d.Spec.Template.Spec.Containers[0].VolumeMounts {
				for _, v := range d.Spec.Template.Spec.Volumes {
					if v.Name != m.Name {
						continue
					}
					for _, item := range items(v) {
						files[m.MountPath+"/"+item.Path] = true
						if v.Secret == nil || !strings.HasPrefix(v.Secret.SecretName, "culvert-"+d.Labels["app.kubernetes.io/component"]) {
							continue // not the chart's
						}
						if !slices.Contains(made[v.Secret.SecretName], item.Key) {
							t.Errorf("%s: key %s of secret %s is mounted, but the chart creates %v", d.Name, item.Key, v.Secret.SecretName, made)
						}
					}
				}
			}
			for _, a := range d.Spec.Template.Spec.Containers[0].Args {
				if name, path, _ := strings.Cut(a, "="); strings.HasSuffix(name, "-file") && strings.HasPrefix(path, "/etc/") && !files[path] {
					t.Errorf("%s: %s, but mounted are %v", d.Name, a, files)
				}
			}
		}
	})
}

func items(v corev1.Volume) []corev1.KeyToPath {
	switch {
	case v.Secret != nil:
		return v.Secret.Items
	case v.ConfigMap != nil:
		return v.ConfigMap.Items
	}
	return nil
}

func TestEachExpectedNodeHasAPort(t *testing.T) {
	o := objects(t, parseValues(t, `agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: "0-2,1001,1", brokerPortBase: 20000, anonymous: true}`))
	ports := map[string]int32{}
	for _, p := range all[*corev1.Service](o)[0].Spec.Ports {
		ports[p.Name] = p.Port
	}
	want := map[string]int32{"kafka": 9092, "broker-0": 20000, "broker-1": 20001, "broker-2": 20002, "broker-1001": 21001}
	if !maps.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
	if got := flagValue(all[*appsv1.Deployment](o)[0].Spec.Template.Spec.Containers[0].Args, "expect-nodes"); got != "0-2,1001,1" {
		t.Errorf("--expect-nodes=%s", got)
	}
}

// Where brokers have names, the Service has one port, whatever brokers there are.
func TestNamedBrokersHaveNoPorts(t *testing.T) {
	for _, expected := range []string{``, `, expectNodes: 0-2`} {
		o := objects(t, parseValues(t, `agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], token: {existingSecret: t}, brokerNames: "b{id}.example.com", listenTLS: {existingSecret: tls}`+expected+`}`))
		if ports := all[*corev1.Service](o)[0].Spec.Ports; len(ports) != 1 || ports[0].Port != 9092 {
			t.Errorf("the Service has ports %v, want 9092 alone", ports)
		}
		c := all[*appsv1.Deployment](o)[0].Spec.Template.Spec.Containers[0]
		names, base, nodes := flagValue(c.Args, "broker-names"), flagValue(c.Args, "broker-port-base"), flagValue(c.Args, "expect-nodes")
		if names != "b{id}.example.com" || base != "" || nodes != strings.TrimPrefix(expected, `, expectNodes: `) {
			t.Errorf("--broker-names=%s --broker-port-base=%s --expect-nodes=%s", names, base, nodes)
		}
	}
}

func TestUDPPortsFollowTheValues(t *testing.T) {
	for udp, want := range map[string]map[string]string{
		"none":     {"culvert-gateway": "TCP443"},
		"same":     {"culvert-gateway": "TCP443 UDP443"},
		"separate": {"culvert-gateway": "TCP443", "culvert-gateway-udp": "UDP443"},
	} {
		t.Run(udp, func(t *testing.T) {
			o := objects(t, parseValues(t, `gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {existingSecret: t}, tls: {existingSecret: tls}, service: {udp: `+udp+`}}`))
			got := map[string]string{}
			for _, s := range all[*corev1.Service](o) {
				var ports []string
				for _, p := range s.Spec.Ports {
					ports = append(ports, fmt.Sprint(orTCP(p.Protocol), p.Port))
				}
				got[s.Name] = strings.Join(ports, " ")
			}
			if !maps.Equal(got, want) {
				t.Errorf("services %v, want %v", got, want)
			}
		})
	}
}

func TestMemoryLimitBecomesGOMEMLIMIT(t *testing.T) {
	for limit, want := range map[string]string{"512Mi": "429496729", "1.5Gi": "1288490188", "200M": "160000000", "1000000000": "800000000", "64e6": ""} {
		o := objects(t, parseValues(t, `agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0, anonymous: true, resources: {limits: {memory: "`+limit+`"}}}`))
		got := ""
		for _, e := range all[*appsv1.Deployment](o)[0].Spec.Template.Spec.Containers[0].Env {
			if e.Name == "GOMEMLIMIT" {
				got = e.Value
			}
		}
		if got != want {
			t.Errorf("limit %s: GOMEMLIMIT=%q, want %q", limit, got, want)
		}
	}
}

// helm test runs the doctor with the agent's own flags and files. No Service may route clients to
// it.
func TestDoctorHasWhatTheAgentHas(t *testing.T) {
	rendered := objects(t, readValues(t, examples+"/agent-spcs.yaml"))
	agent, doctor := pods(rendered)["culvert-agent"], all[*corev1.Pod](rendered)[0]
	if got, want := doctor.Spec.Containers[0].Args, agent.Containers[0].Args; got[0] != "doctor" || !slices.Equal(got[1:], want[1:]) {
		t.Errorf("the doctor's command is %q, the agent's %q", got, want)
	}
	if got, want := doctor.Spec.Volumes, agent.Volumes; !reflect.DeepEqual(got, want) {
		t.Errorf("the doctor has volumes %v, the agent %v", got, want)
	}
	if doctor.Annotations["helm.sh/hook"] != "test" || doctor.Spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("the doctor is not a test that ends: %v, restarted %s", doctor.Annotations, doctor.Spec.RestartPolicy)
	}
	for _, s := range all[*corev1.Service](rendered) {
		if labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(doctor.Labels)) {
			t.Errorf("service %s selects the doctor", s.Name)
		}
	}
}

func TestAutoscalerOwnsTheReplicas(t *testing.T) {
	o := objects(t, parseValues(t, `gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {existingSecret: t}, autoscaling: {enabled: true}}`))
	if r := all[*appsv1.Deployment](o)[0].Spec.Replicas; r != nil {
		t.Errorf("the deployment sets %d replicas", *r)
	}
}

func TestTheAutoscalerTakesMoreMetrics(t *testing.T) {
	o := objects(t, parseValues(t, `gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {existingSecret: t}, autoscaling: {enabled: true, metrics: [
		{type: Pods, pods: {metric: {name: culvert_connections}, target: {type: AverageValue, averageValue: "5000"}}}]}}`))
	metrics := all[*autoscalingv2.HorizontalPodAutoscaler](o)[0].Spec.Metrics
	if len(metrics) != 2 || metrics[0].Resource.Name != corev1.ResourceCPU || metrics[1].Pods.Metric.Name != "culvert_connections" {
		t.Errorf("metrics %+v", metrics)
	}
}
