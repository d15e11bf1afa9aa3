package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// maxCarriers bounds --carriers: each QUIC connection may hold a flow-control window of received
// bytes in memory.
const maxCarriers = 256

// agentFlags are the settings of an agent. Doctor and config take them too, so that a command line
// that does not work needs one word changed. The order here is the order of --help.
type agentFlags struct {
	GatewayURL []string `group:"Main settings" placeholder:"URL" help:"URL of the gateway: https://HOST[:PORT][/PREFIX]; on loopback, as behind kubectl port-forward, http:// too. May be repeated: connections are spread over the gateways that share a ticket key; a gateway with another key is used only while those before it do not answer. To use no gateway, tcp://BROKER:PORT[,BROKER:PORT]: the agent connects to the brokers itself."`
	Listen     []string `group:"Main settings" placeholder:"BIND[=HOST]" default:"127.0.0.1:9092" help:"Bootstrap address for clients. May be repeated. HOST is what clients are told to connect to, if that is not BIND's host."`
	// Secrets are in files: process lists and shell histories show the values of flags.
	TokenFile string `group:"Main settings" placeholder:"FILE" help:"File whose first token authenticates this agent to the gateway."`

	// A node has the same port on every agent and after every restart, so clients may keep what
	// they were told. The default is below the ports that Linux uses for outgoing connections, from
	// 32768.
	BrokerPortBase int      `group:"Broker addresses" placeholder:"PORT" default:"19092" help:"Node N is reached on this port plus N, on the host of each --listen. If that is above 65535, it is this port plus the remainder of N divided by 9973."`
	NodeAddress    []string `group:"Broker addresses" placeholder:"ID=BIND:PORT[=HOST:PORT]" help:"Another address for one node, such as a node whose port is taken by another program or by another node. May be repeated."`
	BrokerNames    string   `group:"Broker addresses" placeholder:"TEMPLATE" help:"Reach all nodes on the port of --listen instead, told apart by TLS server names: a host name with {id} for the node id, such as broker-{id}.kafka.example.com. Clients must resolve these names. Needs --listen-tls-cert-file. HOST of --listen, or another name that the certificate lists, is the bootstrap name; HOST may have a port that clients are told: --listen 0.0.0.0:9092=kafka.example.com:443."`
	// A client may be told of a node by one agent and connect to another, which has not seen that
	// node yet.
	ExpectNodes []string `group:"Broker addresses" placeholder:"IDS" help:"Node ids whose ports are open, or whose names are known, from the start, such as 0-5,1001-1003. Needed where several agents share an address."`
	// After a restart, clients connect to ports that they were told before; these are open again at
	// once.
	StateFile string `group:"Broker addresses" placeholder:"FILE" default:"auto" help:"Where to remember nodes across restarts. auto: in the user's cache directory; none: nowhere."`
	// Off: an address in such a response would lead clients past the agent, or nowhere.
	RelayUnknownAPIs bool `name:"relay-unknown-apis" group:"Broker addresses" help:"Relay requests with API keys that are not Kafka's own. Their responses are not decoded and may contain broker addresses."`

	// What stands beside Kafka in most places: schema registries, Connect, UIs.
	Forward []string `group:"Beside Kafka" placeholder:"NAME=BIND:PORT" help:"Address for clients of something beside Kafka, such as schema-registry=127.0.0.1:8081: whatever the gateway's --forward calls by that name. May be repeated. list: print which names the gateway offers, and end."`

	Transport string `group:"Connection to the gateway" placeholder:"NAME" default:"auto" help:"auto, h3, ws or h2."`
	// The default is tunnel.DefaultCarriers: checkDirect takes another value for one that was set.
	Carriers        int    `group:"Connection to the gateway" placeholder:"N" default:"16" help:"Connections to the gateway that Kafka connections share over h3 and h2; more are opened only when all are full. Over h3, each Kafka connection has one of its own while there are enough. Over h2, eight share one before another is opened. Over ws, each has its own in any case."`
	GatewayCAFile   string `group:"Connection to the gateway" placeholder:"FILE" help:"Certificate authorities to trust for the gateway's certificate, instead of the system's."`
	GatewayCertFile string `group:"Connection to the gateway" placeholder:"FILE" help:"Client certificate for the gateway."`
	GatewayKeyFile  string `group:"Connection to the gateway" placeholder:"FILE" help:"Private key of that certificate."`

	providerFlags

	ListenTLSCertFile  string `group:"TLS with clients" placeholder:"FILE" help:"Certificate to speak TLS with clients; unset: plaintext."`
	ListenTLSKeyFile   string `group:"TLS with clients" placeholder:"FILE" help:"Private key of that certificate."`
	ListenClientCAFile string `group:"TLS with clients" placeholder:"FILE" help:"Accept only clients with a certificate from these authorities."`

	brokerFlags

	// The admin listener asks for no credentials, and /status names addresses: it is on loopback by
	// default.
	AdminListen string   `group:"Process" placeholder:"ADDRESS" default:"127.0.0.1:9464" help:"Where to serve the live page, /metrics, /healthz, /readyz and /status. none: nowhere."`
	AdminHost   []string `group:"Process" placeholder:"NAME" help:"Host name under which the admin listener answers too, besides localhost and IP addresses. May be repeated."`
	AdminPage   bool     `group:"Process" help:"Serve the live page and /status also where others can reach the admin listener. They name addresses. On loopback they are always served."`
	AdminPprof  bool     `group:"Process" help:"Serve profiles for go tool pprof below /debug/pprof/ of the admin listener, which must be on loopback."`
	// Kubernetes and Snowflake kill a process 30 s after they told it to stop; the rest is for
	// closing.
	DrainTimeout time.Duration `group:"Process" placeholder:"TIME" default:"25s" help:"How long connections may take to end after SIGTERM or SIGINT."`
	// Each connection holds a few buffers and a file descriptor. The default is that of the
	// gateway's --max-streams.
	MaxConnections int `group:"Process" placeholder:"N" default:"10000" help:"Reset client connections beyond this many; 0: no limit."`
}

// agentPlan is what the flags mean, parsed and checked. No file has been read for it and nothing
// has been opened.
type agentPlan struct {
	listens  []proxy.Listen
	nodes    map[int32]proxy.NodeAddress // of --node-address
	names    proxy.BrokerNames           // of --broker-names
	expect   []int32                     // of --expect-nodes
	gateways []*url.URL                  // empty: the agent dials brokers itself
	brokers  []string                    // those to dial then
	forwards []proxy.Forward
	list     bool // print the forwards that the gateways offer, and do nothing else

	ingresses []loginIngress // made when the dialers are, for close and logins
}

// close ends what the dialers started and do not end themselves. The caller calls it when they are
// no longer in use.
func (p *agentPlan) close() {
	for _, i := range p.ingresses {
		i.Close()
	}
}

// destination says where the agent connects to, for the line with "listening".
func (p *agentPlan) destination() string {
	if len(p.gateways) == 0 {
		return "brokers at " + strings.Join(p.brokers, ", ")
	}
	var urls []string
	for _, u := range p.gateways {
		urls = append(urls, u.String())
	}
	return "gateway " + strings.Join(urls, ", ")
}

// check parses the settings and refuses those that contradict each other. It opens nothing, so that
// a wrong command line is reported before anything else can fail. Steps run in order: checkListens
// needs what checkBrokerNames parsed, and checkPorts what checkListens and checkNodes did.
func (f *agentFlags) check() (*agentPlan, error) {
	p := &agentPlan{}
	for _, step := range []func(*agentPlan) error{
		f.checkGateways, f.checkBrokerNames, f.checkListens, f.checkNodes, f.checkForwards, f.checkTransport, f.checkProviders, f.checkTLS, f.checkPorts, f.checkConnections,
	} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// checkGateways parses --gateway-url, and refuses settings that belong to the other way of reaching
// brokers.
func (f *agentFlags) checkGateways(p *agentPlan) (err error) {
	if p.gateways, p.brokers, err = parseGateways(f.GatewayURL); err != nil {
		return err
	}
	if len(p.gateways) == 0 {
		return f.checkDirect(p)
	}
	for _, u := range p.gateways {
		if err := f.checkPlain(u); err != nil {
			return err
		}
		// A wrong HTTPS_PROXY is found here rather than by the first dial.
		if _, err := tunnel.ProxyFromEnvironment(u); err != nil {
			return wrong("", "--gateway-url %s: %w", u.Redacted(), err)
		}
	}
	if set := f.brokerFlags.given(); len(set) > 0 {
		return wrong("set it on culvert gateway; an agent dials brokers only with --gateway-url tcp://BROKER:PORT",
			"%s: the gateway dials the brokers, not this agent", strings.Join(set, ", "))
	}
	return nil
}

// checkPlain refuses settings that need TLS for a gateway that is reached without it.
func (f *agentFlags) checkPlain(u *url.URL) error {
	if u.Scheme != "http" {
		return nil
	}
	set := given(map[string]bool{
		"--gateway-ca-file": f.GatewayCAFile != "", "--gateway-cert-file": f.GatewayCertFile != "", "--gateway-key-file": f.GatewayKeyFile != "",
		"--transport " + tunnel.TransportH3: f.Transport == tunnel.TransportH3,
	})
	if len(set) == 0 {
		return nil
	}
	secure := *u
	secure.Scheme = "https"
	return wrong("did you mean "+secure.String()+"? For a gateway without TLS, remove "+strings.Join(set, ", "),
		"%s: not used over http://, and --gateway-url %s has no TLS", strings.Join(set, ", "), u)
}

// checkDirect refuses settings that need a gateway if there is none: ignoring --token-file, say,
// would look as if the connection were authenticated.
func (f *agentFlags) checkDirect(p *agentPlan) error {
	set := given(map[string]bool{
		"--token-file": f.TokenFile != "", "--gateway-ca-file": f.GatewayCAFile != "",
		"--gateway-cert-file": f.GatewayCertFile != "", "--gateway-key-file": f.GatewayKeyFile != "",
		"--forward": len(nonBlank(f.Forward)) > 0, "--transport": f.Transport != tunnel.TransportAuto, "--carriers": f.Carriers != tunnel.DefaultCarriers,
	})
	set = append(set, f.providerFlags.given()...)
	if len(set) > 0 {
		hint := "remove it, or give the https:// URL of a gateway"
		if f.GatewayCAFile+f.GatewayCertFile+f.GatewayKeyFile != "" {
			hint += "; for TLS to the brokers, use --broker-tls and --broker-ca-file"
		}
		return wrong(hint, "%s: not used without a gateway, and --gateway-url tcp://%s has none", strings.Join(set, ", "), strings.Join(p.brokers, ","))
	}
	if err := (&proxy.Brokers{Bootstrap: p.brokers}).Validate(); err != nil {
		return wrong("write it as tcp://kafka-0:9092,kafka-1:9092", "--gateway-url tcp://%s: %w", strings.Join(p.brokers, ","), err)
	}
	return f.brokerFlags.check()
}

// defaultPortBase is the default of --broker-port-base: another value was set.
const defaultPortBase = 19092

// checkBrokerNames parses --broker-names, and refuses settings of ports for brokers beside it.
func (f *agentFlags) checkBrokerNames(p *agentPlan) (err error) {
	if f.BrokerNames == "" {
		return nil
	}
	if p.names, err = proxy.ParseBrokerNames(f.BrokerNames); err != nil {
		return wrong("write a host name with {id} for the node id: --broker-names 'broker-{id}.kafka.example.com'", "--broker-names %s: %w", f.BrokerNames, err)
	}
	set := given(map[string]bool{"--node-address": len(nonBlank(f.NodeAddress)) > 0, "--broker-port-base": f.BrokerPortBase != defaultPortBase})
	switch {
	case len(set) > 0:
		return wrong("remove one of them", "--broker-names and %s: with names, brokers have no ports of their own", strings.Join(set, ", "))
	case f.ListenTLSCertFile == "":
		return wrong("add --listen-tls-cert-file and --listen-tls-key-file, with a certificate for these names",
			"--broker-names %s: clients say which name they want only if they speak TLS", f.BrokerNames)
	}
	return nil
}

// checkListens parses --listen. Several listens need several hosts, for every node has the same
// port on each of them, unless nodes have names.
func (f *agentFlags) checkListens(p *agentPlan) error {
	for _, s := range nonBlank(f.Listen) {
		l, err := parseListen(s, p.names)
		if err != nil {
			return err
		}
		p.listens = append(p.listens, l)
	}
	if len(p.listens) == 0 {
		return wrong("give an address: --listen 127.0.0.1:9092", "--listen is empty: there is nothing for clients to connect to")
	}
	for i, l := range p.listens {
		for _, m := range p.listens[:i] {
			if p.names.IsZero() && sameHost(bindHost(l), bindHost(m)) {
				return wrong("give each a host of its own, such as 127.0.0.1:9092 and 172.17.0.1:9092=host.docker.internal",
					"--listen %s and --listen %s are on the same host: their brokers' ports would be the same", m.Bind, l.Bind)
			}
		}
	}
	return nil
}

// checkNodes parses --node-address and --expect-nodes. A node address belongs to no --listen in
// particular, so with several of them clients of one would be sent to another.
func (f *agentFlags) checkNodes(p *agentPlan) (err error) {
	p.nodes = map[int32]proxy.NodeAddress{}
	for _, s := range nonBlank(f.NodeAddress) {
		id, address, err := parseNodeAddress(s)
		if err != nil {
			return err
		}
		if _, again := p.nodes[id]; again {
			return wrong("remove one of them", "--node-address %s: node %d already has an address", s, id)
		}
		p.nodes[id] = address
	}
	if len(p.nodes) > 0 && len(p.listens) > 1 {
		return wrong("run one agent per --listen, or choose a --broker-port-base that fits every node",
			"--node-address with several --listen: clients of all of them would be given the same address")
	}
	p.expect, err = parseNodeIDs(nonBlank(f.ExpectNodes))
	return err
}

// checkProviders checks the credentials for ingresses.
func (f *agentFlags) checkProviders(*agentPlan) error { return f.providerFlags.check() }

// checkConnections refuses a negative limit; 0 is none.
func (f *agentFlags) checkConnections(*agentPlan) error {
	if f.MaxConnections < 0 {
		return wrong("0 means no limit", "--max-connections %d: must not be negative", f.MaxConnections)
	}
	return nil
}

// checkTransport checks --transport and --carriers.
func (f *agentFlags) checkTransport(*agentPlan) error {
	if err := checkTransportName(f.Transport); err != nil {
		return err
	}
	if f.Carriers < 1 || f.Carriers > maxCarriers {
		return wrong("the default is 16", "--carriers %d: want 1 to %d", f.Carriers, maxCarriers)
	}
	return nil
}

// checkTransportName checks --transport, which the demo has too.
func checkTransportName(name string) error {
	known := append([]string{tunnel.TransportAuto}, tunnel.Transports()...)
	if slices.Contains(known, name) {
		return nil
	}
	last := len(known) - 1
	return wrong(fmt.Sprintf("use %s or %s", strings.Join(known[:last], ", "), known[last]), "--transport %s: no such transport", name)
}

// checkTLS refuses certificates without keys, and client certificates without TLS: ignoring
// --listen-client-ca-file would let clients in unchecked.
func (f *agentFlags) checkTLS(*agentPlan) error {
	if f.ListenClientCAFile != "" && f.ListenTLSCertFile == "" {
		return wrong("add --listen-tls-cert-file and --listen-tls-key-file",
			"--listen-client-ca-file %s: without TLS, clients cannot present certificates", f.ListenClientCAFile)
	}
	return errors.Join(
		checkPair("--gateway-cert-file", f.GatewayCertFile, "--gateway-key-file", f.GatewayKeyFile),
		checkPair("--listen-tls-cert-file", f.ListenTLSCertFile, "--listen-tls-key-file", f.ListenTLSKeyFile),
	)
}

// warn logs settings that are allowed and often a mistake.
func (f *agentFlags) warn(p *agentPlan, log *slog.Logger) {
	for _, l := range p.listens {
		if !isLoopback(bindHost(l)) && f.ListenClientCAFile == "" {
			// A client certificate is not asked for by default: few Kafka clients have one.
			log.Warn("whoever can reach this listener uses this agent's credentials; --listen-client-ca-file requires client certificates",
				"listener", l.Bind)
		}
	}
	for _, forward := range p.forwards {
		if host, _, _ := splitAddress(forward.Address, 0); !isLoopback(host) {
			log.Warn("whoever can reach this forward uses this agent's credentials", "forward", forward.Name, "listener", forward.Address)
		}
	}
	f.warnOfOtherHosts(p.gateways, log)
	said := map[string]bool{}
	for _, u := range p.gateways {
		for _, mistake := range tunnel.ProxyMistakes(u) {
			if !said[mistake.Error()] {
				log.Warn("proxy setting has no effect", "err", mistake)
			}
			said[mistake.Error()] = true
		}
	}
}

// checkPorts refuses ports out of range, and ports that two listeners of this agent would need.
func (f *agentFlags) checkPorts(p *agentPlan) error {
	if f.BrokerPortBase < 1 || f.BrokerPortBase > maxPort {
		return wrong("remove it to use 19092", "--broker-port-base %d: ports are from 1 to %d", f.BrokerPortBase, maxPort)
	}
	if err := errors.Join(checkAdmin(f.AdminListen, f.AdminHost), checkPprof(f.AdminPprof, f.AdminListen)); err != nil {
		return err
	}
	nodes, err := f.nodeSockets(p)
	if err != nil {
		return err
	}
	sockets := f.ownSockets(p)
	for i, s := range sockets {
		if t, clash := s.clash(nodes); clash {
			return wrong("choose another port, or list the node ids that exist with --expect-nodes",
				"%s: port %d is needed for %s", s.why, s.port, t.why)
		}
		if t, clash := s.clash(sockets[:i]); clash {
			return wrong("choose another port for one of them", "%s: port %d is already used by %s", s.why, s.port, t.why)
		}
	}
	return nil
}

// ownSockets are the listeners whose ports are set one by one, rather than by --broker-port-base.
func (f *agentFlags) ownSockets(p *agentPlan) []socket {
	var all []socket
	add := func(flag, address, written string) {
		if host, port, err := splitAddress(address, 0); err == nil { // --admin-listen none has no port
			all = append(all, socket{host, port, flag + " " + written})
		}
	}
	for _, l := range p.listens {
		add("--listen", l.Bind, l.Bind)
	}
	for _, id := range slices.Sorted(maps.Keys(p.nodes)) {
		add("--node-address", p.nodes[id].Bind, fmt.Sprintf("%d=%s", id, p.nodes[id].Bind))
	}
	for _, forward := range p.forwards {
		add("--forward", forward.Address, forward.Name+"="+forward.Address)
	}
	add("--admin-listen", f.AdminListen, f.AdminListen)
	return all
}

// ports are the settings that say where the agent listens for nodes.
func (f *agentFlags) ports(p *agentPlan) proxy.NodePorts {
	return proxy.NodePorts{Listens: p.listens, Base: f.BrokerPortBase, Exceptions: p.nodes, Names: p.names}
}

// nodeSockets are the listeners of the nodes of --expect-nodes or, if that is not set, of the first
// assumedNodes ids, without those that have a --node-address.
func (f *agentFlags) nodeSockets(p *agentPlan) ([]socket, error) {
	if !p.names.IsZero() {
		return nil, nil
	}
	ids := slices.Clone(p.expect)
	for id := int32(0); len(p.expect) == 0 && id < assumedNodes && f.BrokerPortBase+int(id) <= maxPort; id++ {
		ids = append(ids, id)
	}
	ids = slices.DeleteFunc(ids, func(id int32) bool { _, elsewhere := p.nodes[id]; return elsewhere })
	ports := f.ports(p)
	ports.Exceptions = nil // checkPorts compares them with all others
	if c := ports.Conflicts(ids); len(c) > 0 {
		return nil, wrong(fmt.Sprintf("give one of them another address: --node-address %d=127.0.0.1:PORT", c[0].NodeID),
			"--expect-nodes: nodes %d and %d would have the same port, %s (--broker-port-base %d)", c[0].Holder, c[0].NodeID, c[0].Bind, f.BrokerPortBase)
	}
	var all []socket
	for _, id := range ids {
		for listen := range p.listens {
			bind, _, err := ports.Of(listen, id)
			if err != nil {
				return nil, err
			}
			host, port, err := splitAddress(bind, 1)
			if err != nil {
				return nil, err
			}
			all = append(all, socket{host, port, fmt.Sprintf("node %d (--broker-port-base %d)", id, f.BrokerPortBase)})
		}
	}
	return all, nil
}

// certificates are those that an agent shows: to clients, to gateways and to brokers.
func (f *agentFlags) certificates() []credentials.Pair {
	return []credentials.Pair{
		pair("--listen-tls-cert-file", f.ListenTLSCertFile, "--listen-tls-key-file", f.ListenTLSKeyFile),
		pair("--gateway-cert-file", f.GatewayCertFile, "--gateway-key-file", f.GatewayKeyFile),
		f.certificate(),
	}
}

// credentialFiles are the files with credentials of an agent.
func (f *agentFlags) credentialFiles() []credentialFile {
	all := []credentialFile{
		{"--token-file", kindToken, f.TokenFile},
		{"--gateway-ca-file", kindCA, f.GatewayCAFile},
		{"--gateway-cert-file", kindCertificate, f.GatewayCertFile},
		{"--listen-tls-cert-file", kindCertificate, f.ListenTLSCertFile},
		{"--listen-client-ca-file", kindCA, f.ListenClientCAFile},
	}
	for _, p := range f.providers() {
		all = append(all, p.credentialFiles()...)
	}
	return append(all, f.brokerFlags.credentialFiles()...)
}

// logins returns what the status document shows of the logins at ingresses.
func (p *agentPlan) logins(now time.Time) (all []document.Credential) {
	for _, i := range p.ingresses {
		at, expires, err := i.Login()
		if at.IsZero() && err == nil {
			continue
		}
		c := document.Credential{Setting: i.loginFlag, Kind: kindLogin, Loaded: at, Expires: expires}
		if err != nil {
			c.Error = oneLine(err)
		}
		all = append(all, dated(c, now))
	}
	return all
}
