package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// row is one way from the load to the brokers.
type row struct {
	name           string
	brokers        []string      // the brokers' addresses as a client sees them
	advertised     []string      // the addresses that the brokers advertise
	agent, gateway side          // empty where there is none
	cluster        *proc.Process // the brokers, which all rows share
	wan            *wan          // nil: loopback
	parts          *parts
}

// transports are those that have rows, bare and with culvert.
var transports = []string{"ws", "h3", "h2"}

// startRow starts the processes of a row, given by its name.
func (p *parts) startRow(name string) (r *row, err error) {
	kind, transport, _ := strings.Cut(name, " ")
	i := slices.IndexFunc(p.pairs, func(p pair) bool { return p.name == name })
	switch {
	case i >= 0:
		r, err = p.startPair(p.pairs[i])
	case name == "direct":
		r = &row{brokers: p.brokers}
	case kind == "bare":
		r, err = p.startBare(transport)
	case transport == "direct":
		r, err = p.startCulvertDirect(p.binaries.path(kind))
	default:
		r, err = p.startCulvert(p.binaries.path(kind), transport)
	}
	if err != nil {
		return nil, fmt.Errorf("row %s: %w", name, err)
	}
	r.name, r.cluster, r.advertised, r.wan, r.parts = name, p.cluster, p.brokers, p.wan, p
	return r, nil
}

// fresh starts the row's processes another time. The caller stops them.
func (r *row) fresh() (*row, error) { return r.parts.startRow(r.name) }

// stop ends the row's processes.
func (r *row) stop() {
	for _, p := range slices.Concat(r.agent, r.gateway) {
		p.Kill()
	}
}

// said returns the output of the row's processes.
func (r *row) said() string {
	time.Sleep(100 * time.Millisecond) // they may still be writing
	var b strings.Builder
	for _, p := range slices.Concat(r.agent, r.gateway) {
		fmt.Fprintf(&b, "\n%s", p.Output())
	}
	return b.String()
}

// compared returns the rows that the row's figures are compared with; "" where there is none.
// before is the name of the first binary of -compare.
func compared(name, before string) (bare, old string) {
	kind, transport, _ := strings.Cut(name, " ")
	if kind == "bare" || !slices.Contains(append([]string{"direct"}, transports...), transport) {
		return "", ""
	}
	if transport != "direct" {
		bare = "bare " + transport
	}
	if before != "" && kind != before {
		old = before + " " + transport
	}
	return bare, old
}

func (p *parts) startBare(transport string) (r *row, err error) {
	r = new(row)
	defer r.stopAfter(&err)
	at, err := p.startSelf(&r.gateway, p.wan.server(), "bare-gateway", "-cert", p.file("cert.pem"), "-key", p.file("key.pem"))
	if err != nil {
		return nil, err
	}
	r.brokers, err = p.startSelf(&r.agent, p.wan.client(), "bare-agent", "-transport", transport, "-gateway", at[0], "-ca", p.file("cert.pem"), "-to", strings.Join(p.brokers, ","))
	return r, err
}

func (p *parts) startCulvert(binary, transport string) (r *row, err error) {
	r = new(row)
	defer r.stopAfter(&err)
	line, err := p.start(&r.gateway, p.wan.server(), "listening", binary, "gateway", "--listen", net.JoinHostPort(p.wan.host(p.wan.server()), "0"), "--bootstrap", strings.Join(p.brokers, ","),
		"--tls-cert-file", p.file("cert.pem"), "--tls-key-file", p.file("key.pem"), "--insecure-no-auth", "--admin-listen", "none", "--max-streams", "0", "--max-streams-per-identity", "0")
	if err != nil {
		return nil, err
	}
	at := word(line, "listening on ")
	return r, p.startAgent(r, binary, "--gateway-url", "https://"+at, "--gateway-ca-file", p.file("cert.pem"), "--transport", transport)
}

func (p *parts) startCulvertDirect(binary string) (r *row, err error) {
	r = new(row)
	defer r.stopAfter(&err)
	return r, p.startAgent(r, binary, "--gateway-url", "tcp://"+strings.Join(p.brokers, ","))
}

// stopAfter ends the processes of a row that could not be started wholly.
func (r *row) stopAfter(err *error) {
	if *err != nil {
		r.stop()
	}
}

// startAgent starts culvert agent and asks it for the brokers.
func (p *parts) startAgent(r *row, binary string, args ...string) error {
	args = append([]string{"agent", "--listen", "127.0.0.1:0", "--state-file", "none", "--admin-listen", "none", "--max-connections", "0"}, args...)
	for id := range p.brokers {
		at, err := p.free(p.wan.client())
		if err != nil {
			return err
		}
		args = append(args, "--node-address", fmt.Sprintf("%d=%s", id, at))
	}
	// Older versions say that they are ready, and not that they listen.
	line, err := p.start(&r.agent, p.wan.client(), "bootstrap ", append([]string{binary}, args...)...)
	if err != nil {
		return err
	}
	if r.brokers, err = p.wan.discover(word(line, "bootstrap ")); err != nil {
		return fmt.Errorf("ask the agent for the brokers: %w%s", err, r.said())
	}
	return nil
}

// word returns the text after before, up to a space or a comma.
func word(line, before string) string {
	_, after, _ := strings.Cut(line, before)
	return after[:max(0, strings.IndexAny(after+" ", " ,"))]
}
