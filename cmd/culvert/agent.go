package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// stateFileAuto is the --state-file that we choose a place for.
	stateFileAuto = "auto"
	// stateFileNone is the --state-file that keeps nothing, as an empty one does.
	stateFileNone = "none"
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

// agentCmd is culvert agent.
type agentCmd struct{ agentFlags }

func (*agentCmd) Help() string {
	return `HTTPS_PROXY and NO_PROXY are honoured; h3 is not tried through a proxy.

Example:
  culvert agent --gateway-url https://kafka.example.com --token-file token.txt
  kcat -L -b 127.0.0.1:9092

With a gateway in Snowpark Container Services:
  culvert agent --gateway-url https://ab1cd-myorg-myaccount.snowflakecomputing.app \
    --token-file token.txt --snowflake-pat-file pat.txt`
}

// Run serves until the process is told to stop.
func (c *agentCmd) Run(a *app) error {
	plan, err := c.check()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	defer plan.close()
	agent, err := c.build(plan, registry, a.log)
	if err != nil {
		return err
	}
	c.warn(plan, a.log)
	ctx, stop := a.untilSignal()
	defer stop()
	var tunnels func() any
	if len(plan.gateways) > 0 {
		tunnels = func() any { return agent.Tunnels() }
	}
	admin, err := listenAdmin(c.AdminListen, status.Server{Gatherer: registry, Ready: agent.Ready, Tunnel: tunnels, Hosts: values(c.AdminHost), Logger: a.log})
	if err != nil {
		return err
	}
	agent.Listening = func(bootstrap []string) {
		a.say(slog.LevelInfo, fmt.Sprintf("culvert agent ready: bootstrap %s, brokers from port %d, %s, %s",
			strings.Join(bootstrap, ", "), c.BrokerPortBase, plan.way(), admin))
	}
	err = admin.during(ctx, agent.Run)
	if le, ok := errors.AsType[*proxy.ListenError](err); ok {
		return sayListen(le.Err, le.Address, "--listen")
	}
	return err
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
		f.checkGateways, f.checkListens, f.checkNodes, f.checkTransport, f.checkCarriers, f.checkSnowflake, f.checkTLS, f.checkPorts, f.checkConnections,
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

func bindHost(l proxy.Listen) string {
	host, _, _ := splitAddress(l.Bind, 0)
	return host
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

func (f *agentFlags) checkTransport(*agentPlan) error {
	switch f.Transport {
	case tunnel.TransportAuto, tunnel.TransportH3, tunnel.TransportWS, tunnel.TransportH2:
		return nil
	}
	return wrong("use auto, h3, ws or h2", "--transport %s: no such transport", f.Transport)
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
