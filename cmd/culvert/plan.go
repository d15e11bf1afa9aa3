package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// maxCarriers bounds --carriers: each may hold the connection window in memory.
const maxCarriers = 256

// agentFlags are the settings of the agent's end.
type agentFlags struct {
	GatewayURL []string `group:"The three that matter" placeholder:"URL" help:"https://HOST[:PORT][/PREFIX] of the gateway; may be repeated: tried in order. Or tcp://BROKER:PORT[,BROKER:PORT] for no tunnel: the brokers are dialled from here."`
	Listen     []string `group:"The three that matter" placeholder:"BIND[=HOST]" default:"127.0.0.1:9092" help:"Bootstrap address for clients; may be repeated. HOST is what responses tell clients to connect to, where that is not BIND's own host."`
	TokenFile  string   `group:"The three that matter" placeholder:"FILE" help:"File whose first token opens the gateway."`

	BrokerPortBase   int      `group:"Addresses of the brokers" placeholder:"PORT" default:"19092" help:"Node N is reached on this port plus N, on the host of each --listen."`
	NodeAddress      []string `group:"Addresses of the brokers" placeholder:"ID=BIND:PORT[=HOST:PORT]" help:"Another address for a node whose id does not fit; may be repeated."`
	ExpectNodes      []string `group:"Addresses of the brokers" placeholder:"IDS" help:"Node ids, as in 0-5,1001-1003, whose ports are open from the start. Several agents behind one address need it."`
	StateFile        string   `group:"Addresses of the brokers" placeholder:"FILE" default:"auto" help:"Where to remember nodes over a restart; auto: in the user's cache directory, none: nowhere."`
	RelayUnknownAPIs bool     `name:"relay-unknown-apis" group:"Addresses of the brokers" help:"Relay API keys that are not Kafka's own. Their responses are not looked at, and may name addresses."`

	Transport       string `group:"The way to the gateway" placeholder:"NAME" default:"auto" help:"auto, h3, ws or h2."`
	Carriers        int    `group:"The way to the gateway" placeholder:"N" default:"16" help:"Over h3 this many Kafka connections get a QUIC connection of their own; more of them share. Over h2 it is eight to each."`
	GatewayCAFile   string `group:"The way to the gateway" placeholder:"FILE" help:"Believe a gateway whose certificate these have signed, not those that the system trusts."`
	GatewayCertFile string `group:"The way to the gateway" placeholder:"FILE" help:"Certificate to show to the gateway."`
	GatewayKeyFile  string `group:"The way to the gateway" placeholder:"FILE" help:"Its key."`

	snowflakeFlags

	ListenTLSCertFile  string `group:"TLS with the clients" placeholder:"FILE" help:"Speak TLS to clients, with this certificate."`
	ListenTLSKeyFile   string `group:"TLS with the clients" placeholder:"FILE" help:"Its key."`
	ListenClientCAFile string `group:"TLS with the clients" placeholder:"FILE" help:"Let in only clients that show a certificate which these have signed."`

	brokerFlags

	AdminListen  string        `group:"The process" placeholder:"ADDRESS" default:"127.0.0.1:9464" help:"/metrics, /healthz, /readyz and, on loopback alone, /tunnel; none: nowhere."`
	AdminHost    []string      `group:"The process" placeholder:"NAME" help:"Answer there to this host name too, not only to localhost and IP addresses; may be repeated."`
	DrainTimeout time.Duration `group:"The process" placeholder:"TIME" default:"25s" help:"How long connections may take to end when the process is told to stop."`

	MaxConnections int `group:"The process" placeholder:"N" default:"10000" help:"Reset clients beyond this many; 0: no limit."`
}

// agentPlan is what the flags mean. Nothing has been opened for it yet.
type agentPlan struct {
	listens  []proxy.Listen
	nodes    map[int32]proxy.NodeAddress
	expect   []int32
	gateways []*url.URL // none: the brokers are dialled from here
	brokers  []string

	snowflake snowflakePlan
	ingresses []*snowflake.Ingress // that were made for gateways
}

// close ends what was made of the plan and belongs to nobody else.
func (p *agentPlan) close() {
	for _, i := range p.ingresses {
		i.Close()
	}
}

// way says where connections go.
func (p *agentPlan) way() string {
	if len(p.gateways) == 0 {
		return "brokers at " + strings.Join(p.brokers, ", ")
	}
	var urls []string
	for _, u := range p.gateways {
		urls = append(urls, u.String())
	}
	return "gateway " + strings.Join(urls, ", ")
}

// check reads the settings that have a form and refuses those that do not go
// together.
func (f *agentFlags) check() (*agentPlan, error) {
	p := &agentPlan{}
	for _, step := range []func(*agentPlan) error{
		f.checkGateways, f.checkListens, f.checkNodes, func(*agentPlan) error { return checkTransport(f.Transport) }, f.checkCarriers, f.checkSnowflake, f.checkTLS, f.checkPorts, f.checkConnections,
	} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (f *agentFlags) checkGateways(p *agentPlan) (err error) {
	if p.gateways, p.brokers, err = parseGateways(f.GatewayURL); err != nil {
		return err
	}
	if len(p.gateways) == 0 {
		return f.checkDirect(p)
	}
	for _, u := range p.gateways {
		if _, err := tunnel.ProxyFromEnvironment(u); err != nil {
			return wrong("", "--gateway-url %s: %w", u.Redacted(), err)
		}
	}
	if set := f.brokerFlags.given(); len(set) > 0 {
		return wrong("give it to culvert gateway; an agent dials brokers only with --gateway-url tcp://BROKER:PORT",
			"%s: the gateway dials the brokers, not this agent", strings.Join(set, ", "))
	}
	return nil
}

// checkDirect refuses settings of a tunnel where there is none.
func (f *agentFlags) checkDirect(p *agentPlan) error {
	set := given(map[string]bool{
		"--token-file": f.TokenFile != "", "--gateway-ca-file": f.GatewayCAFile != "",
		"--gateway-cert-file": f.GatewayCertFile != "", "--gateway-key-file": f.GatewayKeyFile != "",
		"--transport": f.Transport != tunnel.TransportAuto, "--carriers": f.Carriers != tunnel.DefaultCarriers,
	})
	set = append(set, f.snowflakeFlags.given()...)
	if len(set) > 0 {
		return wrong("leave it out, or give the https:// URL of a gateway; for TLS to the brokers there are --broker-tls and --broker-ca-file",
			"%s: --gateway-url tcp://%s leads to no gateway", strings.Join(set, ", "), strings.Join(p.brokers, ","))
	}
	if err := (&proxy.Brokers{Bootstrap: p.brokers}).Validate(); err != nil {
		return wrong("write it as tcp://kafka-0:9092,kafka-1:9092", "--gateway-url tcp://%s: %w", strings.Join(p.brokers, ","), err)
	}
	return f.brokerFlags.check()
}

func (f *agentFlags) checkListens(p *agentPlan) error {
	for _, s := range values(f.Listen) {
		l, err := parseListen(s)
		if err != nil {
			return err
		}
		p.listens = append(p.listens, l)
	}
	if len(p.listens) == 0 {
		return wrong("give one: --listen 127.0.0.1:9092", "--listen is empty: there is nothing for clients to connect to")
	}
	for i, l := range p.listens {
		for _, m := range p.listens[:i] {
			if sameHost(bindHost(l), bindHost(m)) {
				return wrong("give each a host of its own, as 127.0.0.1 and 172.17.0.1=host.docker.internal",
					"--listen %s and --listen %s are on the same host: their brokers' ports would be the same", m.Bind, l.Bind)
			}
		}
	}
	return nil
}

func (f *agentFlags) checkNodes(p *agentPlan) (err error) {
	p.nodes = map[int32]proxy.NodeAddress{}
	for _, s := range values(f.NodeAddress) {
		id, address, err := parseNodeAddress(s)
		if err != nil {
			return err
		}
		if _, again := p.nodes[id]; again {
			return wrong("leave one out", "--node-address %s: node %d has another one already", s, id)
		}
		p.nodes[id] = address
	}
	if len(p.nodes) > 0 && len(p.listens) > 1 {
		return wrong("give each --listen an agent of its own, or another --broker-port-base to both",
			"--node-address with several --listen: clients of all but the first would be told addresses of the first")
	}
	p.expect, err = parseNodeIDs(values(f.ExpectNodes))
	return err
}

func (f *agentFlags) checkConnections(*agentPlan) error {
	if f.MaxConnections < 0 {
		return wrong("0 is no limit", "--max-connections %d: it may not be negative", f.MaxConnections)
	}
	return nil
}

func (f *agentFlags) checkCarriers(*agentPlan) error {
	if f.Carriers < 1 || f.Carriers > maxCarriers {
		return wrong("the default is 16", "--carriers %d: want 1 to %d", f.Carriers, maxCarriers)
	}
	return nil
}

func checkTransport(name string) error {
	switch name {
	case tunnel.TransportAuto, tunnel.TransportH3, tunnel.TransportWS, tunnel.TransportH2:
		return nil
	}
	return wrong("use auto, h3, ws or h2", "--transport %s: no such transport", name)
}

func (f *agentFlags) checkTLS(*agentPlan) error {
	if f.ListenClientCAFile != "" && f.ListenTLSCertFile == "" {
		return wrong("add --listen-tls-cert-file and --listen-tls-key-file",
			"--listen-client-ca-file %s: without TLS clients show no certificates", f.ListenClientCAFile)
	}
	return errors.Join(
		checkPair("--gateway-cert-file", f.GatewayCertFile, "--gateway-key-file", f.GatewayKeyFile),
		checkPair("--listen-tls-cert-file", f.ListenTLSCertFile, "--listen-tls-key-file", f.ListenTLSKeyFile),
	)
}

// warn says what is allowed and seldom meant.
func (f *agentFlags) warn(p *agentPlan, log *slog.Logger) {
	for _, l := range p.listens {
		if !isLoopback(bindHost(l)) && f.ListenClientCAFile == "" {
			log.Warn("whoever reaches this listener uses this agent's credentials; --listen-client-ca-file asks clients for certificates",
				"listener", l.Bind)
		}
	}
	for _, i := range p.ingresses {
		if !snowflake.IsHost(i.Host) && !isLoopback(i.Host) {
			log.Warn("credentials for Snowflake's ingress go to this host, which is no host name of Snowflake's", "host", i.Host)
		}
	}
}

// checkPorts refuses ports that do not exist and ports that two listeners of
// this agent would need.
func (f *agentFlags) checkPorts(p *agentPlan) error {
	if f.BrokerPortBase < 1 || f.BrokerPortBase > maxPort {
		return wrong("leave it out for 19092", "--broker-port-base %d: ports are between 1 and %d", f.BrokerPortBase, maxPort)
	}
	if err := checkAdmin(f.AdminListen, f.AdminHost); err != nil {
		return err
	}
	nodes, err := f.nodeSockets(p)
	if err != nil {
		return err
	}
	sockets := f.ownSockets(p)
	for i, s := range sockets {
		if t, clash := s.clash(nodes); clash {
			return wrong("choose another port, or say with --expect-nodes which node ids there are", "%s: port %d is that of %s", s.why, s.port, t.why)
		}
		if t, clash := s.clash(sockets[:i]); clash {
			return wrong("choose another port for one of them", "%s: port %d is that of %s", s.why, s.port, t.why)
		}
	}
	return nil
}

// ownSockets are the listeners that belong to no port range.
func (f *agentFlags) ownSockets(p *agentPlan) []socket {
	var all []socket
	add := func(flag, address, written string) {
		if host, port, err := splitAddress(address, 0); err == nil {
			all = append(all, socket{host, port, flag + " " + written})
		}
	}
	for _, l := range p.listens {
		add("--listen", l.Bind, l.Bind)
	}
	for _, id := range sortedIDs(p.nodes) {
		add("--node-address", p.nodes[id].Bind, fmt.Sprintf("%d=%s", id, p.nodes[id].Bind))
	}
	add("--admin-listen", f.AdminListen, f.AdminListen)
	return all
}

// nodeSockets are the listeners of the nodes that are expected or, when none
// are, of those that small clusters have.
func (f *agentFlags) nodeSockets(p *agentPlan) ([]socket, error) {
	ids := p.expect
	for id := int32(0); len(p.expect) == 0 && id < assumedNodes; id++ {
		ids = append(ids, id)
	}
	var all []socket
	for _, id := range ids {
		if _, elsewhere := p.nodes[id]; elsewhere {
			continue
		}
		port := f.BrokerPortBase + int(id)
		if port > maxPort && len(p.expect) > 0 {
			return nil, wrong(fmt.Sprintf("lower --broker-port-base, or place the node with --node-address %d=127.0.0.1:PORT", id),
				"--expect-nodes %d: with --broker-port-base %d it would listen on port %d, and ports end at %d", id, f.BrokerPortBase, port, maxPort)
		}
		for _, l := range p.listens {
			all = append(all, socket{bindHost(l), port, fmt.Sprintf("node %d (--broker-port-base %d)", id, f.BrokerPortBase)})
		}
	}
	return all, nil
}

func sortedIDs(nodes map[int32]proxy.NodeAddress) []int32 {
	var ids []int32
	for id := range nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
