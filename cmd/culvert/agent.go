package main

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// stateFileAuto is the --state-file that we choose a place for.
	stateFileAuto = "auto"
	// stateFileNone is the --state-file that keeps nothing, as an empty one does.
	stateFileNone = "none"
)

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

	Transport       string `group:"The way to the gateway" placeholder:"NAME" default:"auto" help:"auto, h3 or ws."`
	GatewayCAFile   string `group:"The way to the gateway" placeholder:"FILE" help:"Believe a gateway whose certificate these have signed, not those that the system trusts."`
	GatewayCertFile string `group:"The way to the gateway" placeholder:"FILE" help:"Certificate to show to the gateway."`
	GatewayKeyFile  string `group:"The way to the gateway" placeholder:"FILE" help:"Its key."`

	ListenTLSCertFile  string `group:"TLS with the clients" placeholder:"FILE" help:"Speak TLS to clients, with this certificate."`
	ListenTLSKeyFile   string `group:"TLS with the clients" placeholder:"FILE" help:"Its key."`
	ListenClientCAFile string `group:"TLS with the clients" placeholder:"FILE" help:"Let in only clients that show a certificate which these have signed."`

	brokerFlags

	AdminListen  string        `group:"The process" placeholder:"ADDRESS" default:"127.0.0.1:9464" help:"/metrics, /healthz and /readyz; none: nowhere."`
	DrainTimeout time.Duration `group:"The process" placeholder:"TIME" default:"25s" help:"How long connections may take to end when the process is told to stop."`
}

// agentCmd is culvert agent.
type agentCmd struct{ agentFlags }

func (*agentCmd) Help() string {
	return `Example:
  culvert agent --gateway-url https://kafka.example.com --token-file token.txt
  kcat -L -b 127.0.0.1:9092`
}

// Run serves until the process is told to stop.
func (c *agentCmd) Run(a *app) error {
	plan, err := c.check()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	agent, err := c.build(plan, registry, a.log)
	if err != nil {
		return err
	}
	c.warn(plan, a.log)
	ctx, stop := untilSignal(a.stderr)
	defer stop()
	admin, err := listenAdmin(c.AdminListen, registry, agent.Ready, a.log)
	if err != nil {
		return err
	}
	agent.Listening = func(bootstrap []string) {
		fmt.Fprintf(a.stderr, "culvert agent ready: bootstrap %s, brokers from port %d, %s, %s\n",
			strings.Join(bootstrap, ", "), c.BrokerPortBase, plan.way(), admin)
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
		f.checkGateways, f.checkListens, f.checkNodes, f.checkTransport, f.checkTLS, f.checkPorts,
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
		"--transport": f.Transport != tunnel.TransportAuto,
	})
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
	p.expect, err = parseNodeIDs(values(f.ExpectNodes))
	return err
}

func (f *agentFlags) checkTransport(*agentPlan) error {
	switch f.Transport {
	case tunnel.TransportAuto, tunnel.TransportH3, tunnel.TransportWS:
		return nil
	case "h2":
		return wrong("use auto, h3 or ws", "--transport h2: this version does not have it")
	}
	return wrong("use auto, h3 or ws", "--transport %s: no such transport", f.Transport)
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

// checkPorts refuses ports that do not exist and ports that two listeners of
// this agent would need.
func (f *agentFlags) checkPorts(p *agentPlan) error {
	if f.BrokerPortBase < 1 || f.BrokerPortBase > maxPort {
		return wrong("leave it out for 19092", "--broker-port-base %d: ports are between 1 and %d", f.BrokerPortBase, maxPort)
	}
	if err := checkAdmin(f.AdminListen); err != nil {
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

// parseGateways reads the URLs: of gateways, or of brokers to dial from here. A
// comma separates brokers as it does URLs, so what has no scheme continues a
// list of brokers.
func parseGateways(list []string) (gateways []*url.URL, brokers []string, err error) {
	direct := false
	for _, s := range values(strings.Split(strings.Join(list, ","), ",")) {
		hosts, isTCP := strings.CutPrefix(s, "tcp://")
		if isTCP || direct && !strings.Contains(s, "://") {
			direct = true
			brokers = append(brokers, strings.TrimSuffix(hosts, "/"))
			continue
		}
		direct = false
		u, err := parseGateway(s)
		if err != nil {
			return nil, nil, err
		}
		gateways = append(gateways, u)
	}
	switch {
	case len(gateways) == 0 && len(brokers) == 0:
		return nil, nil, wrong("give the gateway's, as in --gateway-url https://kafka.example.com, or tcp://BROKER:PORT for no tunnel", "--gateway-url is missing")
	case len(gateways) > 0 && len(brokers) > 0:
		return nil, nil, wrong("start one agent for each", "--gateway-url %s and tcp://%s: an agent goes through gateways or to brokers, not both",
			gateways[0], strings.Join(brokers, ","))
	}
	return gateways, brokers, nil
}

func parseGateway(s string) (*url.URL, error) {
	const form = "write it as https://kafka.example.com, https://kafka.example.com:8443/prefix or tcp://kafka-0:9092"
	u, err := url.Parse(s)
	if err != nil {
		return nil, wrong(form, "--gateway-url %s: it is no URL", s)
	}
	switch {
	case u.Scheme == "http":
		return nil, wrong(fmt.Sprintf("is it https://%s? A gateway without TLS is reached through the ingress that ends TLS for it", strings.TrimSuffix(u.Host, ":80")),
			"--gateway-url %s: tokens and records would go unencrypted", s)
	case u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		return nil, wrong(form, "--gateway-url %s: it is no https:// URL", s)
	case u.User != nil:
		return nil, wrong("put the token into a file: --token-file", "--gateway-url %s: a URL is no place for secrets", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, wrong(form, "--gateway-url %s: it has a query or a fragment", s)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if _, _, err := splitAddress("host:"+port, 1); err != nil {
			return nil, wrong(form, "--gateway-url %s: %w", s, err)
		}
	}
	return u, nil
}

// build reads the files that settings name, and puts the agent together.
func (f *agentFlags) build(p *agentPlan, registry *prometheus.Registry, log *slog.Logger) (*proxy.Agent, error) {
	m := metrics.New(registry, metrics.Agent, version())
	listenTLS, err := f.listenTLS(log)
	if err != nil {
		return nil, err
	}
	upstream, err := f.upstream(p, m, log)
	if err != nil {
		return nil, err
	}
	stateFile, err := f.stateFile(log)
	if err != nil {
		return nil, err
	}
	return &proxy.Agent{
		Version: version(), Listens: p.listens, BrokerPortBase: f.BrokerPortBase, NodeAddresses: p.nodes, ExpectNodes: p.expect,
		StateFile: stateFile, RelayUnknownAPIs: f.RelayUnknownAPIs, ListenTLS: listenTLS, Upstream: upstream,
		DrainTimeout: f.DrainTimeout, Metrics: m, Logger: log,
	}, nil
}

func (f *agentFlags) listenTLS(log *slog.Logger) (*tls.Config, error) {
	if f.ListenTLSCertFile == "" {
		return nil, nil
	}
	config, err := proxy.ServerTLS{
		CertFile:     proxy.File{Path: f.ListenTLSCertFile, Flag: "--listen-tls-cert-file"},
		KeyFile:      proxy.File{Path: f.ListenTLSKeyFile, Flag: "--listen-tls-key-file"},
		ClientCAFile: proxy.File{Path: f.ListenClientCAFile, Flag: "--listen-client-ca-file"},
		Logger:       log,
	}.Config()
	if err != nil {
		return nil, badFile(err)
	}
	return config, nil
}

func (f *agentFlags) upstream(p *agentPlan, m *metrics.Metrics, log *slog.Logger) (proxy.Upstream, error) {
	if len(p.gateways) == 0 {
		brokers, err := f.brokerFlags.build(p.brokers, nil, log)
		if err != nil {
			return nil, err
		}
		brokers.Metrics = m
		return proxy.NewDirect(brokers), nil
	}
	var token func() (string, error)
	if f.TokenFile != "" {
		tokens, err := proxy.NewTokenFile(proxy.File{Path: f.TokenFile, Flag: "--token-file"}, log)
		if err != nil {
			return nil, badFile(err)
		}
		token = tokens.First
	}
	files := proxy.ClientTLS{
		CAFile:   proxy.File{Path: f.GatewayCAFile, Flag: "--gateway-ca-file"},
		CertFile: proxy.File{Path: f.GatewayCertFile, Flag: "--gateway-cert-file"},
		KeyFile:  proxy.File{Path: f.GatewayKeyFile, Flag: "--gateway-key-file"},
		Logger:   log,
	}
	var dialers []*tunnel.Dialer
	for _, u := range p.gateways {
		config, err := files.Config(u.Hostname())
		if err != nil {
			return nil, badFile(err)
		}
		dialers = append(dialers, &tunnel.Dialer{
			URL: u, Transport: f.Transport, TLS: config, Token: token, Logger: log, OnFallback: m.Fallback,
			OnDial: func(transport string, err error, took time.Duration) {
				m.TunnelDial(transport, metrics.ResultOf(err), took)
			},
		})
	}
	return proxy.NewTunnel(dialers...), nil
}

// stateFile is where the agent remembers its nodes; "" means nowhere. A place
// that we chose ourselves must not be an obstacle: containers often have none.
func (f *agentFlags) stateFile(log *slog.Logger) (string, error) {
	switch f.StateFile {
	case "", stateFileNone:
		return "", nil
	case stateFileAuto:
		file := f.defaultStateFile()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); file == stateFileNone || err != nil {
			log.Info("nodes are not remembered over a restart: no cache directory", "err", err)
			return "", nil
		}
		return file, nil
	}
	if info, err := os.Stat(f.StateFile); err == nil && info.IsDir() {
		return "", wrong("name a file in it", "--state-file %s: it is a directory", f.StateFile)
	}
	return f.StateFile, nil
}

// defaultStateFile is a file of its own for what this agent is: two agents on
// one machine, for two clusters, must not mix their nodes.
func (f *agentFlags) defaultStateFile() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return stateFileNone
	}
	h := sha256.New()
	io.WriteString(h, strings.Join(f.GatewayURL, ",")+"\n"+strings.Join(f.Listen, ","))
	return filepath.Join(dir, "culvert", fmt.Sprintf("agent-%x.json", h.Sum(nil)[:6]))
}

// warn says what is allowed and seldom meant.
func (f *agentFlags) warn(p *agentPlan, log *slog.Logger) {
	for _, l := range p.listens {
		if !isLoopback(bindHost(l)) && f.ListenClientCAFile == "" {
			log.Warn("whoever reaches this listener uses this agent's credentials; --listen-client-ca-file asks clients for certificates",
				"listener", l.Bind)
		}
	}
}
