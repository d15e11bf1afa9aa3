package test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
	"github.com/culvert-proxy/culvert/test/spcs"
)

const (
	spcsToken    = "a-token-of-thirty-two-characters"
	spcsPassword = "secret-of-the-brokers"
	spcsApp      = "secret-of-the-app"
	// spcsGrace is how long Snowflake waits after SIGTERM.
	spcsGrace = 30 * time.Second
)

// platform runs the services of charts/spcs as Snowflake would. Each instance has its own machine
// (a network namespace), with the variables, arguments, secrets and ports of its specification.
// Service names resolve only on these machines.
type platform struct {
	network *netns.Network
	dir     string
	values  map[string]string // those of the chart that are not the default
	names   map[string]string // addresses by the names that resolve on the machines
	secrets map[string]string
}

// instance is one running container.
type instance struct {
	at      *netns.Namespace
	ip      string
	process *proc.Process
}

func newPlatform(t *testing.T, values map[string]string) *platform {
	t.Helper()
	needReal(t)
	return &platform{values: values, network: netns.Start(t, netns.Link{}), dir: t.TempDir(), names: make(map[string]string), secrets: make(map[string]string)}
}

func (p *platform) hosts() string { return filepath.Join(p.dir, "hosts") }

// fourthBroker has the values that snowflake.yml names for a node that is a broker only.
var fourthBroker = map[string]string{"kafka_roles": "broker", "kafka_listeners": "INTERNAL://:9092"}

// chart returns the chart with values for a broker and for everything without a default.
func (p *platform) chart(t *testing.T, node int) *spcs.Chart {
	t.Helper()
	values := map[string]string{
		"node": strconv.Itoa(node), "gateway_token": spcsToken, "ticket_key": "a-key-that-signs-tickets-of-brokers",
		"broker_password": spcsPassword, "app_password": spcsApp, "public_key": "",
	}
	maps.Copy(values, p.values)
	if node > 3 {
		maps.Copy(values, fourthBroker)
	}
	c, err := spcs.Open("../charts/spcs", values)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// learnSecrets keeps the secrets that a file creates.
func (p *platform) learnSecrets(t *testing.T, file string) {
	t.Helper()
	statements, err := p.chart(t, 1).Statements(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if name, ok := strings.CutPrefix(s.SQL, "CREATE SECRET IF NOT EXISTS "); ok {
			name, _, _ = strings.Cut(name, " ")
			_, value, _ := strings.Cut(s.SQL, "SECRET_STRING = '")
			p.secrets[name] = strings.TrimSuffix(value, "'")
		}
	}
}

// count returns a value that is a number.
func (p *platform) count(t *testing.T, name string) int {
	t.Helper()
	n, err := strconv.Atoi(p.chart(t, 1).Value(name))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// container returns the only container of the service that a file creates.
func (p *platform) container(t *testing.T, file string, node int) spcs.Container {
	t.Helper()
	statements, err := p.chart(t, node).Statements(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if s.Spec != "" {
			spec, err := spcs.Decode(s.Spec)
			if err != nil {
				t.Fatal(err)
			}
			return spec.Spec.Containers[0]
		}
	}
	t.Fatalf("%s has no specification", file)
	return spcs.Container{}
}

// machine adds a machine, and the name of the service that runs on it.
func (p *platform) machine(t *testing.T, service string) instance {
	t.Helper()
	at, ip, err := p.network.AddServer()
	if err != nil {
		t.Fatal(err)
	}
	p.names[service] = ip
	return instance{at: at, ip: ip}
}

// environment returns the variables of a container, whose folders are below dir.
func (p *platform) environment(t *testing.T, c spcs.Container, dir string) []string {
	t.Helper()
	env := maps.Clone(c.Env)
	for _, s := range c.Secrets {
		name := s.SnowflakeSecret[strings.LastIndex(s.SnowflakeSecret, ".")+1:]
		value, ok := p.secrets[name]
		if !ok {
			t.Fatalf("no secret %s", name)
		}
		if s.EnvVarName != "" {
			env[s.EnvVarName] = value
			continue
		}
		files := filepath.Join(dir, s.DirectoryPath)
		if err := os.MkdirAll(files, 0o755); err != nil {
			t.Fatal(err)
		}
		// As Snowflake documents it for a generic string secret.
		if err := os.WriteFile(filepath.Join(files, "secret_string"), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		if strings.HasPrefix(value, "/") {
			value = filepath.Join(dir, value)
		}
		list = append(list, name+"="+value)
	}
	return list
}

// startKafka starts as many brokers as the values say, from the file that creates each.
func (p *platform) startKafka(t *testing.T, file string) []instance {
	t.Helper()
	var nodes []int
	for node := range p.count(t, "kafka_nodes") {
		nodes = append(nodes, node+1)
	}
	return p.startBrokers(t, file, nodes...)
}

// startBrokers starts brokers. The program of Apache Kafka's image turns variables into settings.
func (p *platform) startBrokers(t *testing.T, file string, nodes ...int) (brokers []instance) {
	t.Helper()
	for _, node := range nodes {
		brokers = append(brokers, p.machine(t, fmt.Sprintf("kafka-%d", node)))
	}
	if err := hostsfile.Write(p.hosts(), p.names); err != nil {
		t.Fatal(err)
	}
	for i, node := range nodes {
		c, dir := p.container(t, file, node), filepath.Join(p.dir, fmt.Sprintf("kafka-%d", node))
		env := p.environment(t, c, dir)
		var folders []string
		for _, name := range []string{"defaults", "mounted", "final"} {
			folders = append(folders, filepath.Join(dir, name))
			if err := os.MkdirAll(folders[len(folders)-1], 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p.java(t, instance{}, env, "kafka.docker.KafkaDockerWrapper", "setup", "-D", folders[0], "-M", folders[1], "-F", folders[2])
		brokers[i].process = p.java(t, brokers[i], env, "kafka.Kafka", filepath.Join(folders[2], "server.properties"))
	}
	return brokers
}

// java runs one of Kafka's classes to its end or, on a machine, in the background.
func (p *platform) java(t *testing.T, on instance, env []string, class string, args ...string) *proc.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, err := kafka.Command(ctx, []string{"-Xmx384m", "-Djdk.net.hosts.file=" + p.hosts()}, class, args...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = env
	if on.at == nil {
		if out, err := proc.Run(ctx, cmd); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return nil
	}
	return p.start(t, on, cmd)
}

// start runs a program on a machine until the test ends.
func (p *platform) start(t *testing.T, on instance, cmd *exec.Cmd) *proc.Process {
	t.Helper()
	process, err := proc.Start(on.at.Enter(cmd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Kill()
		if t.Failed() {
			out := process.Output().String()
			t.Logf("%s log:\n%s", cmd.Args[len(cmd.Args)-1], out[max(0, len(out)-3000):])
		}
	})
	return process
}

// startGateway starts the instances of the gateway.
func (p *platform) startGateway(t *testing.T) (gateways []instance) {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	c := p.container(t, "50-gateway.sql", 1)
	env := p.environment(t, c, filepath.Join(p.dir, "gateway")) // once: a gateway may be reading its files
	for range p.count(t, "gateway_nodes") {
		g := p.machine(t, "kafka-gateway")
		cmd := hostsfile.Command(p.hosts(), binary, c.Args...)
		cmd.Env = append(cmd.Env, env...)
		g.process = p.start(t, g, cmd)
		gateways = append(gateways, g)
	}
	for _, g := range gateways {
		await(t, 90*time.Second, "200 from /readyz of "+g.ip, func() bool { return g.ready(t, c.ReadinessProbe) })
	}
	return gateways
}

// ready runs the readiness probe, as Snowflake does.
func (i instance) ready(t *testing.T, probe *spcs.Probe) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := i.at.Dial(ctx, "tcp", address(i.ip, probe.Port))
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n", probe.Path)
	answer, _ := io.ReadAll(conn)
	return bytes.HasPrefix(answer, []byte("HTTP/1.1 200 "))
}

// spcsIngress stands in for Snowflake's ingress on this machine. It requires the token of a user
// whose role was granted the endpoint, and forwards to any instance that is ready.
type spcsIngress struct {
	url       string
	ca, token string // files: the CA of its certificate, and a programmatic access token
}

func (p *platform) startIngress(t *testing.T, gateways []instance) *spcsIngress {
	t.Helper()
	c := p.container(t, "50-gateway.sql", 1)
	role, user := strings.ToUpper(p.chart(t, 1).Value("client_role")), strings.ToUpper(p.chart(t, 1).Value("client_user"))
	service := &standin.Service{Hosts: []string{"127.0.0.1"}, Roles: []string{role}}
	for _, g := range gateways {
		service.Instances = append(service.Instances, standin.Instance{
			Address: forward(t, g, 8443), Ready: "http://" + forward(t, g, c.ReadinessProbe.Port) + c.ReadinessProbe.Path,
		})
	}
	account := &standin.Account{Host: "myorg-myaccount.snowflakecomputing.com"}
	account.SetUser(standin.User{Name: user, Roles: []string{role}})

	borrowed := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	borrowed.Close()
	in := &standin.Ingress{Account: account, Services: []*standin.Service{service}, Certificate: borrowed.TLS.Certificates[0]}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return in.Serve(ctx, ln) })
	d := &spcsIngress{url: "https://" + ln.Addr().String()}
	for _, f := range []struct {
		path    *string
		name    string
		content []byte
	}{
		{&d.ca, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: borrowed.Certificate().Raw})},
		{&d.token, "snowflake.pat", []byte(account.NewPAT(user, role, time.Hour))},
	} {
		*f.path = filepath.Join(p.dir, f.name)
		if err := os.WriteFile(*f.path, f.content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// background runs serve until the test ends.
func background(t *testing.T, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// forward listens on this machine and forwards to a port of an instance.
func forward(t *testing.T, to instance, port int) (at string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { ln.Close() })
		var all sync.WaitGroup
		defer all.Wait()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil
			}
			all.Go(func() { relay(ctx, conn, to, address(to.ip, port)) })
		}
	})
	return ln.Addr().String()
}

func relay(ctx context.Context, conn net.Conn, to instance, address string) {
	defer conn.Close()
	far, err := to.at.Dial(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); far.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(far, conn)
		_ = far.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(conn, far)
	conn.Close()
	<-done
}

// startAgent starts an agent on this machine, where no name of the platform resolves. It returns
// the agent's port; those of the brokers follow it.
func (p *platform) startAgent(t *testing.T, d *spcsIngress) (port int) {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	port, err = freeBase([]int{0, 2, 3, 4, 5})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(p.dir, "culvert.token")
	if err := os.WriteFile(token, []byte(spcsToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent, err := startCulvert(t.Context(), exec.Command(binary, "agent", "--gateway-url", d.url, "--gateway-ca-file", d.ca,
		"--token-file", token, "--snowflake-pat-file", d.token,
		"--listen", address("127.0.0.1", port), "--broker-port-base", strconv.Itoa(port+1), "--admin-listen", "none", "--state-file", "none", "--drain-timeout", "2s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopCulvert(agent); err != nil {
			t.Error(err)
		}
	})
	return port
}

// TestSpecificationsStart starts the specifications of the brokers and of the gateway. kcat must
// reach all brokers through the stand-in for the ingress, and a fourth one that is added later.
func TestSpecificationsStart(t *testing.T) {
	t.Parallel()
	for _, variant := range []struct {
		name, file string
		client     []string
		fourth     bool // with passwords there is more that it needs
	}{
		{"plaintext", "40-kafka-plaintext.sql", nil, false},
		{"SASL", "41-kafka-sasl.sql", saslClient("app", spcsApp, "PLAIN"), true},
	} {
		t.Run(variant.name, func(t *testing.T) {
			p := newPlatform(t, nil)
			p.learnSecrets(t, "30-secrets.sql")
			p.learnSecrets(t, "31-secrets-sasl.sql")
			brokers := p.startKafka(t, variant.file)
			gateways := p.startGateway(t)
			d := p.startIngress(t, gateways)
			port := p.startAgent(t, d)
			client := spcsClient{bootstrap: address("127.0.0.1", port), port: port + 1, flags: variant.client}
			client.findBrokers(t, 1, 2, 3)
			client.roundTrip(t, "first")
			if variant.client != nil {
				client.checkPasswords(t)
			}
			if variant.fourth {
				t.Run("a fourth broker", func(t *testing.T) {
					p.startBrokers(t, variant.file, 4)
					client.findBrokers(t, 1, 2, 3, 4)
					client.useBroker(t, 4)
				})
			}
			t.Run("a gateway that ends", func(t *testing.T) {
				if err := gateways[0].process.Terminate(spcsGrace); err != nil {
					t.Error(err)
				}
				client.roundTrip(t, "second")
			})
			t.Run("a broker that ends", func(t *testing.T) {
				begin := time.Now()
				_ = brokers[2].process.Terminate(spcsGrace + time.Minute) // the JVM's exit status is 143
				if took := time.Since(begin); took > spcsGrace {
					t.Errorf("the broker took %v to stop", took)
				}
				client.roundTrip(t, "third")
			})
		})
	}
}

// TestTryOutStarts starts what try-out.env makes of the same files: one broker and one gateway. A
// consumer group must work, whose topic would have three replicas by Kafka's default.
func TestTryOutStarts(t *testing.T) {
	t.Parallel()
	values, err := spcs.Others("../charts/spcs/try-out.env")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlatform(t, values)
	p.learnSecrets(t, "30-secrets.sql")
	brokers, gateways := p.startKafka(t, "40-kafka-plaintext.sql"), p.startGateway(t)
	if len(brokers) != 1 || len(gateways) != 1 {
		t.Errorf("%d brokers and %d gateways, want one of each", len(brokers), len(gateways))
	}
	port := p.startAgent(t, p.startIngress(t, gateways))
	client := spcsClient{bootstrap: address("127.0.0.1", port), port: port + 1}
	client.findBrokers(t, 1)
	client.roundTrip(t, "first")
	attempt := 0
	await(t, 3*time.Minute, "a group to read all", func() bool {
		attempt++ // another group each time: the member of one that was given up is not gone yet
		out, err := client.kcat(t, "", "-G", fmt.Sprintf("group-%d", attempt), "-c", "20", "-X", "auto.offset.reset=earliest", "-q", "first")
		return err == nil && strings.Count(out, "\n") == 20
	})
}

func saslClient(user, password, mechanism string) []string {
	return []string{"-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanisms=" + mechanism, "-X", "sasl.username=" + user, "-X", "sasl.password=" + password}
}

// spcsClient is kcat on this machine.
type spcsClient struct {
	bootstrap string
	port      int // of node 0
	flags     []string
}

func (c spcsClient) kcat(t *testing.T, stdin string, args ...string) (string, error) {
	return kcat(t, c.bootstrap, stdin, slices.Concat(args, c.flags)...)
}

// findBrokers waits until kcat lists the brokers and no others, each at the agent's address.
func (c spcsClient) findBrokers(t *testing.T, nodes ...int) {
	t.Helper()
	var list string
	await(t, 90*time.Second, fmt.Sprintf("brokers %v", nodes), func() bool {
		list, _ = c.kcat(t, "", "-L", "-m", "5")
		return strings.Contains(list, fmt.Sprintf(" %d brokers:", len(nodes)))
	})
	for _, node := range nodes {
		wantIn(t, list, fmt.Sprintf("broker %d at 127.0.0.1:%d", node, c.port+node))
	}
	if strings.Contains(list, "kafka-") {
		t.Errorf("an internal name has reached the client:\n%s", list)
	}
}

// useBroker makes a topic whose partitions are all at one broker, and uses it.
func (c spcsClient) useBroker(t *testing.T, node int) {
	t.Helper()
	topic, args := fmt.Sprintf("at-%d", node), []string{}
	if c.flags != nil {
		args = append(args, "--command-config", c.properties(t, "PLAIN", "plain.PlainLoginModule", "broker", spcsPassword))
	}
	if err := c.tool(t, kafka.Topics, append(args, "--create", "--topic", topic, "--replica-assignment", strconv.Itoa(node), "--config", "min.insync.replicas=1")...); err != nil {
		t.Fatal(err)
	}
	c.roundTrip(t, topic)
	list, err := c.kcat(t, "", "-L", "-t", topic)
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, list, fmt.Sprintf("partition 0, leader %d,", node))
}

func (c spcsClient) roundTrip(t *testing.T, topic string) {
	t.Helper()
	if _, err := c.kcat(t, lines(20), "-P", "-t", topic, "-X", "acks=all"); err != nil {
		t.Fatal(err)
	}
	out, err := c.kcat(t, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q")
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, out, strings.Split(strings.TrimSpace(lines(20)), "\n")...)
}

// checkPasswords checks that a wrong password is refused, and that a user created as in
// 31-secrets-sasl.sql can log in. It uses Java's tools for that user: librdkafka before 2.6.1
// repeats a nonce in SCRAM, which brokers refuse since 4.0.
func (c spcsClient) checkPasswords(t *testing.T) {
	wrong := c
	wrong.flags = saslClient("app", "wrong", "PLAIN")
	if out, err := wrong.kcat(t, "", "-L", "-m", "5"); err == nil {
		t.Errorf("a wrong password lists\n%s", out)
	}
	broker := c.properties(t, "PLAIN", "plain.PlainLoginModule", "broker", spcsPassword)
	alice := c.properties(t, "SCRAM-SHA-512", "scram.ScramLoginModule", "alice", "secret-of-alice")
	if err := c.tool(t, kafka.Configs, "--command-config", broker, "--alter", "--add-config", "SCRAM-SHA-512=[password=secret-of-alice]",
		"--entity-type", "users", "--entity-name", "alice"); err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, "a user that every broker knows", func() bool { return c.tool(t, kafka.Topics, "--command-config", alice, "--list") == nil })
}

// properties writes the login settings of Kafka's tools.
func (c spcsClient) properties(t *testing.T, mechanism, module, user, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	settings := fmt.Sprintf("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=%s\nsasl.jaas.config=org.apache.kafka.common.security.%s required username=%q password=%q;\n",
		mechanism, module, user, password)
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (c spcsClient) tool(t *testing.T, class string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, err := kafka.Command(ctx, []string{"-Xmx192m"}, class, append([]string{"--bootstrap-server", c.bootstrap}, args...)...)
	if err != nil {
		return err
	}
	_, err = proc.Run(ctx, cmd)
	return err
}
