package chart

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	corev1 "k8s.io/api/core/v1"
)

// podIP is the pod's address. It is on loopback, but differs from the one that clients of kubectl
// port-forward use. Only Linux has it without configuration.
const podIP = "127.0.0.2"

// The test starts the chart's containers as a kubelet would, with its Secrets as files and its
// command lines except for fixed ports: a gateway beside brokers, and an agent. Both must become
// ready, tell each client the addresses that it can reach, and stop gracefully.
func TestPodsServeClients(t *testing.T) {
	culvert, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	kafka, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	cert, key := certificate(t)
	base := freePorts(t, 8) // gateway, its admin, agent's admin, bootstrap, four nodes
	rendered := objects(t, parseValues(t, fmt.Sprintf(`
gateway:
  enabled: true
  brokers: {bootstrap: [%s]}
  tokens: {values: {agent: 0123456789abcdef0123456789abcdef}}
  tls: {existingSecret: gateway-tls}
agent:
  enabled: true
  gatewayUrls: ["https://127.0.0.1:%d"]
  expectNodes: 0-2
  port: %d
  brokerPortBase: %d
  token: {value: 0123456789abcdef0123456789abcdef}
  gatewayTLS: {ca: {existingSecret: gateway-ca}}
`, strings.Join(kafka.ListenAddrs(), ", "), base, base+3, base+4)))
	secrets := map[string]map[string]string{"gateway-tls": {"tls.crt": cert, "tls.key": key}, "gateway-ca": {"ca.crt": cert}}
	for _, s := range all[*corev1.Secret](rendered) {
		content := map[string]string{}
		for k, v := range s.Data {
			content[k] = string(v)
		}
		for k, v := range s.StringData {
			content[k] = v
		}
		secrets[s.Name] = content
	}
	start := func(name string, adminPort int, fixed ...string) {
		spec := pods(rendered)[name]
		dir := mount(t, spec.Volumes, secrets)
		env := environment(t, spec.Containers[0].Env, podIP)
		var args []string
		for _, a := range spec.Containers[0].Args {
			args = append(args, strings.NewReplacer(append(fixed, "/etc/culvert", dir)...).Replace(expand(t, a, env)))
		}
		run(t, culvert, args, env)
		awaitReady(t, adminPort)
	}
	start("culvert-gateway", base+1, ":8443", fmt.Sprintf("127.0.0.1:%d", base), ":9465", fmt.Sprintf(":%d", base+1))
	start("culvert-agent", base+2, ":9464", fmt.Sprintf(":%d", base+2))
	for bootstrap, told := range map[string]string{podIP: "culvert-agent.orders.svc", "127.0.0.1": "127.0.0.1"} {
		for node, address := range brokers(t, net.JoinHostPort(bootstrap, strconv.Itoa(base+3))) {
			if want := net.JoinHostPort(told, strconv.Itoa(base+4+int(node))); address != want {
				t.Errorf("a client of %s learns broker %d at %s, want %s", bootstrap, node, address, want)
			}
			c, err := net.Dial("tcp", net.JoinHostPort(bootstrap, strconv.Itoa(base+4+int(node))))
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
		}
	}
}

// brokers returns the addresses that a client learns.
func brokers(t *testing.T, bootstrap string) map[int32]string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	response, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client.SeedBrokers()[0])
	if err != nil || len(response.Brokers) != 3 {
		t.Fatalf("brokers at %s: %v, %v", bootstrap, response, err)
	}
	addresses := map[int32]string{}
	for _, b := range response.Brokers {
		addresses[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	return addresses
}

// mount writes the files of a pod's volumes and returns their root folder.
func mount(t *testing.T, volumes []corev1.Volume, secrets map[string]map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, v := range volumes {
		if err := os.Mkdir(filepath.Join(dir, v.Name), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, item := range v.Secret.Items {
			content, ok := secrets[v.Secret.SecretName][item.Key]
			if !ok {
				t.Fatalf("no key %s in secret %s", item.Key, v.Secret.SecretName)
			}
			if err := os.WriteFile(filepath.Join(dir, v.Name, item.Path), []byte(content), 0o440); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// lockedBuffer is written by a process and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run starts the binary and stops it before the test ends. It must exit with 0.
func run(t *testing.T, culvert string, args []string, env map[string]string) {
	t.Helper()
	var log lockedBuffer
	cmd := exec.Command(culvert, args...)
	cmd.Env = []string{"HOME=/"}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // even if the test is killed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(args, " "), log.String())
		}
	})
}

// awaitReady waits for /readyz as a kubelet does.
func awaitReady(t *testing.T, port int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/readyz", podIP, port), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("port %d: not ready within a minute", port)
		}
	}
}

// freePorts returns the first of n consecutive ports that are free on all addresses of this
// machine, below those that the system uses for outgoing connections.
func freePorts(t *testing.T, n int) int {
	t.Helper()
search:
	for range 100 {
		base := 10000 + mathrand.IntN(20000)
		for port := base; port < base+n; port++ {
			ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				continue search
			}
			ln.Close()
		}
		return base
	}
	t.Fatalf("no %d consecutive free ports", n)
	return 0
}

// certificate returns a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", encoded)
}
