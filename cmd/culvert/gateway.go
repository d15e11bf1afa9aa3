package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/audit"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// gatewayFlags are the settings of a gateway. The order here is the order of --help.
type gatewayFlags struct {
	// --listen is above 1024, so that no privileges are needed; an ingress or a service maps 443 to
	// it.
	Bootstrap []string `group:"Main settings" placeholder:"HOST:PORT" help:"Brokers to find the cluster by. May be repeated."`
	TokenFile string   `group:"Main settings" placeholder:"FILE" help:"Tokens that agents may authenticate with, one per line: NAME=TOKEN."`
	Listen    string   `group:"Main settings" placeholder:"ADDRESS" default:":8443" help:"Address for agents: TCP for ws and h2, UDP for h3."`

	TLSCertFile string `name:"tls-cert-file" group:"TLS with agents" placeholder:"FILE" help:"Certificate. Unset: plain HTTP and no h3, for a gateway behind an ingress."`
	TLSKeyFile  string `name:"tls-key-file" group:"TLS with agents" placeholder:"FILE" help:"Private key of that certificate."`

	StatelessResetKeyFile string `group:"TLS with agents" placeholder:"FILE" help:"Secret that stays the same across restarts, so that h3 agents notice a restart at once. Only for a single gateway, or behind a load balancer that routes by QUIC connection ID."`

	ClientCAFile   string   `group:"Access" placeholder:"FILE" help:"Accept only agents with a certificate from these authorities."`
	AllowUser      []string `group:"Access" placeholder:"USER" help:"Of the agents with a token or certificate, accept only requests that Snowflake's ingress says are from this user (Sf-Context-Current-User). May be repeated. Names follow SQL: alice is ALICE, and a name that is not all upper case stands in double quotes."`
	RevokeStreams  bool     `group:"Access" help:"When a token or certificate is no longer accepted, end the streams that were opened with it, between two requests. Without this flag they continue, and only new ones are refused."`
	ProxyProtocol  []string `group:"Access" placeholder:"CIDR" help:"Networks of load balancers that begin each TCP connection with a PROXY protocol header (version 1 or 2), from which the address of the client is taken. They must send one, and nobody else may. May be repeated."`
	InsecureNoAuth bool     `group:"Access" help:"Accept everyone. Then neither tokens nor certificates may be configured."`

	// Tickets normally decide what may be dialled. This is for addresses without a valid one, such
	// as those that an agent has remembered for longer than a ticket lasts.
	AllowBroker   []string `group:"Brokers to dial" placeholder:"PATTERN" help:"Addresses that may be dialled although no broker has named them: HOST:PORT or CIDR:PORT, where * in a name is one label. May be repeated."`
	TicketKeyFile string   `group:"Brokers to dial" placeholder:"FILE" help:"Keys, one per line, for tickets: signed addresses that brokers have named. The first key signs, all verify. Needed with several replicas. Unset: a random key."`

	brokerFlags

	// What stands beside Kafka in most places: schema registries, Connect, UIs.
	Forward []string `group:"Beside Kafka" placeholder:"NAME=HOST:PORT" help:"Something beside Kafka that agents may reach by this name, such as schema-registry=registry:8081. May be repeated."`

	MaxStreams int `group:"Limits" placeholder:"N" default:"10000" help:"Refuse streams beyond this many, each of which is a connection of a Kafka client; 0: no limit."`
	// One stolen or misused token must not take all of --max-streams.
	MaxStreamsPerIdentity int `group:"Limits" placeholder:"N" default:"5000" help:"The same for one identity: the name of a token or of a certificate."`
	// A spare costs as much as any stream, and serves nobody yet: eight agents may share a token.
	MaxSparesPerIdentity int    `group:"Limits" placeholder:"N" default:"256" help:"Streams that one identity may hold ready before clients connect. Each agent holds up to 8, and up to 32 for ten minutes after a burst."`
	MaxMemory            string `group:"Limits" placeholder:"SIZE" default:"auto" help:"Refuse streams while more memory than this is in use, such as 512MiB. auto: five eighths of what the process may use; none: no limit."`

	AuditLog string `group:"Process" placeholder:"FILE" help:"Write a line of JSON for each stream that has ended, and for each stream, login and connection that was refused: who, from where, to which broker, how long, how much, and why it ended. The file is appended to, and opened again when it has been renamed. -: stdout."`

	// The admin listener asks for no credentials: it is on loopback by default.
	AdminListen string   `group:"Process" placeholder:"ADDRESS" default:"127.0.0.1:9465" help:"Where to serve the live page, /metrics, /healthz, /readyz and /status. none: nowhere."`
	AdminHost   []string `group:"Process" placeholder:"NAME" help:"Host name under which the admin listener answers too, besides localhost and IP addresses. May be repeated."`
	AdminPage   bool     `group:"Process" help:"Serve the live page and /status also where others can reach the admin listener. They name addresses. On loopback they are always served."`
	AdminPprof  bool     `group:"Process" help:"Serve profiles for go tool pprof below /debug/pprof/ of the admin listener, which must be on loopback."`
	// Kubernetes and Snowflake kill a process 30 s after they told it to stop; the rest is for
	// closing.
	DrainTimeout time.Duration `group:"Process" placeholder:"TIME" default:"25s" help:"How long streams may take to end after SIGTERM or SIGINT."`
}

// maxLinger is how long a draining gateway goes on telling newcomers that it drains after its last
// stream has ended. Load balancers need about that long to notice; whoever they route here later
// finds nothing listening.
const maxLinger = 2 * time.Second

// gatewayCmd is culvert gateway.
type gatewayCmd struct{ gatewayFlags }

func (*gatewayCmd) Help() string {
	return `Example:
  echo "laptop=$(openssl rand -hex 32)" > tokens.txt
  culvert gateway --bootstrap kafka-0:9092,kafka-1:9092 --token-file tokens.txt \
    --tls-cert-file cert.pem --tls-key-file key.pem`
}

// Run serves until a signal ends ctx and streams have drained.
func (c *gatewayCmd) Run(ctx context.Context, a *app) error {
	// What can be wrong is found before a port opens: settings by check, the content of files by
	// build.
	plan, err := c.check()
	if err != nil {
		return err
	}
	overview, log := newOverview(a.log)
	registry := prometheus.NewRegistry()
	gateway, err := c.build(plan, registry, log)
	if err != nil {
		return err
	}
	c.warn(plan, log)
	if gateway.Audit, err = c.openAuditLog(gateway.Metrics, log); err != nil {
		return err
	}
	defer gateway.Audit.Close()
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	watched, err := watchCertificates(ctx, gateway.Metrics, overview, log, c.certificates()...)
	if err != nil {
		return err
	}
	defer watched()
	tcp, udp, err := c.listen(ctx)
	if err != nil {
		return err
	}
	overview.of, overview.files = gateway.Status, givenFiles(c.credentialFiles())
	admin, err := listenAdmin(c.AdminListen, c.AdminPage, status.Server{
		Names:    flagOf,
		Gatherer: registry, Ready: gateway.Ready, Status: overview.document, Missing: gateway.Missing, Profiles: c.AdminPprof, Hosts: nonBlank(c.AdminHost), Logger: log,
	})
	if err != nil {
		closeAll(tcp, udp)
		return err
	}
	overview.admin = admin
	a.say(fmt.Sprintf("culvert gateway listening on %s (%s), bootstrap %s%s, %s",
		tcp.Addr(), c.transports(), strings.Join(gateway.Brokers.Bootstrap, ", "), namedForwards(plan.forwards), admin))
	gateway.Answered = func(broker net.Addr, took time.Duration) {
		a.say(fmt.Sprintf("culvert gateway ready: the broker at %v answered in %v", broker, roundDuration(took)))
		overview.events.Note("culvert gateway ready")
	}
	manager := newServiceManager(log)
	manager.listening()
	return manager.during(ctx, c.DrainTimeout, gateway.Missing, func(ctx context.Context) error {
		return admin.during(ctx, func(ctx context.Context) error { return gateway.Run(ctx, tcp, udp) })
	})
}

// transports is what the line with "listening" says that agents may use. Without a certificate there
// is no h3, which needs TLS.
func (f *gatewayFlags) transports() string {
	if f.TLSCertFile == "" {
		return "ws, h2 behind an ingress"
	}
	return "h3, ws, h2"
}

// gatewayPlan is what the flags mean, parsed and checked. No file has been read for it and nothing
// has been opened.
type gatewayPlan struct {
	bootstrap, allowBroker, allowUser []string
	forwards                          []proxy.Forward
	limits                            tunnel.Limits
	proxyProtocol                     []netip.Prefix
}

// check parses the settings and refuses those that contradict each other. It opens nothing, so that
// a wrong command line is reported before anything else can fail.
func (f *gatewayFlags) check() (*gatewayPlan, error) {
	p := &gatewayPlan{bootstrap: nonBlank(f.Bootstrap), allowBroker: nonBlank(f.AllowBroker), allowUser: nonBlank(f.AllowUser)}
	for _, step := range []func(*gatewayPlan) error{f.checkBrokers, f.checkForwards, f.checkListen, f.checkProxyProtocol, f.checkTLS, f.checkAuth, f.checkKeys, f.checkLimits} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// checkBrokers validates twice, so that an error of the second time is about --allow-broker.
func (f *gatewayFlags) checkBrokers(p *gatewayPlan) error {
	if len(p.bootstrap) == 0 {
		return wrong("name one or more brokers of the cluster: --bootstrap kafka-0:9092,kafka-1:9092", "--bootstrap is missing")
	}
	if err := (&proxy.Brokers{Bootstrap: p.bootstrap}).Validate(); err != nil {
		return wrong("write it as --bootstrap kafka-0:9092,kafka-1:9092", "--bootstrap: %w", err)
	}
	if err := (&proxy.Brokers{Bootstrap: p.bootstrap, Allow: p.allowBroker}).Validate(); err != nil {
		return wrong("write it as --allow-broker '*.kafka.internal:9092' or 10.0.0.0/8:9092", "--allow-broker: %w", err)
	}
	return f.brokerFlags.check()
}

// checkListen refuses ports that --listen and --admin-listen would both need.
func (f *gatewayFlags) checkListen(*gatewayPlan) error {
	host, port, err := splitAddress(f.Listen, 0)
	if err != nil {
		return wrong("write it as --listen :8443", "--listen %s: %w", f.Listen, err)
	}
	if err := errors.Join(checkAdmin(f.AdminListen, f.AdminHost), checkPprof(f.AdminPprof, f.AdminListen)); err != nil {
		return err
	}
	adminHost, adminPort, err := splitAddress(f.AdminListen, 0)
	if err == nil && (socket{host, port, ""}).overlaps(socket{adminHost, adminPort, ""}) {
		return wrong("choose another port for one of them",
			"--admin-listen %s: port %d is already used by --listen %s", f.AdminListen, port, f.Listen)
	}
	return nil
}

// checkProxyProtocol parses the networks of load balancers.
func (f *gatewayFlags) checkProxyProtocol(p *gatewayPlan) error {
	for _, s := range nonBlank(f.ProxyProtocol) {
		network, err := parseNetwork(s)
		if err != nil {
			return wrong("write it as --proxy-protocol 10.0.0.0/8, or as a single address", "--proxy-protocol %s: %w", s, err)
		}
		p.proxyProtocol = append(p.proxyProtocol, network)
	}
	return nil
}

// checkTLS refuses flags that have no effect without TLS. Ignoring --client-ca-file would let
// agents in unchecked.
func (f *gatewayFlags) checkTLS(*gatewayPlan) error {
	if f.ClientCAFile != "" && f.TLSCertFile == "" {
		return wrong("add --tls-cert-file and --tls-key-file; behind an ingress that terminates TLS, use --token-file",
			"--client-ca-file %s: without TLS, agents cannot present certificates", f.ClientCAFile)
	}
	if f.StatelessResetKeyFile != "" && f.TLSCertFile == "" {
		return wrong("remove it, or add --tls-cert-file and --tls-key-file",
			"--stateless-reset-key-file %s: h3 needs TLS, which is off", f.StatelessResetKeyFile)
	}
	return checkPair("--tls-cert-file", f.TLSCertFile, "--tls-key-file", f.TLSKeyFile)
}

// checkAuth refuses to start without access control unless that is asked for by name: a gateway
// that anyone may use must be somebody's decision, not a forgotten flag.
func (f *gatewayFlags) checkAuth(p *gatewayPlan) error {
	for i, user := range p.allowUser {
		name, err := credentials.ParseUser(user)
		if err != nil {
			return wrong("write it as in SQL: --allow-user ALICE, or --allow-user '\"alice\"' for a name that is not all upper case",
				"--allow-user %s: %w", user, err)
		}
		p.allowUser[i] = name
	}
	set := given(map[string]bool{"--token-file": f.TokenFile != "", "--client-ca-file": f.ClientCAFile != ""})
	switch {
	case len(p.allowUser) > 0 && len(set) == 0:
		return wrong("add --token-file; whoever reaches this gateway without passing the ingress can claim to be any user",
			"--allow-user only restricts whom --token-file or --client-ca-file accept, and neither is set")
	case len(set) == 0 && !f.InsecureNoAuth:
		return wrong("add --token-file or --client-ca-file; to accept everyone who can reach this gateway, set --insecure-no-auth",
			"neither --token-file nor --client-ca-file is set: anyone could connect")
	case f.InsecureNoAuth && f.RevokeStreams:
		return wrong("remove one of them", "--revoke-streams: with --insecure-no-auth there is nothing to revoke")
	case len(set) > 0 && f.InsecureNoAuth:
		return wrong("remove --insecure-no-auth", "--insecure-no-auth accepts everyone, and %s does not", strings.Join(set, ", "))
	}
	return nil
}

// checkKeys refuses a key file that is also the token file: agents know what is in that.
func (f *gatewayFlags) checkKeys(*gatewayPlan) error {
	same := func(file string) bool { return file != "" && filepath.Clean(file) == filepath.Clean(f.TokenFile) }
	switch {
	case same(f.TicketKeyFile):
		return wrong("make a key that only gateways have: openssl rand -hex 32 > ticket.key",
			"--ticket-key-file %s is also the --token-file: agents could make their own tickets", f.TicketKeyFile)
	case same(f.StatelessResetKeyFile):
		return wrong("make a key that only gateways have: openssl rand -hex 32 > reset.key",
			"--stateless-reset-key-file %s is also the --token-file: agents could end each other's connections", f.StatelessResetKeyFile)
	}
	return nil
}

// checkLimits parses the limits, of which 0 means none.
func (f *gatewayFlags) checkLimits(p *gatewayPlan) error {
	memory, err := parseMemory(f.MaxMemory)
	if err != nil {
		return wrong("write it as --max-memory 512MiB, auto or none", "--max-memory %s: %w", f.MaxMemory, err)
	}
	p.limits = tunnel.Limits{
		Streams: f.MaxStreams, StreamsPerIdentity: f.MaxStreamsPerIdentity, SparesPerIdentity: f.MaxSparesPerIdentity, Memory: memory,
	}
	if f.MaxStreams < 0 || f.MaxStreamsPerIdentity < 0 || f.MaxSparesPerIdentity < 0 {
		return wrong("0 means no limit", "--max-streams %d, --max-streams-per-identity %d, --max-spares-per-identity %d: none may be negative",
			f.MaxStreams, f.MaxStreamsPerIdentity, f.MaxSparesPerIdentity)
	}
	return nil
}

// build reads the files that the flags name, and makes the gateway from them and from p.
func (f *gatewayFlags) build(p *gatewayPlan, registry *prometheus.Registry, log *slog.Logger) (*proxy.Gateway, error) {
	m := metrics.New(registry, metrics.Gateway, version())
	brokers, err := f.brokerFlags.build(p.bootstrap, p.allowBroker, log)
	if err != nil {
		return nil, err
	}
	brokers.Metrics = m
	g := &proxy.Gateway{
		Names:   flagOf,
		Version: version(), Brokers: brokers, Forwards: p.forwards, Limits: p.limits, ProxyProtocol: p.proxyProtocol, Metrics: m, Logger: log,
		DrainTimeout: f.DrainTimeout, Linger: min(maxLinger, f.DrainTimeout/4),
	}
	policy, err := f.credentials(p, log)
	if err != nil {
		return nil, badFile(err)
	}
	g.Authenticate, g.Grant, g.Judge, g.RevokeStreams = policy.Authenticate, policy.Grant, policy.Judge, f.RevokeStreams
	if f.TicketKeyFile != "" {
		if g.TicketKeys, err = credentials.TicketKeys(credentials.File{Path: f.TicketKeyFile, Name: "--ticket-key-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	if f.StatelessResetKeyFile != "" {
		g.ResetKey, err = credentials.ResetKey(credentials.File{Path: f.StatelessResetKeyFile, Name: "--stateless-reset-key-file"}, log)
		if err != nil {
			return nil, badFile(err)
		}
	}
	if f.TLSCertFile != "" {
		if g.TLS, err = f.tls(log); err != nil {
			return nil, badFile(err)
		}
	}
	return g, nil
}

// openAuditLog opens the audit log; nil means that there is none. The caller closes it.
func (f *gatewayFlags) openAuditLog(m *metrics.Metrics, log *slog.Logger) (*audit.Log, error) {
	if f.AuditLog == "" {
		return nil, nil
	}
	l, err := audit.Open(f.AuditLog, audit.Counts{Written: m.AuditWritten, Lost: m.AuditLost, Omitted: m.AuditOmitted}, log)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // the path is in the text already
	}
	if err != nil {
		return nil, wrong("name a file that this process can create or append to, or - for stdout", "--audit-log %s: %w", f.AuditLog, err)
	}
	return l, nil
}

// credentials decide who is accepted.
func (f *gatewayFlags) credentials(p *gatewayPlan, log *slog.Logger) (c *credentials.Policy, err error) {
	c = &credentials.Policy{Names: flagOf, AllowUsers: p.allowUser, InsecureNoAuth: f.InsecureNoAuth}
	if f.TokenFile != "" {
		if c.Tokens, err = credentials.ReadTokens(credentials.File{Path: f.TokenFile, Name: "--token-file"}, log); err != nil {
			return nil, err
		}
	}
	if f.ClientCAFile != "" {
		c.ClientCA, err = credentials.ReadClientCA(credentials.File{Path: f.ClientCAFile, Name: "--client-ca-file"}, log)
	}
	return c, err
}

// tls asks for client certificates and does not verify them: the credentials do. Their refusal is
// an HTTP answer with a reason, where a failed handshake would be an alert without one.
func (f *gatewayFlags) tls(log *slog.Logger) (*tls.Config, error) {
	config, err := credentials.ServerTLS{
		CertFile: credentials.File{Path: f.TLSCertFile, Name: "--tls-cert-file"},
		KeyFile:  credentials.File{Path: f.TLSKeyFile, Name: "--tls-key-file"},
		Logger:   log,
	}.Config()
	if err == nil && f.ClientCAFile != "" {
		credentials.AskForCertificate(config)
	}
	return config, err
}

// listen opens the port for TCP and, with TLS, for UDP. The caller closes both.
func (f *gatewayFlags) listen(ctx context.Context) (tcp net.Listener, udp net.PacketConn, err error) {
	var lc net.ListenConfig
	tcp, err = lc.Listen(ctx, "tcp", f.Listen)
	if err != nil {
		return nil, nil, listenFailed(err, f.Listen, "--listen")
	}
	if f.TLSCertFile == "" {
		return tcp, nil, nil
	}
	address := tcp.Addr().String() // --listen may have left the port to the system
	udp, err = lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		tcp.Close()
		return nil, nil, listenFailed(err, address+" (UDP)", "--listen")
	}
	return tcp, udp, nil
}

// closeAll closes both listeners; udp is nil without TLS.
func closeAll(tcp net.Listener, udp net.PacketConn) error {
	if udp == nil {
		return tcp.Close()
	}
	return errors.Join(tcp.Close(), udp.Close())
}

// warn logs settings that are allowed and often a mistake.
func (f *gatewayFlags) warn(p *gatewayPlan, log *slog.Logger) {
	if f.InsecureNoAuth {
		log.Warn("whoever can reach this gateway can reach the brokers: --insecure-no-auth is set")
	}
	if f.TicketKeyFile == "" {
		log.Info("tickets are signed with a random key: several replicas need --ticket-key-file")
	}
	if slices.ContainsFunc(p.proxyProtocol, func(n netip.Prefix) bool { return n.Bits() == 0 }) {
		log.Warn("every peer can claim any address: --proxy-protocol names all addresses")
	}
	if len(p.proxyProtocol) > 0 && f.TLSCertFile != "" {
		log.Info("PROXY protocol headers are read over TCP (ws, h2): over h3, which is UDP, the client is whoever sends the packets")
	}
}

// certificates are those that a gateway shows: to agents and to brokers.
func (f *gatewayFlags) certificates() []credentials.Pair {
	return []credentials.Pair{pair("--tls-cert-file", f.TLSCertFile, "--tls-key-file", f.TLSKeyFile), f.certificate()}
}

// credentialFiles are the files with credentials of a gateway.
func (f *gatewayFlags) credentialFiles() []credentialFile {
	return append([]credentialFile{
		{"--token-file", kindToken, f.TokenFile},
		{"--tls-cert-file", kindCertificate, f.TLSCertFile},
		{"--client-ca-file", kindCA, f.ClientCAFile},
		{"--ticket-key-file", kindKey, f.TicketKeyFile},
		{"--stateless-reset-key-file", kindKey, f.StatelessResetKeyFile},
	}, f.brokerFlags.credentialFiles()...)
}
