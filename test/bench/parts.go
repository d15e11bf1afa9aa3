package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// row is one way from the load to the brokers.
type row struct {
	name           string
	bare           string        // the row of the same tunnel without Kafka parsing
	brokers        []string      // the brokers' addresses as a client sees them
	advertised     []string      // the addresses that the brokers advertise
	agent, gateway *proc.Process // nil where there is none
	cluster        *proc.Process // the brokers, which all rows share
	wan            *wan          // nil: loopback
}

// parts are the processes of a run.
type parts struct {
	dir     string // for the certificate
	culvert string // the binary
	cluster *proc.Process
	brokers []string
	started []*proc.Process
	wan     *wan // nil: loopback
}

// close ends all processes.
func (p *parts) close() {
	for _, s := range p.started {
		s.Kill()
	}
}

// announce prints the addresses that this process listens on, for its parent.
func announce(out io.Writer, listeners []net.Listener) {
	var addresses []string
	for _, ln := range listeners {
		addresses = append(addresses, ln.Addr().String())
	}
	fmt.Fprintln(out, "listening", strings.Join(addresses, ","))
}

// start starts a process and returns the line in which it reported where it listens.
func (p *parts) start(at *netns.Namespace, name string, args ...string) (*proc.Process, string, error) {
	s, err := proc.Start(at.Enter(exec.Command(name, args...)))
	if err != nil {
		return nil, "", err
	}
	p.started = append(p.started, s)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	line, err := s.Output().WaitLine(ctx, "listening")
	if err != nil {
		return nil, "", fmt.Errorf("start %s: %w", strings.Join(args, " "), err)
	}
	return s, line, nil
}

// startSelf starts a part of this binary and returns where it listens.
func (p *parts) startSelf(at *netns.Namespace, args ...string) (*proc.Process, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	s, line, err := p.start(at, self, append(args, p.wan.listen(at)...)...)
	_, addresses, _ := strings.Cut(line, "listening ")
	return s, strings.Split(addresses, ","), err
}

// transports are those that have rows, bare and with culvert.
var transports = []string{"ws", "h3", "h2"}

// startRow starts the processes of a row, given by its name.
func (p *parts) startRow(name string) (*row, error) {
	switch kind, transport, _ := strings.Cut(name, " "); {
	case name == "direct":
		return &row{name: name, brokers: p.brokers}, nil
	case name == "culvert direct":
		return p.startCulvertDirect()
	case kind == "bare" && slices.Contains(transports, transport):
		return p.startBare(transport)
	case kind == "culvert" && slices.Contains(transports, transport):
		return p.startCulvert(transport)
	}
	return nil, fmt.Errorf("no row is called %q; the rows are %s", name, strings.Join(rowNames, ", "))
}

func (p *parts) startBare(transport string) (*row, error) {
	gateway, at, err := p.startSelf(p.wan.server(), "bare-gateway", "-cert", p.file("cert.pem"), "-key", p.file("key.pem"))
	if err != nil {
		return nil, err
	}
	agent, brokers, err := p.startSelf(p.wan.client(), "bare-agent", "-transport", transport, "-gateway", at[0], "-ca", p.file("cert.pem"), "-to", strings.Join(p.brokers, ","))
	return &row{name: "bare " + transport, brokers: brokers, agent: agent, gateway: gateway}, err
}

func (p *parts) startCulvert(transport string) (*row, error) {
	gateway, line, err := p.start(p.wan.server(), p.culvert, "gateway", "--listen", net.JoinHostPort(p.wan.host(p.wan.server()), "0"), "--bootstrap", strings.Join(p.brokers, ","),
		"--tls-cert-file", p.file("cert.pem"), "--tls-key-file", p.file("key.pem"), "--insecure-no-auth", "--admin-listen", "none")
	if err != nil {
		return nil, err
	}
	at := word(line, "listening on ")
	agent, brokers, err := p.startAgent("--gateway-url", "https://"+at, "--gateway-ca-file", p.file("cert.pem"), "--transport", transport)
	return &row{name: "culvert " + transport, bare: "bare " + transport, brokers: brokers, agent: agent, gateway: gateway}, err
}

func (p *parts) startCulvertDirect() (*row, error) {
	agent, brokers, err := p.startAgent("--gateway-url", "tcp://"+strings.Join(p.brokers, ","))
	return &row{name: "culvert direct", brokers: brokers, agent: agent}, err
}

// startAgent starts culvert agent and asks it for the brokers.
func (p *parts) startAgent(args ...string) (*proc.Process, []string, error) {
	args = append([]string{"agent", "--listen", "127.0.0.1:0", "--state-file", "none", "--admin-listen", "none"}, args...)
	ports, err := p.wan.ports(brokerCount)
	if err != nil {
		return nil, nil, err
	}
	for id, ln := range ports {
		args = append(args, "--node-address", fmt.Sprintf("%d=%s", id, ln.Addr()))
		ln.Close() // for the agent to take
	}
	agent, line, err := p.start(p.wan.client(), p.culvert, args...)
	if err != nil {
		return nil, nil, err
	}
	brokers, err := p.wan.discover(word(line, "bootstrap "))
	if err != nil {
		err = fmt.Errorf("ask the agent for the brokers: %w\n%s", err, agent.Output())
	}
	return agent, brokers, err
}

// word returns the text after before, up to a space or a comma.
func word(line, before string) string {
	_, after, _ := strings.Cut(line, before)
	return after[:max(0, strings.IndexAny(after+" ", " ,"))]
}

func (p *parts) file(name string) string { return filepath.Join(p.dir, name) }

// writeCertificate writes a self-signed certificate for loopback.
func (p *parts) writeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.ParseIP(loopback), net.ParseIP(netns.ServerIP)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(p.file("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(p.file("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
}

// build builds culvert.
func (p *parts) build() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	p.culvert = p.file("culvert")
	_, err := proc.Run(ctx, exec.Command("go", "build", "-o", p.culvert, "github.com/culvert-proxy/culvert/cmd/culvert"))
	return err
}
