package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// TestEachOutageHasALineAtEachEnd starts both ends with nothing behind them, lets gateway and
// brokers appear, takes the brokers away and then the gateway, and gives each back. Each end says
// what happened once, and nothing else.
func TestEachOutageHasALineAtEachEnd(t *testing.T) {
	t.Parallel()
	needReal(t)
	o := newOutage(t)
	o.agent = o.start(t, "agent", "--gateway-url", "https://"+o.door, "--gateway-ca-file", o.file("ca.pem"), "--transport", "ws", "--listen", o.bootstrap,
		"--broker-port-base", strconv.Itoa(o.base), "--admin-listen", o.agentAdmin, "--state-file", "none")
	o.says(t, "agent", `WARN msg="gateway not reached" gateway=\S+ .*connection refused`, `culvert agent listening: bootstrap \S+, brokers from port \d+, gateway https://\S+, admin http://\S+`)
	o.ready(t, o.agentAdmin, 503, "no stream to a broker: dial gateway ")

	o.gateway = o.startGateway(t)
	o.says(t, "gateway", `culvert gateway listening on \S+ \(h3, ws, h2\), bootstrap \S+, admin http://\S+`, `WARN msg="no bootstrap broker answers" .*err="dial broker at .*connection refused"`)
	o.says(t, "agent", `INFO msg="gateway reached" gateway=\S+ transport=ws after=\S+s`, `WARN msg="the gateway answers, the brokers do not" .*err=.*connection refused`)
	o.ready(t, o.agentAdmin, 503, "the gateway answers, the brokers do not: ")
	o.ready(t, o.gatewayAdmin, 503, "no bootstrap broker answers: ")

	o.startBroker(t)
	o.says(t, "gateway", `culvert gateway ready: the broker at \S+ answered in \S+s`)
	o.says(t, "agent", fmt.Sprintf(`culvert agent ready: cluster outages, broker 0 at 127\.0\.0\.1:%d, over ws, round trip \S+s`, o.base))
	o.ready(t, o.agentAdmin, 200, "ready")
	o.ready(t, o.gatewayAdmin, 200, "ready")

	// The brokers are lost, and come back. Three clients notice.
	o.broker.Close()
	for range 3 {
		if err := o.ask(t); err == nil {
			t.Error("a client has an answer without brokers")
		}
	}
	o.says(t, "gateway", `WARN msg="no bootstrap broker answers" .*err=.*connection refused`)
	o.says(t, "agent", `WARN msg="the gateway answers, the brokers do not" .*err=.*connection refused`)
	o.ready(t, o.agentAdmin, 503, "the gateway answers, the brokers do not: ")
	o.ready(t, o.gatewayAdmin, 200, "ready, but no bootstrap broker answers: ")
	o.startBroker(t)
	o.says(t, "gateway", `INFO msg="brokers answer again" after=\S+s`)
	o.says(t, "agent", `INFO msg="brokers answer again" after=\S+s clients_reset=3`)
	o.ready(t, o.agentAdmin, 200, "ready")
	if err := o.ask(t); err != nil {
		t.Error(err)
	}

	// The gateway is lost, and comes back.
	stop(t, o.gateway)
	o.says(t, "gateway", `INFO msg=stopped why="[^"]+" after=\S+s connections_ended=\d connections_cut=0`)
	o.says(t, "agent", `WARN msg="gateway not reached" gateway=\S+ .*connection refused`)
	o.ready(t, o.agentAdmin, 503, "no stream to a broker: dial gateway ")
	o.gateway = o.startGateway(t)
	o.says(t, "gateway", `culvert gateway listening`, `culvert gateway ready`)
	o.says(t, "agent", `INFO msg="gateway reached" gateway=\S+ transport=ws after=\S+s`, `INFO msg="brokers answer again" after=\S+s clients_reset=0`)
	o.ready(t, o.agentAdmin, 200, "ready")
	if err := o.ask(t); err != nil {
		t.Error(err)
	}
	stop(t, o.agent)
	o.says(t, "agent", `INFO msg=stopped why="[^"]+" after=\S+s connections_ended=\d connections_cut=0`)
	stop(t, o.gateway)
	o.says(t, "gateway", `INFO msg=stopped why="[^"]+" after=\S+s connections_ended=\d connections_cut=0`)
}

// outage is an agent, a gateway and a broker, each of which can be away.
type outage struct {
	binary, dir           string
	door, gatewayAdmin    string
	bootstrap, agentAdmin string
	base, brokerPort      int
	agent, gateway        *proc.Process
	broker                *kfake.Cluster
	output                map[string]*proc.Process // the process of each end whose lines are read
	read                  map[string]int           // how many of its lines have been read
	transcript            strings.Builder
}

func (o *outage) file(name string) string { return filepath.Join(o.dir, name) }

func newOutage(t *testing.T) *outage {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := kafka.FreePorts(4)
	if err != nil {
		t.Fatal(err)
	}
	o := &outage{binary: binary, brokerPort: ports[3], read: map[string]int{}, output: map[string]*proc.Process{}}
	o.door, o.gatewayAdmin, o.agentAdmin = address(clientHost, ports[0]), address(clientHost, ports[1]), address(clientHost, ports[2])
	port, err := freeBase([]int{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	o.bootstrap, o.base = address(clientHost, port), port+1
	o.dir = t.TempDir()
	if err := writeCredentials(o.dir); err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(o.dir, map[string][]byte{"ticket-key": []byte(strings.Repeat("k", 32))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if o.broker != nil {
			o.broker.Close()
		}
		t.Logf("what both ends said:\n%s", &o.transcript)
	})
	return o
}

// start starts an end, whose lines says then reads from the first one on.
func (o *outage) start(t *testing.T, args ...string) *proc.Process {
	t.Helper()
	p, err := startCulvert(t.Context(), exec.Command(o.binary, append(args, "--token-file", o.file("token"), "--log-format", "text")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	o.output[args[0]], o.read[args[0]] = p, 0
	return p
}

func (o *outage) startGateway(t *testing.T) *proc.Process {
	t.Helper()
	return o.start(t, "gateway", "--listen", o.door, "--bootstrap", address(clientHost, o.brokerPort), "--admin-listen", o.gatewayAdmin,
		"--tls-cert-file", o.file("gateway.pem"), "--tls-key-file", o.file("gateway-key.pem"), "--ticket-key-file", o.file("ticket-key"))
}

func (o *outage) startBroker(t *testing.T) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if o.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(o.brokerPort), kfake.ClusterID("outages")); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// stop ends a process, which must exit with 0.
func stop(t *testing.T, p *proc.Process) {
	t.Helper()
	if err := stopCulvert(p); err != nil {
		t.Error(err)
	}
}

// says waits for the next lines of an end, each of which must match its pattern.
func (o *outage) says(t *testing.T, end string, patterns ...string) {
	t.Helper()
	p := o.output[end]
	for _, pattern := range patterns {
		lines := o.lines(p)
		for deadline := time.Now().Add(30 * time.Second); len(lines) <= o.read[end]; lines = o.lines(p) {
			if time.Now().After(deadline) {
				t.Fatalf("the %s says nothing that matches %s; so far\n%s", end, pattern, &o.transcript)
			}
			time.Sleep(20 * time.Millisecond)
		}
		line := lines[o.read[end]]
		o.read[end]++
		fmt.Fprintf(&o.transcript, "%-7s  %s\n", end, line)
		if !regexp.MustCompile(pattern).MatchString(line) {
			t.Fatalf("the %s says\n%s\nwant %s", end, line, pattern)
		}
	}
}

// lines are the whole lines that a process has printed.
func (o *outage) lines(p *proc.Process) []string {
	lines := strings.Split(p.Output().String(), "\n")
	return lines[:len(lines)-1]
}

// ready waits until /readyz of an end answers with this code and a text that begins with begins.
func (o *outage) ready(t *testing.T, admin string, code int, begins string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			got = err.Error()
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		got = fmt.Sprintf("%d %s", response.StatusCode, body)
		if response.StatusCode == code && strings.HasPrefix(string(body), begins) {
			fmt.Fprintf(&o.transcript, "%-7s  %s\n", "/readyz", strings.TrimSpace(got))
			return
		}
	}
	t.Fatalf("/readyz of %s says %s, want %d %s", admin, got, code, begins)
}

// ask asks a broker through the agent, on a connection of its own.
func (o *outage) ask(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", o.bootstrap)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(15 * time.Second))
	c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1))
	_, err = io.ReadFull(c, make([]byte, 8))
	return err
}
