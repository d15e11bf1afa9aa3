package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const chartDir = "../../../charts/culvert"

// cluster is what the checks work with.
type cluster struct {
	server *server
	client *kubernetes.Clientset
	chart  *v2.Chart
}

func newCluster(s *server) (*cluster, error) {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: s.url, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 1000, Burst: 1000})
	if err != nil {
		return nil, err
	}
	chart, err := loader.Load(chartDir)
	return &cluster{s, client, chart}, err
}

// check is one check against the server.
type check struct {
	name string
	run  func(context.Context, *cluster) error
}

func checks() []check {
	all := []check{
		{"a pod without restrictions is refused", refusesPods},
		{"a Service of port 99999 is refused", refusesPorts},
		{"the sidecar's pod is taken", takesSidecar},
	}
	files, _ := filepath.Glob(chartDir + "/examples/*.yaml")
	more, _ := filepath.Glob("../testdata/*.yaml")
	for _, file := range append(files, more...) {
		for _, serverSide := range []bool{true, false} {
			all = append(all, check{
				fmt.Sprintf("%s is installed and upgraded, applied by the %s", filepath.Base(file), side(serverSide)),
				func(ctx context.Context, c *cluster) error { return c.installs(ctx, file, serverSide) },
			})
		}
	}
	for _, serverSide := range []bool{true, false} {
		all = append(all, check{
			"UDP joins TCP on a Service's port and leaves it again, applied by the " + side(serverSide),
			func(ctx context.Context, c *cluster) error { return c.movesUDP(ctx, serverSide) },
		})
	}
	return all
}

// side says who computes the changes. Helm 4 leaves that to the server; Helm 3, and releases made
// by it, compute them.
func side(serverSide bool) string {
	if serverSide {
		return "server"
	}
	return "client"
}

// namespace creates a namespace that enforces the restricted level.
func (c *cluster) namespace(ctx context.Context) (string, error) {
	n, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "chart-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return n.Name, nil
}

func refusesPods(ctx context.Context, c *cluster) error {
	ns, err := c.namespace(ctx)
	if err != nil {
		return err
	}
	pod := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "any", Image: "any"}}}}
	if err := c.createPod(ctx, ns, pod); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		return fmt.Errorf("the server says: %v", err)
	}
	return nil
}

func refusesPorts(ctx context.Context, c *cluster) error {
	ns, err := c.namespace(ctx)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "any"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 99999}}},
	}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "99999") {
		return fmt.Errorf("the server says: %v", err)
	}
	return nil
}

func takesSidecar(ctx context.Context, c *cluster) error {
	ns, err := c.namespace(ctx)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(chartDir + "/examples/sidecar/deployment.yaml")
	if err != nil {
		return err
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(content, nil, nil)
	if err != nil {
		return err
	}
	d, err := c.client.AppsV1().Deployments(ns).Create(ctx, object.(*appsv1.Deployment), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return err
	}
	return c.createPod(ctx, ns, d.Spec.Template)
}

// createPod creates a pod as the controllers would, which do not run here.
func (c *cluster) createPod(ctx context.Context, ns string, template corev1.PodTemplateSpec) error {
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.GenerateName = "pod-"
	_, err := c.client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// installs installs the chart with the values of a file, upgrades it twice, and checks the objects.
func (c *cluster) installs(ctx context.Context, file string, serverSide bool) error {
	values, err := readValues(file)
	if err != nil {
		return err
	}
	ns, err := c.namespace(ctx)
	if err != nil {
		return err
	}
	if err := c.install(ctx, ns, values, serverSide); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	before, err := c.state(ctx, ns)
	if err != nil {
		return err
	}
	for range 2 {
		if err := c.upgrade(ctx, ns, values, serverSide); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
	}
	after, err := c.state(ctx, ns)
	if err != nil {
		return err
	}
	if !maps.Equal(before, after) {
		return fmt.Errorf("an upgrade that changes nothing changed\n%v into\n%v", before, after)
	}
	deployments, err := c.client.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(deployments.Items) == 0 {
		return errors.New("no deployment is there")
	}
	for _, d := range deployments.Items {
		d.Spec.Template.Spec.PriorityClassName = "" // only the system's exist
		if err := c.createPod(ctx, ns, d.Spec.Template); err != nil {
			return fmt.Errorf("pod of %s: %w", d.Name, err)
		}
	}
	return nil
}

func readValues(file string) (map[string]any, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if err := yaml.Unmarshal(content, &values); err != nil {
		return nil, err
	}
	// This server knows neither the Prometheus operator's kinds nor the Gateway API's.
	off := map[string]any{"enabled": false}
	values["prometheusRule"] = off
	for _, end := range []string{"agent", "gateway"} {
		if v, ok := values[end].(map[string]any); ok {
			v["podMonitor"] = off
		}
	}
	if gateway, ok := values["gateway"].(map[string]any); ok {
		gateway["httpRoute"] = off
	}
	return values, nil
}

// state returns what must not change by itself in each deployment, service and secret: generations,
// ports, and the secrets' content.
func (c *cluster) state(ctx context.Context, ns string) (map[string]string, error) {
	state := map[string]string{}
	deployments, err := c.client.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, d := range deployments.Items {
		state["deployment "+d.Name] = fmt.Sprint("generation ", d.Generation)
	}
	services, err := c.client.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, s := range services.Items {
		state["service "+s.Name] = ports(s)
	}
	secrets, err := c.client.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, s := range secrets.Items {
		if s.Type == corev1.SecretTypeOpaque {
			state["secret "+s.Name] = fmt.Sprint(s.Data)
		}
	}
	return state, nil
}

func ports(s corev1.Service) string {
	var list []string
	for _, p := range s.Spec.Ports {
		list = append(list, fmt.Sprintf("%s %d to %s", p.Protocol, p.Port, p.TargetPort.String()))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// movesUDP upgrades from no UDP to TCP and UDP on one port, and back. Where the client computes the
// changes, the chart refuses until the user has done what its message says.
func (c *cluster) movesUDP(ctx context.Context, serverSide bool) error {
	ns, err := c.namespace(ctx)
	if err != nil {
		return err
	}
	values := func(udp, annotation string) map[string]any {
		return map[string]any{"gateway": map[string]any{
			"enabled": true,
			"brokers": map[string]any{"bootstrap": []any{"kafka:9092"}},
			"tokens":  map[string]any{"existingSecret": "tokens"},
			"tls":     map[string]any{"existingSecret": "tls"},
			"service": map[string]any{"udp": udp, "annotations": map[string]any{"a": annotation}},
		}}
	}
	if err := c.install(ctx, ns, values("none", "1"), serverSide); err != nil {
		return err
	}
	for i, step := range []struct {
		udp, annotation, want string
		moves                 bool
	}{
		{"same", "1", "TCP 443 to https, UDP 443 to http3", true},
		{"same", "2", "TCP 443 to https, UDP 443 to http3", false},
		{"none", "2", "TCP 443 to https", true},
		{"same", "3", "TCP 443 to https, UDP 443 to http3", true},
	} {
		err := c.upgrade(ctx, ns, values(step.udp, step.annotation), serverSide)
		if step.moves && !serverSide {
			if err = c.followRefusal(ctx, ns, err); err == nil {
				err = c.upgrade(ctx, ns, values(step.udp, step.annotation), serverSide)
			}
		}
		if err != nil {
			return fmt.Errorf("upgrade %d, to udp: %s: %w", i+1, step.udp, err)
		}
		s, err := c.client.CoreV1().Services(ns).Get(ctx, gatewayService, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := ports(*s); got != step.want || s.Annotations["a"] != step.annotation {
			return fmt.Errorf("after upgrade %d, to udp: %s, the Service has %s and annotation %s, want %s and %s",
				i+1, step.udp, got, s.Annotations["a"], step.want, step.annotation)
		}
	}
	return nil
}

const gatewayService = "culvert-gateway"

// followRefusal changes the Service as the chart's message says.
func (c *cluster) followRefusal(ctx context.Context, ns string, refusal error) error {
	if refusal == nil {
		return errors.New("the chart let it pass")
	}
	services := c.client.CoreV1().Services(ns)
	if strings.Contains(refusal.Error(), "delete service") {
		return services.Delete(ctx, gatewayService, metav1.DeleteOptions{})
	}
	_, patch, ok := strings.Cut(refusal.Error(), "--type=json -p '")
	patch, _, _ = strings.Cut(patch, "'")
	if !ok {
		return refusal
	}
	_, err := services.Patch(ctx, gatewayService, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

func (c *cluster) configuration(ns string) (*action.Configuration, error) {
	settings := cli.New()
	settings.KubeConfig = os.DevNull
	settings.KubeAPIServer, settings.KubeToken, settings.KubeInsecureSkipTLSVerify = c.server.url, token, true
	settings.SetNamespace(ns)
	kube.ManagedFieldsManager = "helm" // as the command does
	configuration := action.NewConfiguration()
	return configuration, configuration.Init(settings.RESTClientGetter(), ns, "secret")
}

func (c *cluster) install(ctx context.Context, ns string, values map[string]any, serverSide bool) error {
	configuration, err := c.configuration(ns)
	if err != nil {
		return err
	}
	install := action.NewInstall(configuration)
	install.ReleaseName, install.Namespace, install.ServerSideApply = "culvert", ns, serverSide
	install.WaitStrategy, install.Timeout = kube.HookOnlyStrategy, time.Minute
	_, err = install.RunWithContext(ctx, c.chart, values)
	return err
}

func (c *cluster) upgrade(ctx context.Context, ns string, values map[string]any, serverSide bool) error {
	configuration, err := c.configuration(ns)
	if err != nil {
		return err
	}
	upgrade := action.NewUpgrade(configuration)
	upgrade.Namespace, upgrade.ServerSideApply = ns, fmt.Sprint(serverSide)
	upgrade.WaitStrategy, upgrade.Timeout = kube.HookOnlyStrategy, time.Minute
	_, err = upgrade.RunWithContext(ctx, "culvert", c.chart, values)
	return err
}
