package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// gatewayFlags are the settings of the gateway's end.
type gatewayFlags struct {
	Bootstrap []string `group:"The three that matter" placeholder:"HOST:PORT" help:"Brokers to find the cluster by; may be repeated."`
	TokenFile string   `group:"The three that matter" placeholder:"FILE" help:"Tokens that let agents in, one a line, as NAME=TOKEN."`
	Listen    string   `group:"The three that matter" placeholder:"ADDRESS" default:":8443" help:"TCP for ws and UDP for h3."`

	TLSCertFile string `name:"tls-cert-file" group:"TLS with the agents" placeholder:"FILE" help:"Certificate. Without it: plain HTTP and no h3, for a place behind an ingress."`
	TLSKeyFile  string `name:"tls-key-file" group:"TLS with the agents" placeholder:"FILE" help:"Its key."`

	StatelessResetKeyFile string `group:"TLS with the agents" placeholder:"FILE" help:"A secret that outlives the process, so that h3 agents learn of a restart at once. Only for a single gateway, or behind a balancer that routes by QUIC connection ID."`

	ClientCAFile   string   `group:"Who may come in" placeholder:"FILE" help:"Let in only agents that show a certificate which these have signed."`
	AllowUser      []string `group:"Who may come in" placeholder:"USER" help:"Of those, let in only requests that Snowflake's ingress says are this user's (Sf-Context-Current-User); may be repeated. Names are SQL's: alice is ALICE, and a name that is not in upper case stands in double quotes."`
	RevokeStreams  bool     `group:"Who may come in" help:"End, between two requests, the streams that were opened with a token or certificate which is not accepted any more. Without it they go on, and no new ones are opened."`
	InsecureNoAuth bool     `group:"Who may come in" help:"Let everybody in: nothing else may be said about who may."`

	AllowBroker   []string `group:"What may be dialled" placeholder:"PATTERN" help:"Dial these without a broker having named them: HOST:PORT or CIDR:PORT, where * in a name is one label; may be repeated."`
	TicketKeyFile string   `group:"What may be dialled" placeholder:"FILE" help:"Keys, one a line, that sign which addresses brokers have named; the first one signs. Several replicas need it. Unset: a random one."`

	brokerFlags

	MaxStreams            int    `group:"How much at a time" placeholder:"N" default:"10000" help:"Refuse streams beyond this many, each of which is a connection of a Kafka client; 0: no limit."`
	MaxStreamsPerIdentity int    `group:"How much at a time" placeholder:"N" default:"5000" help:"The same for one identity, which is a token's name or a certificate's."`
	MaxSparesPerIdentity  int    `group:"How much at a time" placeholder:"N" default:"64" help:"Streams that one identity may hold ready before clients come. Each agent has up to 8."`
	MaxMemory             string `group:"How much at a time" placeholder:"SIZE" default:"auto" help:"Refuse streams while more memory than this is in use, such as 512MiB; auto: a quarter of what the process may have, none: no limit."`

	AdminListen  string        `group:"The process" placeholder:"ADDRESS" default:"127.0.0.1:9465" help:"/metrics, /healthz and /readyz; none: nowhere."`
	AdminHost    []string      `group:"The process" placeholder:"NAME" help:"Answer there to this host name too, not only to localhost and IP addresses; may be repeated."`
	DrainTimeout time.Duration `group:"The process" placeholder:"TIME" default:"25s" help:"How long streams may take to end when the process is told to stop."`
}

// maxLinger is how long balancers have to see that a gateway drains. Who is led
// to it after that finds nobody.
const maxLinger = 2 * time.Second

// gatewayCmd is culvert gateway.
type gatewayCmd struct{ gatewayFlags }

func (*gatewayCmd) Help() string {
	return `Example:
  echo "laptop=$(openssl rand -hex 32)" > tokens.txt
  culvert gateway --bootstrap kafka-0:9092,kafka-1:9092 --token-file tokens.txt \
    --tls-cert-file cert.pem --tls-key-file key.pem`
}

// Run serves until the process is told to stop.
func (c *gatewayCmd) Run(ctx context.Context, a *app) error {
	allow, err := c.check()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	gateway, err := c.build(allow, registry, a.log)
	if err != nil {
		return err
	}
	c.warn(a.log)
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	tcp, udp, err := c.listen(ctx)
	if err != nil {
		return err
	}
	admin, err := listenAdmin(c.AdminListen, status.Server{Gatherer: registry, Ready: gateway.Ready, Hosts: values(c.AdminHost), Logger: a.log})
	if err != nil {
		closeAll(tcp, udp)
		return err
	}
	a.say(fmt.Sprintf("culvert gateway ready: listening on %s (%s), bootstrap %s, %s",
		tcp.Addr(), c.transports(), strings.Join(gateway.Brokers.Bootstrap, ", "), admin))
	return admin.during(ctx, func(ctx context.Context) error { return gateway.Run(ctx, tcp, udp) })
}

func (f *gatewayFlags) transports() string {
	if f.TLSCertFile == "" {
		return "ws, h2 behind an ingress"
	}
	return "h3, ws, h2"
}

// gatewayPlan is what the flags mean. Nothing has been opened for it yet.
type gatewayPlan struct {
	bootstrap, allowBroker, allowUser []string
	limits                            tunnel.Limits
}

// check refuses settings that have the wrong form or do not go together.
func (f *gatewayFlags) check() (*gatewayPlan, error) {
	p := &gatewayPlan{bootstrap: values(f.Bootstrap), allowBroker: values(f.AllowBroker), allowUser: values(f.AllowUser)}
	for _, step := range []func(*gatewayPlan) error{f.checkBrokers, f.checkListen, f.checkTLS, f.checkAuth, f.checkKeys, f.checkLimits} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (f *gatewayFlags) checkBrokers(p *gatewayPlan) error {
	if len(p.bootstrap) == 0 {
		return wrong("name some of the cluster's brokers: --bootstrap kafka-0:9092,kafka-1:9092", "--bootstrap is missing")
	}
	if err := (&proxy.Brokers{Bootstrap: p.bootstrap}).Validate(); err != nil {
		return wrong("write it as --bootstrap kafka-0:9092,kafka-1:9092", "--bootstrap: %w", err)
	}
	if err := (&proxy.Brokers{Bootstrap: p.bootstrap, Allow: p.allowBroker}).Validate(); err != nil {
		return wrong("write it as --allow-broker '*.kafka.internal:9092' or 10.0.0.0/8:9092", "--allow-broker: %w", err)
	}
	return f.brokerFlags.check()
}

func (f *gatewayFlags) checkListen(*gatewayPlan) error {
	host, port, err := splitAddress(f.Listen, 0)
	if err != nil {
		return wrong("write it as --listen :8443", "--listen %s: %w", f.Listen, err)
	}
	if err := checkAdmin(f.AdminListen, f.AdminHost); err != nil {
		return err
	}
	adminHost, adminPort, err := splitAddress(f.AdminListen, 0)
	if err == nil && (socket{host, port, ""}).overlaps(socket{adminHost, adminPort, ""}) {
		return wrong("choose another port for one of them", "--admin-listen %s: port %d is that of --listen %s", f.AdminListen, port, f.Listen)
	}
	return nil
}

func (f *gatewayFlags) checkTLS(*gatewayPlan) error {
	if f.ClientCAFile != "" && f.TLSCertFile == "" {
		return wrong("add --tls-cert-file and --tls-key-file; behind an ingress that ends TLS use --token-file",
			"--client-ca-file %s: without TLS agents show no certificates", f.ClientCAFile)
	}
	if f.StatelessResetKeyFile != "" && f.TLSCertFile == "" {
		return wrong("leave it out, or add --tls-cert-file and --tls-key-file",
			"--stateless-reset-key-file %s: without TLS there is no h3", f.StatelessResetKeyFile)
	}
	return checkPair("--tls-cert-file", f.TLSCertFile, "--tls-key-file", f.TLSKeyFile)
}

func (f *gatewayFlags) checkAuth(p *gatewayPlan) error {
	for i, user := range p.allowUser {
		name, err := proxy.ParseUser(user)
		if err != nil {
			return wrong("write it as in SQL: --allow-user ALICE, or --allow-user '\"alice\"' for one whose name is not in upper case",
				"--allow-user %s: %w", user, err)
		}
		p.allowUser[i] = name
	}
	set := given(map[string]bool{"--token-file": f.TokenFile != "", "--client-ca-file": f.ClientCAFile != ""})
	switch {
	case len(p.allowUser) > 0 && len(set) == 0:
		return wrong("add --token-file; whoever reaches this gateway around the ingress can say that he is anybody",
			"--allow-user only narrows whom --token-file or --client-ca-file let in, and neither is set")
	case len(set) == 0 && !f.InsecureNoAuth:
		return wrong("add --token-file or --client-ca-file; to let everybody in who reaches this gateway, say so: --insecure-no-auth",
			"neither --token-file nor --client-ca-file is set: anybody could come in")
	case f.InsecureNoAuth && f.RevokeStreams:
		return wrong("leave out one of them", "--revoke-streams: with --insecure-no-auth there is nothing to revoke")
	case len(set) > 0 && f.InsecureNoAuth:
		return wrong("leave out --insecure-no-auth", "--insecure-no-auth lets everybody in, and %s does not", strings.Join(set, ", "))
	}
	return nil
}

// checkKeys keeps the key that makes tickets from those who show tickets.
func (f *gatewayFlags) checkKeys(*gatewayPlan) error {
	if f.TicketKeyFile != "" && filepath.Clean(f.TicketKeyFile) == filepath.Clean(f.TokenFile) {
		return wrong("make a key that only gateways hold: openssl rand -hex 32 > ticket.key",
			"--ticket-key-file %s is also the --token-file: agents could make their own tickets", f.TicketKeyFile)
	}
	if f.StatelessResetKeyFile != "" && filepath.Clean(f.StatelessResetKeyFile) == filepath.Clean(f.TokenFile) {
		return wrong("make a key that only gateways hold: openssl rand -hex 32 > reset.key",
			"--stateless-reset-key-file %s is also the --token-file: agents could end each other's connections", f.StatelessResetKeyFile)
	}
	return nil
}

func (f *gatewayFlags) checkLimits(p *gatewayPlan) error {
	memory, err := parseMemory(f.MaxMemory)
	if err != nil {
		return wrong("write it as --max-memory 512MiB, auto or none", "--max-memory %s: %w", f.MaxMemory, err)
	}
	p.limits = tunnel.Limits{
		Streams: f.MaxStreams, StreamsPerIdentity: f.MaxStreamsPerIdentity, SparesPerIdentity: f.MaxSparesPerIdentity, Memory: memory,
	}
	if f.MaxStreams < 0 || f.MaxStreamsPerIdentity < 0 || f.MaxSparesPerIdentity < 0 {
		return wrong("0 is no limit", "--max-streams %d, --max-streams-per-identity %d, --max-spares-per-identity %d: none may be negative",
			f.MaxStreams, f.MaxStreamsPerIdentity, f.MaxSparesPerIdentity)
	}
	return nil
}

// build reads the files that settings name, and puts the gateway together.
func (f *gatewayFlags) build(p *gatewayPlan, registry *prometheus.Registry, log *slog.Logger) (*proxy.Gateway, error) {
	m := metrics.New(registry, metrics.Gateway, version())
	brokers, err := f.brokerFlags.build(p.bootstrap, p.allowBroker, log)
	if err != nil {
		return nil, err
	}
	brokers.Metrics = m
	g := &proxy.Gateway{Version: version(), Brokers: brokers, DrainTimeout: f.DrainTimeout, Linger: min(maxLinger, f.DrainTimeout/4), Limits: p.limits, Metrics: m, Logger: log}
	credentials, err := f.credentials(p, log)
	if err != nil {
		return nil, badFile(err)
	}
	g.Authenticate, g.Grant, g.Judge, g.RevokeStreams = credentials.Authenticate, credentials.Grant, credentials.Judge, f.RevokeStreams
	if f.TicketKeyFile != "" {
		if g.TicketKeys, err = proxy.TicketKeys(proxy.File{Path: f.TicketKeyFile, Flag: "--ticket-key-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	if f.StatelessResetKeyFile != "" {
		g.ResetKey, err = proxy.ResetKey(proxy.File{Path: f.StatelessResetKeyFile, Flag: "--stateless-reset-key-file"}, log)
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

func (f *gatewayFlags) credentials(p *gatewayPlan, log *slog.Logger) (c *proxy.Credentials, err error) {
	c = &proxy.Credentials{AllowUsers: p.allowUser, InsecureNoAuth: f.InsecureNoAuth}
	if f.TokenFile != "" {
		if c.Tokens, err = proxy.NewTokenFile(proxy.File{Path: f.TokenFile, Flag: "--token-file"}, log); err != nil {
			return nil, err
		}
	}
	if f.ClientCAFile != "" {
		c.ClientCA, err = proxy.NewClientCAFile(proxy.File{Path: f.ClientCAFile, Flag: "--client-ca-file"}, log)
	}
	return c, err
}

// tls only asks for certificates: the credentials look at them, and answer in
// words.
func (f *gatewayFlags) tls(log *slog.Logger) (*tls.Config, error) {
	config, err := proxy.ServerTLS{
		CertFile: proxy.File{Path: f.TLSCertFile, Flag: "--tls-cert-file"},
		KeyFile:  proxy.File{Path: f.TLSKeyFile, Flag: "--tls-key-file"},
		Logger:   log,
	}.Config()
	if err == nil && f.ClientCAFile != "" {
		proxy.AskForCertificate(config)
	}
	return config, err
}

// listen opens the port, for TCP and, with TLS, for UDP.
func (f *gatewayFlags) listen(ctx context.Context) (tcp net.Listener, udp net.PacketConn, err error) {
	var lc net.ListenConfig
	tcp, err = lc.Listen(ctx, "tcp", f.Listen)
	if err != nil {
		return nil, nil, sayListen(err, f.Listen, "--listen")
	}
	if f.TLSCertFile == "" {
		return tcp, nil, nil
	}
	address := tcp.Addr().String() // the port may have been the system's to choose
	udp, err = lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		tcp.Close()
		return nil, nil, sayListen(err, address+" (UDP)", "--listen")
	}
	return tcp, udp, nil
}

func closeAll(tcp net.Listener, udp net.PacketConn) error {
	if udp == nil {
		return tcp.Close()
	}
	return errors.Join(tcp.Close(), udp.Close())
}

// warn says what is allowed and seldom meant.
func (f *gatewayFlags) warn(log *slog.Logger) {
	if f.InsecureNoAuth {
		log.Warn("everybody who reaches this gateway reaches the brokers: --insecure-no-auth")
	}
	if f.TicketKeyFile == "" {
		log.Info("tickets are signed with a key of this process: several replicas need --ticket-key-file")
	}
}
