package release

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/proc"
)

// patience bounds each wait: for a process, a record, a datagram.
const patience = 60 * time.Second

// unprivileged is the user that the services run as: one of those that systemd makes up.
const unprivileged = 61184

// service is a unit that was started as systemd does it, without what systemd confines it with.
type service struct {
	r       root
	end     string // agent or gateway
	manager *net.UnixConn
	process *proc.Process
}

// unit returns the values of a key in the unit of an end, with the specifier %S.
func (r root) unit(end, key string) (values []string) {
	r.t.Helper()
	for line := range strings.Lines(r.read("usr/lib/systemd/system/culvert-" + end + ".service")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			values = append(values, strings.ReplaceAll(value, "%S", "/var/lib"))
		}
	}
	return values
}

// command is what a unit starts: in the root, as its user, with its credentials.
func (r root) command(end string) *exec.Cmd {
	r.t.Helper()
	given := filepath.Join("run/credentials", "culvert-"+end+".service")
	for _, c := range r.unit(end, "LoadCredential") {
		id, from, _ := strings.Cut(c, ":")
		files, err := filepath.Glob(filepath.Join(r.path(from), "*"))
		if err != nil {
			r.t.Fatal(err)
		}
		r.mkdir(given, 0o500)
		for _, file := range files {
			name := filepath.Join(given, id+"_"+filepath.Base(file))
			r.write(name, r.read(strings.TrimPrefix(file, r.dir)), 0o400)
			r.own(name)
		}
	}
	for _, state := range r.unit(end, "StateDirectory") {
		r.mkdir(filepath.Join("var/lib", state), 0o700)
	}
	argv := strings.Fields(r.unit(end, "ExecStart")[0])
	cmd := exec.Command("chroot", append([]string{"--userspec=61184:61184", r.dir}, argv...)...)
	cmd.Env = append(r.unit(end, "Environment"), "NOTIFY_SOCKET=/run/notify-"+end)
	return cmd
}

func (r root) mkdir(name string, mode os.FileMode) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.MkdirAll(r.path(name), mode); err != nil {
		r.t.Fatal(err)
	}
	r.own(name)
}

func (r root) own(name string) {
	r.t.Helper()
	if err := os.Chown(r.path(name), unprivileged, unprivileged); err != nil {
		r.t.Fatal(err)
	}
}

// refusesToStart starts a unit with the settings that the package brings.
func (r root) refusesToStart(end, says string) {
	r.t.Helper()
	out, err := r.command(end).CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), says) {
		r.t.Errorf("without settings, the %s says %q, %v; want exit code 2 and %q", end, out, err, says)
	}
	if got := r.unit(end, "RestartPreventExitStatus"); len(got) != 1 || got[0] != "2" {
		r.t.Errorf("systemd starts the %s again after exit code %q", end, got)
	}
}

// configure uncomments settings in the file that the package brings, and gives them a value.
func (r root) configure(end string, settings map[string]string) {
	r.t.Helper()
	file := "etc/culvert/" + end + ".yaml"
	text := r.read(file)
	for key, value := range settings {
		line := regexp.MustCompile(`(?m)^#` + key + `: (.*)$`)
		commented := line.FindStringSubmatch(text)
		switch {
		case commented == nil:
			text += key + ": " + value + "\n"
		case value == "":
			text = line.ReplaceAllLiteralString(text, key+": "+commented[1])
		default:
			text = line.ReplaceAllLiteralString(text, key+": "+value)
		}
	}
	r.write(file, text, 0o644)
}

// start starts a unit, and returns when it has told systemd that it has started.
func (r root) start(end string) *service {
	r.t.Helper()
	s := &service{r: r, end: end}
	socket := r.path("run/notify-" + end)
	var err error
	if s.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.manager.Close() })
	r.own("run/notify-" + end)
	if s.process, err = proc.Start(r.command(end)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(s.process.Kill)
	s.tells("READY=1")
	return s
}

// tells waits until the process tells systemd something.
func (s *service) tells(what string) {
	s.r.t.Helper()
	b := make([]byte, 64<<10)
	for end := time.Now().Add(patience); ; {
		if err := s.manager.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			s.r.t.Fatal(err)
		}
		n, err := s.manager.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && !s.ended() && time.Now().Before(end) {
			continue
		}
		if err != nil {
			s.r.t.Fatalf("culvert %s does not tell systemd %s: %v\n%s", s.end, what, err, s.process.Output())
		}
		if strings.Contains(string(b[:n]), what) {
			return
		}
	}
}

func (s *service) ended() bool {
	select {
	case <-s.process.Done():
		return true
	default:
		return false
	}
}

func (s *service) stop() {
	s.r.t.Helper()
	if err := s.process.Terminate(patience); err != nil {
		s.r.t.Errorf("stop culvert %s: %v\n%s", s.end, err, s.process.Output())
	}
	s.tells("STOPPING=1")
	if err := os.Remove(s.r.path("run/notify-" + s.end)); err != nil {
		s.r.t.Error(err)
	}
}

// carriesRecords configures both services, starts them, sends a record through them, and stops
// them.
func (r root) carriesRecords() {
	r.t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "records"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cluster.Close)
	cert, key := certificate(r)
	for name, content := range map[string]string{
		"gateway-credentials/tokens": "laptop=0123456789abcdef\n", "gateway-credentials/cert.pem": cert, "gateway-credentials/key.pem": key,
		"agent-credentials/token": "laptop=0123456789abcdef\n", "agent-credentials/ca.pem": cert,
	} {
		r.write("etc/culvert/"+name, content, 0o600)
	}
	r.configure("gateway", map[string]string{
		"bootstrap": cluster.ListenAddrs()[0], "listen": "127.0.0.1:0", "admin-listen": "none", "token-file": "", "tls-cert-file": "", "tls-key-file": "",
	})
	gateway := r.start("gateway")
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	address := find(r, ctx, gateway, regexp.MustCompile(`gateway listening on (127\.0\.0\.1:\d+)`))
	r.configure("agent", map[string]string{
		"gateway-url": "https://" + address, "listen": "127.0.0.1:0", "admin-listen": "none", "broker-port-base": freePort(r),
		"token-file": "", "gateway-ca-file": "/run/credentials/culvert-agent.service/agent_ca.pem",
	})
	agent := r.start("agent")
	agent.tells("STATUS=ready")
	bootstrap := find(r, ctx, agent, regexp.MustCompile(`agent listening: bootstrap (127\.0\.0\.1:\d+)`))
	roundTrip(r, ctx, bootstrap)
	agent.stop()
	if state, err := filepath.Glob(r.path("var/lib/culvert-agent/culvert/agent-*.json")); err != nil || len(state) != 1 {
		r.t.Errorf("the agent has written its state to %q, %v", state, err)
	}
	gateway.stop()
	// What systemd removes when services stop.
	if err := os.RemoveAll(r.path("run/credentials")); err != nil {
		r.t.Fatal(err)
	}
}

// find returns what the first line with listening says.
func find(r root, ctx context.Context, s *service, pattern *regexp.Regexp) string {
	r.t.Helper()
	line, err := s.process.Output().WaitLine(ctx, "listening")
	if err != nil {
		r.t.Fatal(err)
	}
	found := pattern.FindStringSubmatch(line)
	if found == nil {
		r.t.Fatalf("%q does not match %s", line, pattern)
	}
	return found[1]
}

func roundTrip(r root, ctx context.Context, bootstrap string) {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics("records"), kgo.DefaultProduceTopic("records"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, kgo.StringRecord("hello")).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		r.t.Fatal(err)
	}
	if got := string(fetches.Records()[0].Value); got != "hello" {
		r.t.Errorf("consumed %q, want hello", got)
	}
}

// freePort is a port for the only broker, below those that systems choose for outgoing connections.
func freePort(r root) string {
	r.t.Helper()
	for port := 21000; port < 32000; port++ {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		ln.Close()
		_, text, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			r.t.Fatal(err)
		}
		return text
	}
	r.t.Fatal("no port is free")
	return ""
}

// certificate makes a certificate for 127.0.0.1 that signs itself.
func certificate(r root) (cert, key string) {
	r.t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
