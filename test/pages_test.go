package test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// page is a page whose commands are run, from top to bottom.
type page struct {
	file  string
	setUp func(*machine)
	// notHere are the first lines of blocks with commands that cannot run here, and the reason.
	notHere map[string]string
}

var pages = []page{
	{"README.md", (*machine).withKafkaExample, map[string]string{
		"$ go run ./cmd/culvert demo": "TestDemo in cmd/culvert compares it with what the demo prints",
	}},
	{"docs/install.md", (*machine).withoutCulvert, map[string]string{
		"docker build -t culvert .":                                              "TestImage builds it",
		"tar -xzf culvert_0.1.0_linux_amd64.tar.gz":                              notReleased,
		"sudo apt-get install ./culvert_0.1.0_amd64.deb":                         notReleased,
		"sudo dnf install ./culvert-0.1.0-1.x86_64.rpm":                          notReleased,
		"brew install --cask culvert-proxy/tap/culvert":                          notReleased,
		"scoop bucket add culvert https://github.com/culvert-proxy/scoop-bucket": notReleased,
		"docker pull ghcr.io/culvert-proxy/culvert:0.1.0":                        notReleased,
	}},
	{"docs/docker.md", (*machine).withDockerThatChecks, map[string]string{
		"docker build -t culvert .": "TestImage builds it",
		"cd charts/compose":         "there is no container engine; test/compose checks the file",
		"docker exec culvert-agent /usr/local/bin/culvert status": "there is no container engine",
	}},
	{"docs/systemd.md", func(*machine) {}, map[string]string{
		"go build ./cmd/culvert": notSystemd,
		"sudo install -m 600 token.txt /etc/culvert/agent-credentials/token":              notSystemd,
		"sudo systemctl enable --now culvert-agent":                                       notSystemd,
		"sudo install -m 600 -t /etc/culvert/gateway-credentials tokens cert.pem key.pem": notSystemd,
		"sudo systemctl enable --now culvert-gateway":                                     notSystemd,
		"cd /etc/systemd/system":                                                          notSystemd,
		"sudo systemctl enable --now culvert-west":                                        notSystemd,
	}},
	{"docs/several-agents.md", (*machine).withEastAndWest, nil},
}

// Why a block is not run.
const (
	notReleased = "there is no release yet; test/release makes and installs the packages"
	notSystemd  = "it changes the machine, and wants systemd as process 1; test/release starts the units"
)

// TestCommandsOfThePages runs each command that these pages show, as it stands there, on a machine
// of its own. What a block with a $ shows below a command must be in its output.
func TestCommandsOfThePages(t *testing.T) {
	kafka.Need(t)
	for _, program := range []string{"kcat", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s (Debian: apt-get install %s)", program, program)
		}
	}
	for _, p := range pages {
		t.Run(p.file, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			p.setUp(m)
			for _, b := range readPage(t, p.file) {
				if b.heading {
					m.stopServers()
				} else if _, found := p.notHere[b.firstLine()]; found {
					delete(p.notHere, b.firstLine())
				} else {
					m.follow(b)
				}
			}
			m.stopServers()
			for line := range p.notHere {
				t.Errorf("there is no block that begins with %q", line)
			}
		})
	}
}

// block is a block of commands, or a heading: what was started under one ends at the next.
type block struct {
	heading bool
	console bool // each command has a $, and what it prints is below
	yaml    bool // the settings of an agent, or of a gateway if the comment in the first line says so
	text    string
}

func (b block) firstLine() string {
	line, _, _ := strings.Cut(b.text, "\n")
	return line
}

// readPage returns the headings of the second level, and the blocks of commands and of settings.
// Blocks in another language, such as text, are not for running.
func readPage(t *testing.T, file string) (blocks []block) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)^```(\\S*)\n(.*?)^```$|^## .*?$")
	for _, found := range fence.FindAllStringSubmatch(string(content), -1) {
		switch {
		case found[2] == "":
			blocks = append(blocks, block{heading: true})
		case found[1] == "", found[1] == "console", found[1] == "yaml":
			blocks = append(blocks, block{console: found[1] == "console", yaml: found[1] == "yaml", text: found[2]})
		}
	}
	return blocks
}

// machine is a reader's machine: a network of its own, names that resolve there, and culvert.
type machine struct {
	*testing.T
	at      *netns.Namespace
	dir     string
	hosts   map[string]string // by name
	path    string            // PATH: what the page installs comes first
	servers []*proc.Process   // those that the page has started
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, at: netns.Start(t, netns.Link{}).Server, dir: t.TempDir(), hosts: map[string]string{}}
	binary, err := build()
	try(t, err)
	m.path = m.installed() + ":" + filepath.Dir(binary) + ":" + os.Getenv("PATH")
	t.Cleanup(m.stopServers)
	return m
}

// installed is where go install writes to.
func (m *machine) installed() string { return filepath.Join(m.dir, "bin") }

// withKafkaExample starts brokers kafka-0 to kafka-2 and a gateway at kafka.example.com.
func (m *machine) withKafkaExample() {
	m.startGateway("kafka.example.com", "127.2.0.1", m.startBrokers("kafka", "127.1.0"), "token.txt")
}

// withoutCulvert leaves nothing on PATH that the page does not install.
func (m *machine) withoutCulvert() {
	m.path = m.installed() + ":" + os.Getenv("PATH")
}

// withDockerThatChecks has no container engine: docker run checks the settings of what it would run.
func (m *machine) withDockerThatChecks() {
	const script = `#!/bin/bash
until [ "$1" = culvert ]; do shift; done
shift
exec culvert config "$@"
`
	try(m.T, os.Mkdir(m.installed(), 0o700))
	try(m.T, os.WriteFile(filepath.Join(m.installed(), "docker"), []byte(script), 0o700))
}

// withEastAndWest starts two clusters, each with a gateway.
func (m *machine) withEastAndWest() {
	m.startGateway("east.example.com", "127.2.0.1", m.startBrokers("east", "127.1.1"), "east-token.txt")
	m.startGateway("west.example.com", "127.2.0.2", m.startBrokers("west", "127.1.2"), "west-token.txt")
	m.hosts["kafka.internal"] = "127.0.0.3"
}

// named is a listener that a broker advertises by a name.
type named struct {
	net.Listener
	name string
}

func (l named) Addr() net.Addr { return namedAddr{l.Listener.Addr(), l.name} }

type namedAddr struct {
	net.Addr
	name string
}

func (a namedAddr) String() string { return a.name }

// startBrokers starts three brokers, CLUSTER-0 to CLUSTER-2, at port 9092 of addresses below network.
func (m *machine) startBrokers(cluster, network string) (bootstrap string) {
	m.Helper()
	brokers := 0
	listen := func(string, string) (net.Listener, error) {
		name, ip := fmt.Sprintf("%s-%d", cluster, brokers), fmt.Sprintf("%s.%d", network, brokers+1)
		brokers++
		m.hosts[name] = ip
		ln, err := m.at.Listen("tcp", address(ip, 9092))
		return named{ln, address(name, 9092)}, err
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.ListenFn(listen), kfake.ClusterID(kafka.ClusterID))
	try(m.T, err)
	m.Cleanup(c.Close)
	return address(cluster+"-0", 9092)
}

// startGateway starts a gateway with a certificate of the system's authorities, and writes the token
// for it.
func (m *machine) startGateway(name, ip, bootstrap, tokenFile string) {
	m.Helper()
	m.hosts[name] = ip
	ca, err := newAuthority("CA of " + name)
	try(m.T, err)
	cert, key, err := ca.issue(name, time.Now().Add(time.Hour), name)
	try(m.T, err)
	token := []byte(strings.Repeat("0123456789abcdef", 4) + "\n")
	try(m.T, writeFiles(m.dir, map[string][]byte{name + ".pem": cert, name + "-key.pem": key, name + "-tokens": token, tokenFile: token}))
	authorities, err := os.OpenFile(m.authorities(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	try(m.T, err)
	_, err = authorities.Write(ca.pem())
	try(m.T, cmp.Or(err, authorities.Close()))
	gateway, err := proc.Start(m.bash(fmt.Sprintf("exec culvert gateway --listen %[1]s:443 --tls-cert-file %[2]s.pem --tls-key-file %[2]s-key.pem --token-file %[2]s-tokens --bootstrap %[3]s --admin-listen none",
		ip, name, bootstrap)))
	try(m.T, err)
	m.Cleanup(gateway.Kill)
	m.wait(gateway, "culvert gateway ready")
}

func (m *machine) authorities() string { return filepath.Join(m.dir, "authorities.pem") }

// bash returns a command that runs a script on the machine. Commands of Go run in the repository.
func (m *machine) bash(script string) *exec.Cmd {
	m.Helper()
	hosts := filepath.Join(m.dir, "hosts")
	try(m.T, hostsfile.Write(hosts, m.hosts))
	cmd := hostsfile.Command(hosts, "/bin/bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = m.dir
	if strings.HasPrefix(script, "go ") {
		cmd.Dir = ".."
	}
	cmd.Env = append(cmd.Environ(), "PATH="+m.path, "LC_ALL=C.UTF-8", "SSL_CERT_FILE="+m.authorities(),
		"GOCACHE="+goEnv(m.T, "GOCACHE"), "GOBIN="+m.installed(), "XDG_CACHE_HOME="+filepath.Join(m.dir, "cache"))
	return m.at.Enter(cmd)
}

// follow does what a block says.
func (m *machine) follow(b block) {
	m.Helper()
	switch {
	case b.yaml:
		m.checkSettings(b)
		return
	case !b.console:
		m.do(b.text)
		return
	}
	for _, step := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, shown, _ := strings.Cut(step, "\n")
		m.wantShown(command, strings.TrimSuffix(shown, "\n"), m.do(command))
	}
}

// checkSettings reads a block as an agent or a gateway would.
func (m *machine) checkSettings(b block) {
	m.Helper()
	try(m.T, os.WriteFile(filepath.Join(m.dir, "settings.yaml"), []byte(b.text), 0o600))
	command := "agent"
	if strings.Contains(b.firstLine(), "gateway") {
		command = "gateway"
	}
	m.do("culvert config " + command + " --config settings.yaml")
}

// serves matches a script whose last command is an agent or a gateway.
var serves = regexp.MustCompile(`(?m)^culvert (agent|gateway) (.|\\\n)*\n?\z`)

// do runs a script to its end, or an agent or a gateway until it is ready. It returns the output.
func (m *machine) do(script string) string {
	m.Helper()
	if !serves.MatchString(script) {
		ctx, cancel := context.WithTimeout(m.Context(), patience)
		defer cancel()
		out, err := proc.Run(ctx, m.bash(script))
		if err != nil {
			m.Fatalf("%s\n%v", script, err)
		}
		return out
	}
	p, err := proc.Start(m.bash(script))
	try(m.T, err)
	m.servers = append(m.servers, p)
	m.wait(p, " ready: ")
	return p.Output().String()
}

// wait waits until a process prints text.
func (m *machine) wait(p *proc.Process, text string) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), patience)
	defer cancel()
	if _, err := p.Output().WaitLine(ctx, text); err != nil {
		m.Fatalf("no line with %q: %v\n%s", text, err, p.Output())
	}
}

// stopServers ends what the page has started. The last was started last.
func (m *machine) stopServers() {
	for _, p := range slices.Backward(m.servers) {
		p.Kill()
	}
	m.servers = nil
}

// wantShown fails the test unless the output has the lines that the page shows, in that order.
// Times may differ, and the transport, and what is behind …
func (m *machine) wantShown(command, shown, output string) {
	m.Helper()
	loosely := strings.NewReplacer("…", ".*", "over h3", "over (?:h3|ws|h2)")
	times := regexp.MustCompile(`\d+(\\\.\d+)?(m|µ)s`)
	rest := output
	for line := range strings.SplitSeq(shown, "\n") {
		if line == "…" {
			continue
		}
		pattern := loosely.Replace(times.ReplaceAllString(regexp.QuoteMeta(line), `[\d.]+(?:m|µ)?s`))
		found := regexp.MustCompile("(?m)^" + pattern + "$").FindStringIndex(rest)
		if found == nil {
			m.Errorf("$ %s\ndoes not print, in this place, what the page shows:\n%s\noutput:\n%s", command, line, output)
			continue
		}
		rest = rest[found[1]:]
	}
}
