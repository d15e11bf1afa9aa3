package chart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	kubelet "k8s.io/cri-streaming/pkg/streaming/portforward"
	kubectlrun "k8s.io/kubectl/pkg/cmd/run"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// laptop is the section of docs/kubernetes.md that needs kubectl alone.
const laptop = "## All brokers from a laptop, with kubectl alone\n"

// laptopCommands returns the commands of that section that begin with words.
func laptopCommands(t *testing.T, begins string) [][]string {
	t.Helper()
	_, section, found := strings.Cut(readDocument(t, "../../docs/kubernetes.md"), laptop)
	if section, _, _ = strings.Cut(section, "\n## "); !found {
		t.Fatalf("docs/kubernetes.md has no section %q", laptop)
	}
	return printedCommands(t, section, begins)
}

// runByKubectl returns the pod that a kubectl run command makes, by kubectl's own code.
func runByKubectl(t *testing.T, args []string) *corev1.Pod {
	t.Helper()
	streams, _, out, errs := genericiooptions.NewTestIOStreams()
	cmdutil.BehaviorOnFatal(func(message string, _ int) { t.Fatalf("kubectl %q: %s", args, message) })
	defer cmdutil.DefaultBehaviorOnFatal()
	// It asks no server which kinds there are.
	config := genericclioptions.NewTestConfigFlags().
		WithRESTMapper(testrestmapper.TestOnlyStaticRESTMapper(scheme.Scheme)).
		WithClientConfig(clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{
			ClusterInfo: clientcmdapi.Cluster{Server: "http://127.0.0.1:1"}, Context: clientcmdapi.Context{Namespace: "kafka"},
		}))
	command := kubectlrun.NewCmdRun(cmdutil.NewFactory(config), streams)
	command.SetArgs(append([]string{"--dry-run=client", "--output=yaml"}, args...))
	if err := command.Execute(); err != nil {
		t.Fatalf("kubectl run %q: %v\n%s", args, err, errs)
	}
	made := all[*corev1.Pod](decode(t, "kubectl run", out.String()))
	if len(made) != 1 {
		t.Fatalf("kubectl run %q made\n%s", args, out)
	}
	return made[0]
}

// The pods of the section's kubectl run commands. The second is for namespaces that are restricted.
func laptopPods(t *testing.T) []*corev1.Pod {
	t.Helper()
	var pods []*corev1.Pod
	for _, command := range laptopCommands(t, "kubectl -n kafka run ") {
		pods = append(pods, runByKubectl(t, command[4:]))
	}
	return pods
}

func TestKubectlRunMakesAGateway(t *testing.T) {
	culvert, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	made := laptopPods(t)
	for _, pod := range made {
		c := pod.Spec.Containers[0]
		if c.Name != "culvert-gateway" || !strings.HasPrefix(c.Image, "ghcr.io/culvert-proxy/culvert:") || len(c.Command) != 0 {
			t.Errorf("container %s, image %s, command %q: want the image's own command", c.Name, c.Image, c.Command)
		}
		takes(t, culvert, pod.Name, c, "10.1.2.3")
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := made[len(made)-1]
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	if result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &last.ObjectMeta, &last.Spec)); len(made) != 2 || !result.Allowed {
		t.Errorf("%d pods, the last is refused: %s: %s", len(made), result.ForbiddenReason(), result.ForbiddenDetail())
	}
}

// podNetwork is what the kubelet sees of a pod: the ports of its loopback address, here those of
// this machine.
type podNetwork map[int32]string

// PortForward copies as container runtimes do.
func (p podNetwork) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	address, ok := p[port]
	if !ok {
		return fmt.Errorf("nothing listens on port %d of the pod", port)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	in, out := make(chan error, 1), make(chan error, 1)
	go copyTo(conn, stream, in)
	go copyTo(stream, conn, out)
	select {
	case err := <-out:
		return err
	case err := <-in:
		if err != nil {
			return err
		}
		conn.(*net.TCPConn).CloseWrite()
		return <-out
	}
}

func copyTo(to io.Writer, from io.Reader, done chan<- error) {
	_, err := io.Copy(to, from)
	done <- err
}

// forwardPort does what kubectl port-forward does, by its own code, and what API server and kubelet
// do, by the kubelet's. It returns the local address.
func forwardPort(t *testing.T, network podNetwork, port int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kubelet.ServePortForward(w, r, network, "culvert-gateway", "", nil, time.Hour, time.Minute, []string{kubelet.ProtocolV1Name})
	}))
	t.Cleanup(server.Close)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(server.URL + "/api/v1/namespaces/kafka/pods/culvert-gateway/portforward")
	if err != nil {
		t.Fatal(err)
	}
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var said lockedBuffer
	forwarder, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, at),
		[]string{"0:" + strconv.Itoa(port)}, stop, ready, &said, &said)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- forwarder.ForwardPorts() }()
	t.Cleanup(func() {
		close(stop)
		if err := <-done; err != nil {
			t.Errorf("kubectl port-forward: %v\n%s", err, said.String())
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("kubectl port-forward: %v", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// TestALaptopReachesAllBrokersThroughPortForward follows the section: the gateway that kubectl run
// starts, one kubectl port-forward, and the agent, over each transport that a TCP connection carries.
// All brokers take records and give them back.
func TestALaptopReachesAllBrokersThroughPortForward(t *testing.T) {
	culvert, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	kafka, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(6, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	base := freePorts(t, 2)
	gateway := slices.Clone(laptopPods(t)[0].Spec.Containers[0].Args)
	given := slices.IndexFunc(gateway, func(a string) bool { return strings.HasPrefix(a, "kafka-0") })
	if given < 0 || !slices.Contains(gateway, "127.0.0.1:8443") {
		t.Fatalf("the gateway's arguments are %q", gateway)
	}
	gateway[given] = strings.Join(kafka.ListenAddrs(), ",")
	gateway[slices.Index(gateway, "127.0.0.1:8443")] = fmt.Sprintf("127.0.0.1:%d", base)
	run(t, culvert, append(gateway, fmt.Sprintf("--admin-listen=%s:%d", podIP, base+1)), nil)
	awaitReady(t, base+1)

	forward := laptopCommands(t, "kubectl -n kafka port-forward ")[0]
	port, err := strconv.Atoi(forward[len(forward)-1])
	if err != nil {
		t.Fatalf("%q: %v", forward, err)
	}
	local := forwardPort(t, podNetwork{8443: fmt.Sprintf("127.0.0.1:%d", base)}, port)
	agent := laptopCommands(t, "culvert agent ")[0][1:]
	for _, more := range [][]string{nil, {"--transport=ws"}, {"--transport=h2"}} {
		t.Run(strings.Join(more, ""), func(t *testing.T) {
			base := freePorts(t, 6)
			args := slices.Clone(agent)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "127.0.0.1:8443", local)
			}
			args = append(args, fmt.Sprintf("--listen=127.0.0.1:%d", base), fmt.Sprintf("--broker-port-base=%d", base+2),
				fmt.Sprintf("--admin-listen=%s:%d", podIP, base+1), "--state-file=none")
			run(t, culvert, append(args, more...), nil)
			awaitReady(t, base+1)
			exchange(t, fmt.Sprintf("127.0.0.1:%d", base))
		})
	}
}

// exchange sends a record to each partition of the topic orders, so to each broker, and reads them.
func exchange(t *testing.T, bootstrap string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics("orders"), kgo.DefaultProduceTopic("orders"),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const partitions = 6
	want := map[int32]string{}
	for p := range int32(partitions) {
		want[p] = fmt.Sprintf("%s to partition %d", t.Name(), p)
		if err := client.ProduceSync(ctx, &kgo.Record{Partition: p, Value: []byte(want[p])}).FirstErr(); err != nil {
			t.Fatalf("produce to partition %d: %v", p, err)
		}
	}
	got := map[int32]string{}
	for len(got) < partitions {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("consume: %v, after %v", err, got)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if strings.HasPrefix(string(r.Value), t.Name()+" ") { // and not of another transport
				got[r.Partition] = string(r.Value)
			}
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-sent +received):\n%s", diff)
	}
}

// TestPortForwardOutlivesResets: kubectl port-forward ends when a connection that it forwards is reset
// by the pod. So a broker that resets connections, which clients must be told, must not reset those
// of the tunnel.
func TestPortForwardOutlivesResets(t *testing.T) {
	culvert, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	broker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	go resetAll(broker)
	base := freePorts(t, 12)
	run(t, culvert, []string{"gateway", fmt.Sprintf("--listen=127.0.0.1:%d", base), "--insecure-no-auth", "--bootstrap=" + broker.Addr().String(), "--admin-listen=none"}, nil)
	gateway := fmt.Sprintf("127.0.0.1:%d", base)
	awaitListener(t, gateway)
	local := forwardPort(t, podNetwork{8443: gateway}, 8443)
	for i, transport := range []string{"ws", "h2"} {
		bootstrap := fmt.Sprintf("127.0.0.1:%d", base+1+i)
		run(t, culvert, []string{"agent", "--gateway-url=http://" + local, "--transport=" + transport, "--listen=" + bootstrap, "--admin-listen=none",
			"--state-file=none", fmt.Sprintf("--broker-port-base=%d", base+4)}, nil)
		awaitListener(t, bootstrap)
		for range 5 {
			client, err := net.Dial("tcp", bootstrap)
			if err != nil {
				t.Fatal(err)
			}
			client.Write([]byte("\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff")) // ApiVersions v0
			client.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("over %s a client reads %v, want a reset", transport, err)
			}
			client.Close()
		}
	}
	// forwardPort reports it if port-forward has ended.
}

// resetAll resets each connection after its first bytes.
func resetAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Read(make([]byte, 64))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// awaitListener waits until something listens at an address.
func awaitListener(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}
