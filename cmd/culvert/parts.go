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
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// stateFileAuto is the --state-file that we choose a place for.
	stateFileAuto = "auto"
	// stateFileNone is the --state-file that keeps nothing, as an empty one does.
	stateFileNone = "none"
)

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
		DrainTimeout: f.DrainTimeout, MaxConnections: f.MaxConnections, Metrics: m, Logger: log,
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
	dialers, err := f.dialers(p, log)
	if err != nil {
		return nil, err
	}
	for _, d := range dialers {
		d.OnState, d.OnUDPBuffers = follow(m.Tunnel(d.URL.Host)), m.UDPBuffers
		d.OnDial = func(transport string, err error, took time.Duration) {
			m.TunnelDial(transport, metrics.ResultOf(err), took)
		}
		if i, ok := d.Ingress.(*snowflake.Ingress); ok && i.KeyPair != nil {
			i.OnLogin = m.Snowflake(d.URL.Host).Login
		}
	}
	return proxy.NewTunnel(dialers...), nil
}

// dialers are the ways to the gateways, in order.
func (f *agentFlags) dialers(p *agentPlan, log *slog.Logger) ([]*tunnel.Dialer, error) {
	var token func() (string, error)
	if f.TokenFile != "" {
		var err error
		if token, err = proxy.FirstToken(proxy.File{Path: f.TokenFile, Flag: "--token-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	files := proxy.ClientTLS{
		CAFile:   proxy.File{Path: f.GatewayCAFile, Flag: "--gateway-ca-file"},
		CertFile: proxy.File{Path: f.GatewayCertFile, Flag: "--gateway-cert-file"},
		KeyFile:  proxy.File{Path: f.GatewayKeyFile, Flag: "--gateway-key-file"},
		Logger:   log,
	}
	roots, err := proxy.Roots(files.CAFile, log)
	if err != nil {
		return nil, badFile(err)
	}
	memory, err := parseMemory(memoryAuto)
	if err != nil {
		return nil, err
	}
	var dialers []*tunnel.Dialer
	for _, u := range p.gateways {
		config, err := files.Config(u.Hostname())
		if err != nil {
			return nil, badFile(err)
		}
		d := &tunnel.Dialer{URL: u, Transport: f.Transport, Carriers: f.Carriers, TLS: config, Token: token, Memory: 2 * memory, Logger: log}
		if err := f.addIngress(p, d, roots, log); err != nil {
			return nil, err
		}
		dialers = append(dialers, d)
	}
	return dialers, nil
}

// follow has metrics show what a dialer knows.
func follow(m *metrics.Tunnel) func(tunnel.State) {
	return func(s tunnel.State) {
		m.Uses(s.Transport)
		for _, t := range s.Tried {
			m.NextProbe(t.Transport, t.NextProbe)
		}
	}
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
	} else if err == nil && !info.Mode().IsRegular() {
		return "", wrong("name a file that can be replaced, or none", "--state-file %s: it is not a regular file", f.StateFile)
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
