package main

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// build reads the files that the flags name, and makes the agent from them and from p. The caller
// closes p when the agent has run.
func (f *agentFlags) build(p *agentPlan, registry *prometheus.Registry, log *slog.Logger) (*proxy.Agent, error) {
	m := metrics.New(registry, metrics.Agent, version())
	listenTLS, err := f.listenTLS(log)
	if err != nil {
		return nil, err
	}
	if err := f.checkNames(p, listenTLS, log); err != nil {
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
		Names:   flagOf,
		Version: version(), Listens: p.listens, BrokerPortBase: f.BrokerPortBase, NodeAddresses: p.nodes, BrokerNames: p.names, ExpectNodes: p.expect,
		StateFile: stateFile, RelayUnknownAPIs: f.RelayUnknownAPIs, Forwards: p.forwards, ListenTLS: listenTLS, Upstream: upstream,
		DrainTimeout: f.DrainTimeout, MaxConnections: f.MaxConnections, Metrics: m, Logger: log,
	}, nil
}

// listenTLS is how to speak TLS to clients; nil means plaintext.
func (f *agentFlags) listenTLS(log *slog.Logger) (*tls.Config, error) {
	if f.ListenTLSCertFile == "" {
		return nil, nil
	}
	config, err := credentials.ServerTLS{
		CertFile:     credentials.File{Path: f.ListenTLSCertFile, Name: "--listen-tls-cert-file"},
		KeyFile:      credentials.File{Path: f.ListenTLSKeyFile, Name: "--listen-tls-key-file"},
		ClientCAFile: credentials.File{Path: f.ListenClientCAFile, Name: "--listen-client-ca-file"},
		Logger:       log,
	}.Config()
	if err != nil {
		return nil, badFile(err)
	}
	return config, nil
}

// checkNames compares --broker-names with the certificate. That it is not for the names of brokers is
// no error: it may be replaced while the agent runs, and not all clients check it.
func (f *agentFlags) checkNames(p *agentPlan, config *tls.Config, log *slog.Logger) error {
	if p.names.IsZero() {
		return nil
	}
	certificate, err := proxy.CertificateOf(config)
	if err != nil {
		return badFile(err)
	}
	if len(p.names.Bootstrap(p.listens, certificate)) == 0 {
		return wrong("add the name that clients have in bootstrap.servers: --listen 0.0.0.0:9092=kafka.example.com",
			"--broker-names %s: no name leads to the bootstrap brokers, as --listen has no host name and %s lists none", p.names, f.ListenTLSCertFile)
	}
	if err := p.names.Uncovered(certificate, nil); err != nil {
		log.Warn("clients that check the agent's certificate will refuse it for brokers", "err", err,
			"hint", "the certificate of --listen-tls-cert-file must contain the name of each broker, or a wildcard for them")
	}
	return nil
}

// upstream is where the agent gets its connections to brokers: through gateways, or straight.
func (f *agentFlags) upstream(p *agentPlan, m *metrics.Metrics, log *slog.Logger) (proxy.Upstream, error) {
	if len(p.gateways) == 0 {
		brokers, err := f.brokerFlags.build(p.brokers, nil, log)
		if err != nil {
			return nil, err
		}
		brokers.Metrics = m
		return proxy.NewDirect(brokers), nil
	}
	dialers, err := f.dialers(p, m, log)
	if err != nil {
		return nil, err
	}
	return proxy.NewTunnel(dialers...), nil
}

// dialers make one dialer per gateway, in the order of --gateway-url. The doctor uses them too,
// without metrics.
func (f *agentFlags) dialers(p *agentPlan, m *metrics.Metrics, log *slog.Logger) ([]*tunnel.Dialer, error) {
	var token func() (string, error)
	if f.TokenFile != "" {
		var err error
		if token, err = credentials.FirstToken(credentials.File{Path: f.TokenFile, Name: "--token-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	files := credentials.ClientTLS{
		CAFile:   credentials.File{Path: f.GatewayCAFile, Name: "--gateway-ca-file"},
		CertFile: credentials.File{Path: f.GatewayCertFile, Name: "--gateway-cert-file"},
		KeyFile:  credentials.File{Path: f.GatewayKeyFile, Name: "--gateway-key-file"},
		Logger:   log,
	}
	roots, err := credentials.Roots(files.CAFile, log)
	if err != nil {
		return nil, badFile(err)
	}
	// An agent has no --max-memory: it closes QUIC connections at eleven sixteenths of what the
	// process may use, as a gateway does by default.
	memory := availableMemory("/") / 16 * 11
	var dialers []*tunnel.Dialer
	for _, u := range p.gateways {
		config, err := files.Config(u.Hostname())
		if err != nil {
			return nil, badFile(err)
		}
		d := &tunnel.Dialer{URL: u, Transport: f.Transport, Carriers: f.Carriers, TLS: config, Token: token, Memory: memory, Logger: log}
		if err := f.addIngress(p, d, ingressEnv{roots, m, log}); err != nil {
			return nil, err
		}
		if m != nil {
			measure(d, m)
		}
		dialers = append(dialers, d)
	}
	return dialers, nil
}

// addIngress has d deal with the ingress before its gateway, if there is one.
func (f *agentFlags) addIngress(p *agentPlan, d *tunnel.Dialer, env ingressEnv) error {
	provider := f.providerOf(d.URL, p.gateways)
	if provider == nil {
		return nil
	}
	i, err := provider.ingress(d.URL, env)
	if err != nil {
		return err
	}
	p.ingresses = append(p.ingresses, loginIngress{i, provider.loginFlag()})
	d.Ingress, d.Unlikely = i, i.Unlikely()
	return nil
}

// measure has m count the dials of d and the faults of its transports, and show which transport it
// uses and when it tries the others again.
func measure(d *tunnel.Dialer, m *metrics.Metrics) {
	t := m.Tunnel(d.URL.Host)
	d.OnUDPBuffers = m.UDPBuffers
	d.OnDial = func(transport string, err error, took time.Duration) {
		m.TunnelDial(transport, metrics.ResultOf(err), took)
	}
	d.OnFault = m.TunnelFault
	d.OnState = func(s tunnel.State) {
		t.Uses(s.Transport)
		for _, tried := range s.Tried {
			t.NextProbe(tried.Transport, tried.NextProbe)
		}
	}
}

// The values of --state-file that are not the name of a file.
const (
	stateFileAuto = "auto" // in the user's cache directory
	stateFileNone = "none" // nodes are not remembered; an empty value means the same
)

// stateFile is where the agent remembers its nodes; "" means nowhere. That the default place cannot
// be used is no error: containers often have no cache directory. A place that the user chose must
// work.
func (f *agentFlags) stateFile(log *slog.Logger) (string, error) {
	switch f.StateFile {
	case "", stateFileNone:
		return "", nil
	case stateFileAuto:
		file := f.defaultStateFile()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); file == stateFileNone || err != nil {
			log.Info("nodes will not be remembered across restarts: no cache directory", "err", err)
			return "", nil
		}
		return file, nil
	}
	// That it does not exist is fine: the agent makes it. It is replaced by renaming, which would
	// destroy a device.
	if info, err := os.Stat(f.StateFile); err == nil && info.IsDir() {
		return "", wrong("name a file in it", "--state-file %s: it is a directory", f.StateFile)
	} else if err == nil && !info.Mode().IsRegular() {
		return "", wrong("name a file that can be replaced, or none", "--state-file %s: it is not a regular file", f.StateFile)
	}
	return f.StateFile, nil
}

// defaultStateFile has a name that depends on where the agent connects to and where it listens: two
// agents on one machine, for two clusters, must not mix their nodes.
func (f *agentFlags) defaultStateFile() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return stateFileNone
	}
	h := sha256.New()
	io.WriteString(h, strings.Join(f.GatewayURL, ",")+"\n"+strings.Join(f.Listen, ","))
	return filepath.Join(dir, "culvert", fmt.Sprintf("agent-%x.json", h.Sum(nil)[:6]))
}
