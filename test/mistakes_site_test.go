package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// site is what a user has set up: brokers, a gateway beside them, an agent, and the files of both.
// Each mistake gets a site of its own and changes it. The brokers are embedded ones; a mistake that
// needs Apache Kafka sets bootstrap.
type site struct {
	*testing.T
	dir     string
	gateway *end
	agent   *end

	mended      bool               // what was wrong is right now
	taken       []io.Closer        // addresses that something else holds
	cluster     *fakekafka.Cluster // nil: the brokers are down
	brokerPorts []int
}

// end is one of our two processes. Its fields are the settings that it starts with.
type end struct {
	site     *site
	command  string
	flags    map[string]string // without the dashes; deleted: not given
	env      []string
	absent   bool              // not started
	hosts    map[string]string // what resolves for it; nil: as on this machine
	process  *proc.Process
	restarts int
}

const (
	brokersOfASite = 3
	topicOfASite   = "records" // with a partition for each broker
)

// newSite returns a site without a mistake. Nothing but its brokers runs.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir()}
	try(t, writeCredentials(s.dir))
	s.newCertificate("ca.pem", "gateway", 60*24*time.Hour, clientHost, gatewayName)
	ports, err := kafka.FreePorts(brokersOfASite + 3)
	try(t, err)
	s.brokerPorts, ports = ports[:brokersOfASite], ports[brokersOfASite:]
	offsets := []int{0}
	for id := range brokersOfASite {
		offsets = append(offsets, 1+id)
	}
	base, err := freeBase(offsets)
	try(t, err)
	gateway := address(clientHost, ports[0])
	s.gateway = &end{site: s, command: "gateway", flags: map[string]string{
		"listen":        gateway,
		"admin-listen":  address(clientHost, ports[1]),
		"bootstrap":     s.bootstrap(),
		"token-file":    s.file("token"),
		"tls-cert-file": s.file("gateway.pem"),
		"tls-key-file":  s.file("gateway-key.pem"),
		"drain-timeout": "2s",
	}}
	s.agent = &end{site: s, command: "agent", flags: map[string]string{
		"listen":           address(clientHost, base),
		"broker-port-base": strconv.Itoa(base + 1),
		"admin-listen":     address(clientHost, ports[2]),
		"gateway-url":      "https://" + gateway,
		"gateway-ca-file":  s.file("ca.pem"),
		"token-file":       s.file("agent-token"),
		"state-file":       s.file("state.json"),
		"drain-timeout":    "2s",
	}}
	s.gateway.hosts = make(map[string]string)
	for id := range int32(brokersOfASite) {
		s.gateway.hosts[fakekafka.Host(id)] = clientHost
	}
	s.copy("token", "agent-token")
	s.startBrokers()
	t.Cleanup(s.stopBrokers)
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// write writes a file of the site, or writes it anew.
func (s *site) write(name, content string) {
	s.Helper()
	try(s.T, os.WriteFile(s.file(name), []byte(content), 0o600))
}

// copy copies a file of the site over another.
func (s *site) copy(from, to string) {
	s.Helper()
	content, err := os.ReadFile(s.file(from))
	try(s.T, err)
	s.write(to, string(content))
}

// newCertificate writes NAME.pem and NAME-key.pem, and the CA of their own that signs them.
func (s *site) newCertificate(caFile, name string, life time.Duration, names ...string) {
	s.Helper()
	ca, err := newAuthority("CA of " + name)
	try(s.T, err)
	cert, key, err := ca.issue(name, time.Now().Add(life), names...)
	try(s.T, err)
	try(s.T, writeFiles(s.dir, map[string][]byte{caFile: ca.pem(), name + ".pem": cert, name + "-key.pem": key}))
}

// serverTLS returns the settings of a server with a certificate of the site.
func (s *site) serverTLS(name string) *tls.Config {
	s.Helper()
	cert, err := tls.LoadX509KeyPair(s.file(name+".pem"), s.file(name+"-key.pem"))
	try(s.T, err)
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// clientTLS returns the settings of a client that trusts the site's CA.
func (s *site) clientTLS() *tls.Config {
	s.Helper()
	ca, err := os.ReadFile(s.file("ca.pem"))
	try(s.T, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool, ServerName: clientHost}
}

// freeAddress returns an address at which nothing listens.
func (s *site) freeAddress(host string) string {
	s.Helper()
	ports, err := kafka.FreePorts(1)
	try(s.T, err)
	return address(host, ports[0])
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// dropsAt makes an address drop what is sent to it, until lift: its queue of connections is full,
// and nobody reads its datagrams.
func (s *site) dropsAt(address string) {
	s.Helper()
	full, err := netns.DropAt(address)
	try(s.T, err)
	s.taken = append(s.taken, full)
	s.Cleanup(func() { full.Close() })
}

// lift gives back all that dropsAt and take hold.
func (s *site) lift() {
	for _, held := range s.taken {
		held.Close()
	}
	s.taken = nil
}

// bootstrap is the brokers' real addresses.
func (s *site) bootstrap() string {
	var all []string
	for _, port := range s.brokerPorts {
		all = append(all, address(clientHost, port))
	}
	return strings.Join(all, ",")
}

// startBrokers starts the brokers at the ports that they had before.
func (s *site) startBrokers(more ...kfake.Opt) {
	s.Helper()
	var err error
	s.cluster, err = fakekafka.Start(brokersOfASite, append(more, kfake.Ports(s.brokerPorts...), kfake.SeedTopics(brokersOfASite, topicOfASite))...)
	try(s.T, err)
}

func (s *site) stopBrokers() {
	if s.cluster != nil {
		s.cluster.Close()
	}
	s.cluster = nil
}

// start starts the process with its settings of now.
func (e *end) start() {
	t := e.site.T
	t.Helper()
	cmd := e.cmd(e.command)
	var err error
	e.process, err = proc.Start(cmd)
	try(t, err)
	t.Cleanup(func() {
		e.process.Kill()
		if t.Failed() {
			t.Logf("log of the %s:\n%s", e.command, e.process.Output())
		}
	})
}

// cmd returns a command with the settings of this end: its own, or the doctor with the agent's.
func (e *end) cmd(name string, more ...string) *exec.Cmd {
	t := e.site.T
	t.Helper()
	binary, err := build()
	try(t, err)
	args := []string{name, "--log-format", "json"}
	for _, flag := range slices.Sorted(maps.Keys(e.flags)) {
		args = append(args, "--"+flag+"="+e.flags[flag])
	}
	args = append(args, more...)
	cmd := exec.Command(binary, args...)
	if e.hosts != nil {
		e.resolve(nil)
		cmd = hostsfile.Command(e.hostsFile(), binary, args...)
	}
	cmd.Env = slices.DeleteFunc(cmd.Environ(), func(s string) bool { return strings.HasPrefix(s, "CULVERT_") })
	cmd.Env = append(cmd.Env, e.env...)
	return cmd
}

// resolve adds names that resolve for the process, also while it runs.
func (e *end) resolve(more map[string]string) {
	e.site.Helper()
	if e.hosts == nil {
		e.hosts = make(map[string]string)
	}
	maps.Copy(e.hosts, more)
	try(e.site.T, hostsfile.Write(e.hostsFile(), e.hosts))
}

func (e *end) hostsFile() string { return e.site.file(e.command + "-hosts") }

// restart starts the process again with its settings of now: some mistakes are in a command line.
func (e *end) restart() {
	e.site.Helper()
	e.stop()
	e.absent = false
	e.restarts++
	e.start()
	e.mustBe("listening")
}

// stop ends the process as an operator does.
func (e *end) stop() {
	e.site.Helper()
	if e.process == nil {
		return
	}
	select {
	case <-e.process.Done(): // by itself: its exit code is checked elsewhere
	default:
		try(e.site.T, stopCulvert(e.process))
	}
}

// mustBe waits for the line with word.
func (e *end) mustBe(word string) {
	e.site.Helper()
	ctx, cancel := context.WithTimeout(e.site.Context(), patience)
	defer cancel()
	_, err := e.process.Output().WaitLine(ctx, word)
	try(e.site.T, err)
}

// line is one line of a log.
type line struct {
	Level slog.Level `json:"level"`
	Msg   string     `json:"msg"`
	text  string     // with all attributes, as JSON has them
}

// lines returns what the process has printed since it started.
func (e *end) lines() (all []line) {
	if e.process == nil {
		return nil
	}
	for text := range strings.Lines(e.process.Output().String()) {
		l := line{Level: slog.LevelError} // what is no JSON is a panic
		_ = json.Unmarshal([]byte(text), &l)
		l.text = readable(text)
		all = append(all, l)
	}
	return all
}

// readable returns a line of JSON with its strings as people read them.
func readable(text string) string {
	return strings.TrimSpace(strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(text))
}

// complaints returns the lines of warnings and errors. That h3 was slow to answer is no mistake of
// the site's: this machine may be busy.
func (e *end) complaints() (all []line) {
	for _, l := range e.lines() {
		if l.Level >= slog.LevelWarn && l.Msg != "tunnel transport changed" {
			all = append(all, l)
		}
	}
	return all
}

// askAgent is what a client sees that connects to the agent's bootstrap address and asks for the
// API versions.
func (s *site) askAgent() string { return s.askAt(s.agent.flags["listen"]) }

// askNode is askAgent at the port of a node.
func (s *site) askNode(id int) string { return s.askAt(s.nodeAddress(id)) }

func (s *site) askAt(address string) string {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return sees(err)
	}
	defer c.Close()
	_, err = (&kafkaConn{Conn: c}).ask(patience)
	return sees(err)
}

// askMetadata asks the bootstrap address for the metadata of no topic.
func (s *site) askMetadata() string {
	request := kmsg.NewMetadataRequest()
	request.Version, request.Topics = 4, []kmsg.MetadataRequestTopic{}
	c, err := net.Dial("tcp", s.agent.flags["listen"])
	if err != nil {
		return sees(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, &request, 1)); err != nil {
		return sees(err)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return sees(err)
	}
	_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)))
	return sees(err)
}

// askOverTLS is askAgent over TLS.
func (s *site) askOverTLS(config *tls.Config) string {
	c, err := tls.Dial("tcp", s.agent.flags["listen"], config)
	if err != nil {
		return sees(err)
	}
	defer c.Close()
	_, err = (&kafkaConn{Conn: c}).ask(patience)
	return sees(err)
}

// sees is the word for what a client sees.
func sees(err error) string {
	switch {
	case err == nil:
		return "works"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "a refusal"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "a reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "a close"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return fmt.Sprint(err)
}

// produceAndConsume sends a record through the agent and reads it back.
func (s *site) produceAndConsume(options func(*site) []kgo.Opt) {
	s.Helper()
	all := []kgo.Opt{kgo.SeedBrokers(s.agent.flags["listen"]), kgo.ConsumeTopics(topicOfASite), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if options != nil {
		all = append(all, options(s)...)
	}
	client, err := kgo.NewClient(all...)
	try(s.T, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	record := &kgo.Record{Topic: topicOfASite, Value: []byte(s.Name())}
	try(s.T, client.ProduceSync(ctx, record).FirstErr())
	for ctx.Err() == nil {
		for r := range client.PollFetches(ctx).RecordsAll() {
			if string(r.Value) == string(record.Value) {
				return
			}
		}
	}
	s.Error("the record did not come back")
}

// doctor examines the site with the agent's settings. It returns a line for each finding, and the
// exit code.
func (s *site) doctor(more ...string) (findings []string, code int) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	cmd := s.agent.cmd("doctor", append(more, "--json")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	doctor, err := proc.Start(cmd)
	try(s.T, err)
	defer context.AfterFunc(ctx, doctor.Kill)()
	if exit, ok := errors.AsType[*exec.ExitError](doctor.Wait()); ok {
		code = exit.ExitCode()
	}
	for l := range strings.Lines(doctor.Output().String()) {
		var f struct{ Hop, Result, Text, Remedy string }
		if err := json.Unmarshal([]byte(l), &f); err != nil {
			s.Errorf("not a finding: %s", l)
		}
		if f.Remedy != "" {
			f.Remedy = " hint: " + f.Remedy
		}
		findings = append(findings, fmt.Sprint(f.Result, " ", f.Hop, ": ", f.Text, f.Remedy))
	}
	for l := range strings.Lines(stderr.String()) {
		findings = append(findings, readable(l))
	}
	return findings, code
}
