package test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestDoctorOnAHealthyPath runs the doctor on the paths that other tests use, beside their agents.
func TestDoctorOnAHealthyPath(t *testing.T) {
	for way, p := range sharedTestbed(t).paths {
		t.Run(way, func(t *testing.T) {
			topic := p.cluster.Topic(t, "doctor")
			before := len(p.gateway.log())
			r := p.doctor(t, "--produce", topic)
			r.wantExit(t, 0)
			for _, hop := range []string{"bootstrap", "login", "metadata", "broker 0", "broker 1", "broker 2", "record"} {
				r.want(t, "ok", hop, "")
			}
			r.want(t, "ok", "listen", "the agent that runs with these settings")
			r.want(t, "ok", "agent", "leads to the same cluster, brokers 0 at "+p.nodeAddress(0))
			r.want(t, "ok", "record", topic+", partition ")
			r.want(t, "ok", "verdict", "clients that do not log in get through to every broker, and a record went there and back")
			p.gateway.wantNoWarnings(t, before)
		})
	}
}

// TestDoctorLogsIn runs the doctor with the settings of Java clients, at brokers that want a login,
// and while one of these brokers is down.
func TestDoctorLogsIn(t *testing.T) {
	needReal(t)
	bed, err := newTestbed(t.Context(), t.TempDir(), kafka.Config{SASL: true}, (*kafka.Cluster).SASL, "ws")
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, bed)
	p, topic := bed.paths["ws"], bed.cluster.Topic(t, "doctor")

	// Without settings, what clients need is not examined, and nothing is written to a log.
	r := p.doctor(t)
	r.wantExit(t, 1)
	r.want(t, "skip", "login", "PLAIN")
	r.want(t, "skip", "verdict", "whether clients would get through is not known; not examined: the login, because there is no --client-config")

	const module = "org.apache.kafka.common.security."
	for mechanism, jaas := range map[string]string{
		"PLAIN":         module + `plain.PlainLoginModule required username="alice" password="alice-secret";`,
		"SCRAM-SHA-256": module + `scram.ScramLoginModule required username="bob" password="bob-secret";`,
		"SCRAM-SHA-512": module + `scram.ScramLoginModule required \` + "\n" + `  username="bob" password="bob-secret";`,
		"OAUTHBEARER":   module + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="carol";`,
	} {
		r := p.doctor(t, "--produce", topic, "--client-config", bed.properties(t, "security.protocol=SASL_PLAINTEXT", "sasl.mechanism="+mechanism, "sasl.jaas.config="+jaas))
		r.wantExit(t, 0)
		for _, hop := range []string{"login", "metadata", "broker 0", "broker 1", "broker 2", "record"} {
			r.want(t, "ok", hop, "")
		}
		r.want(t, "ok", "verdict", "clients with these settings get through")
	}
	bed.gateway.wantNoWarnings(t, 0)

	wrong := bed.properties(t, "security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-256",
		"sasl.jaas.config="+module+`scram.ScramLoginModule required username="bob" password="wr0ng";`)
	r = p.doctor(t, "--client-config", wrong)
	r.wantExit(t, 1)
	r.want(t, "fail", "login", "SASL_AUTHENTICATION_FAILED")
	r.want(t, "fail", "verdict", "the login is refused")
	if strings.Contains(r.out, "wr0ng") {
		t.Errorf("the doctor prints a password:\n%s", r.out)
	}

	right := bed.properties(t, "security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN",
		"sasl.jaas.config="+module+`plain.PlainLoginModule required username="alice" password="alice-secret";`)
	bed.cluster.Kill(2)
	r = p.doctor(t, "--client-config", right)
	r.wantExit(t, 1)
	r.want(t, "ok", "broker 1", "accepts the login")
	r.want(t, "fail", "broker 2", "connection refused")
	r.want(t, "fail", "verdict", "broker 2 refuses connections")
}

// TestDoctorSpeaksTLS has agent and clients show each other certificates.
func TestDoctorSpeaksTLS(t *testing.T) {
	needReal(t)
	bed := newTLSTestbed(t, "ws")
	p := bed.paths["ws"]
	settings := []string{"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN",
		`sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="alice" password="alice-secret";`,
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + bed.file("clients-ca.pem")}
	own := []string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + bed.file("client-both.pem")}

	r := p.doctor(t, "--client-config", bed.properties(t, append(settings, own...)...))
	r.wantExit(t, 0)
	r.want(t, "ok", "client tls", "TLS 1.3")
	r.want(t, "ok", "agent", "leads to the same cluster")
	r.want(t, "ok", "broker 0", "accepts the login")

	r = p.doctor(t, "--client-config", bed.properties(t, settings...))
	r.wantExit(t, 1)
	r.want(t, "fail", "client tls", "does not accept the client")

	r = p.doctor(t, "--client-config", bed.properties(t, append(settings, "ssl.truststore.location="+bed.file("other-ca.pem"))...))
	r.wantExit(t, 1)
	r.want(t, "fail", "client tls", "does not trust the agent")

	r = p.doctor(t)
	r.wantExit(t, 1)
	r.want(t, "skip", "client tls", "")
	r.want(t, "skip", "verdict", "not examined: TLS with clients, because there is no --client-config, the login")
}

// TestDoctorFindsWhoHasAPort takes the port of a node of an agent that does not run.
func TestDoctorFindsWhoHasAPort(t *testing.T) {
	p := sharedTestbed(t).paths["ws"]
	base, err := freeBase([]int{0, 1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", address(clientHost, base+2))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	elsewhere := *p
	elsewhere.port, elsewhere.transport = base, p.transport
	doctor := func(listen string, nodes int) diagnosis {
		return run(t, elsewhere.command("doctor", "--listen", listen, "--broker-port-base", strconv.Itoa(nodes), "--state-file", "none"))
	}
	r := doctor(address(clientHost, base), base+1)
	r.wantExit(t, 0)
	r.want(t, "ok", "listen", "is free")
	r.want(t, "warn", "port node 1", "until it is free, the agent gives clients another port")

	// Clients elsewhere cannot be given another port.
	r = doctor(address(clientHost, base)+"=kafka.example.com", base+1)
	r.wantExit(t, 1)
	r.want(t, "fail", "port node 1", "process")
	r.want(t, "fail", "verdict", "the port of node 1 is taken by another program")

	r = doctor(ln.Addr().String(), base+3)
	r.wantExit(t, 1)
	r.want(t, "fail", "listen", "process")
	r.want(t, "fail", "verdict", "the bootstrap port is taken by another program")
}

// TestDoctorWithoutCulvert examines Kafka as those do who have no culvert yet.
func TestDoctorWithoutCulvert(t *testing.T) {
	bed := sharedTestbed(t)
	r := run(t, exec.Command(bed.binary, "doctor", "--bootstrap", bed.cluster.Bootstrap()))
	r.wantExit(t, 1)
	r.want(t, "ok", "metadata", "broker-2."+kafka.Domain)
	r.want(t, "fail", "broker 2", "no such host")
	r.want(t, "fail", "verdict", "Brokers advertise addresses that cannot be reached from here: that is what culvert solves")

	r = run(t, exec.Command(bed.binary, "doctor", "--bootstrap", bed.cluster.Internal(), "--produce", bed.cluster.Topic(t, "doctor")))
	r.wantExit(t, 0)
	r.want(t, "ok", "verdict", "reach every broker from here, without culvert, and a record went there and back")
}

// diagnosis is what a doctor has found.
type diagnosis struct {
	out      string
	exit     int
	findings []struct{ Hop, Result, Text, Remedy string }
}

// doctor runs the doctor with the settings of the path's agent.
func (p *path) doctor(t *testing.T, flags ...string) diagnosis {
	t.Helper()
	return run(t, p.command("doctor", append(p.agentFlags(), flags...)...))
}

// doctorOnce is doctor for programs only, for what changes while the doctor looks.
func (p *path) doctorOnce(t *testing.T) diagnosis {
	t.Helper()
	return runForPrograms(t, p.command("doctor", p.agentFlags()...))
}

// run runs a doctor twice: for people and for programs. Both must find the same.
func run(t *testing.T, cmd *exec.Cmd) diagnosis {
	t.Helper()
	again := *cmd
	d := runForPrograms(t, &again)
	text, err := cmd.CombinedOutput()
	if exit := cmdExit(t, err); exit != d.exit {
		t.Errorf("exit code %d for people, %d for programs\n%s%s", exit, d.exit, text, d.out)
	}
	if last := d.findings[len(d.findings)-1]; last.Hop != "verdict" || !strings.Contains(string(text), last.Result+strings.Repeat(" ", 6-len(last.Result))+"verdict ") {
		t.Errorf("the last finding is %+v:\n%s", last, text)
	}
	return d
}

func runForPrograms(t *testing.T, cmd *exec.Cmd) (d diagnosis) {
	t.Helper()
	cmd.Args = append(slices.Clone(cmd.Args), "--json")
	out, err := cmd.Output()
	d.out, d.exit = string(out), cmdExit(t, err)
	for line := range strings.Lines(d.out) {
		var f struct{ Hop, Result, Text, Remedy string }
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		d.findings = append(d.findings, f)
	}
	if len(d.findings) == 0 {
		t.Fatal("the doctor finds nothing")
	}
	return d
}

func cmdExit(t *testing.T, err error) int {
	t.Helper()
	if exit, is := err.(*exec.ExitError); is {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func (d diagnosis) wantExit(t *testing.T, code int) {
	t.Helper()
	if d.exit != code {
		t.Errorf("exit code %d, want %d:\n%s", d.exit, code, d.out)
	}
}

// want fails the test unless a hop has this result, and a text with these words.
func (d diagnosis) want(t *testing.T, result, hop, words string) {
	t.Helper()
	if !d.finds(result, hop, words) {
		t.Errorf("no %s at %s with %q:\n%s", result, hop, words, d.out)
	}
}

// finds reports whether a hop has this result, and a text with these words.
func (d diagnosis) finds(result, hop, words string) bool {
	for _, f := range d.findings {
		if f.Hop == hop && f.Result == result && strings.Contains(f.Text, words) {
			return true
		}
	}
	return false
}

// wantRemedy fails the test unless a hop has this remedy.
func (d diagnosis) wantRemedy(t *testing.T, hop, remedy string) {
	t.Helper()
	for _, f := range d.findings {
		if f.Hop == hop && f.Remedy == remedy {
			return
		}
	}
	t.Errorf("no remedy %q at %s:\n%s", remedy, hop, d.out)
}

// properties writes a client's settings.
func (b *testbed) properties(t *testing.T, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// log returns what the gateway has logged; without a gateway, nothing.
func (g *gateway) log() string {
	if g == nil {
		return ""
	}
	return g.process.Output().String()
}

// wantNoWarnings fails the test if the gateway has logged a warning since.
func (g *gateway) wantNoWarnings(t *testing.T, since int) {
	t.Helper()
	for line := range strings.Lines(g.log()[since:]) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			t.Errorf("the gateway warns of the doctor: %s", line)
		}
	}
}
