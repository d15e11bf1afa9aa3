package chart

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What the values add to pods is in the pods. The doctor, which must end, has no containers that do
// not.
func TestPodsHaveWhatTheValuesAdd(t *testing.T) {
	found := pods(objects(t, readValues(t, testdata+"/everything.yaml")))
	for name, want := range map[string]struct{ init, containers, host, dns string }{
		"culvert-gateway": {"wait", "gateway shell", "kafka-0.internal", "None"},
		"culvert-agent":   {"login", "agent shell", "kafka.example.com", "Default"},
		"culvert-doctor":  {"login", "doctor", "kafka.example.com", "Default"},
	} {
		spec := found[name]
		if spec == nil {
			t.Errorf("no pod %s in %v", name, found)
			continue
		}
		if got := names(spec.InitContainers); got != want.init {
			t.Errorf("%s: init containers %q, want %q", name, got, want.init)
		}
		if got := names(spec.Containers); got != want.containers {
			t.Errorf("%s: containers %q, want %q", name, got, want.containers)
		}
		if len(spec.HostAliases) != 1 || spec.HostAliases[0].Hostnames[0] != want.host {
			t.Errorf("%s: host aliases %v, want one for %s", name, spec.HostAliases, want.host)
		}
		if string(spec.DNSPolicy) != want.dns || spec.DNSConfig == nil || len(spec.DNSConfig.Options) != 1 {
			t.Errorf("%s: DNS policy %s, configuration %v, want %s and one with an option", name, spec.DNSPolicy, spec.DNSConfig, want.dns)
		}
	}
}

func names(containers []corev1.Container) string {
	var all []string
	for _, c := range containers {
		all = append(all, c.Name)
	}
	return strings.Join(all, " ")
}

// TestForwardsHavePorts: what stands beside Kafka is reached at the agent's Service, and through its
// NetworkPolicy.
func TestForwardsHavePorts(t *testing.T) {
	rendered := objects(t, parseValues(t, goodAgent+`, forwards: {schema-registry: 8081, a-name-with-more-than-fifteen-letters: 8083}}`))
	spec := pods(rendered)["culvert-agent"]
	args := spec.Containers[0].Args
	for name, port := range map[string]int32{"schema-registry": 8081, "a-name-with-more-than-fifteen-letters": 8083} {
		if want := "--forward=" + name + "=:" + strconv.Itoa(int(port)); !slices.Contains(args, want) {
			t.Errorf("%s is not in %q", want, args)
		}
		if !slices.ContainsFunc(all[*corev1.Service](rendered)[0].Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Name == name && p.Port == port && p.TargetPort.IntVal == port
		}) {
			t.Errorf("the Service has no port %s: %v", name, all[*corev1.Service](rendered)[0].Spec.Ports)
		}
		if !admits(rendered, port) {
			t.Errorf("the NetworkPolicy does not let clients in to port %d", port)
		}
	}
}

func admits(rendered []runtime.Object, port int32) bool {
	return slices.ContainsFunc(all[*networkingv1.NetworkPolicy](rendered)[0].Spec.Ingress[0].Ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port.IntVal == port
	})
}

func TestTheGatewaysOptionsAreFlags(t *testing.T) {
	rendered := objects(t, parseValues(t, goodGateway+`, forwards: {schema-registry: "registry.kafka:8081", connect: "connect.kafka:8083"},
		auditLog: "-", proxyProtocol: [10.0.0.0/8, "fd00::/8"]}`))
	args := all[*appsv1.Deployment](rendered)[0].Spec.Template.Spec.Containers[0].Args
	for _, want := range []string{
		"--forward=schema-registry=registry.kafka:8081", "--forward=connect=connect.kafka:8083", "--audit-log=-", "--proxy-protocol=10.0.0.0/8,fd00::/8",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("%s is not in %q", want, args)
		}
	}
}
