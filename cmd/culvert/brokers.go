package main

import (
	"log/slog"
	"strings"

	"github.com/culvert-proxy/culvert/proxy"
)

// brokerFlags say how brokers are dialled: by a gateway, or by an agent without
// one.
type brokerFlags struct {
	BrokerTLS        bool   `group:"TLS to the brokers" help:"Speak TLS to the brokers. An agent dials these only with --gateway-url tcp://BROKER:PORT."`
	BrokerCAFile     string `group:"TLS to the brokers" placeholder:"FILE" help:"Believe brokers whose certificates these have signed, not those that the system trusts."`
	BrokerCertFile   string `group:"TLS to the brokers" placeholder:"FILE" help:"Certificate to show to brokers."`
	BrokerKeyFile    string `group:"TLS to the brokers" placeholder:"FILE" help:"Its key."`
	BrokerServerName string `group:"TLS to the brokers" placeholder:"NAME" help:"Name in the brokers' certificates; unset: the host that is dialled."`
}

// given names the flags that are set.
func (f *brokerFlags) given() []string {
	return given(map[string]bool{
		"--broker-tls": f.BrokerTLS, "--broker-ca-file": f.BrokerCAFile != "", "--broker-cert-file": f.BrokerCertFile != "",
		"--broker-key-file": f.BrokerKeyFile != "", "--broker-server-name": f.BrokerServerName != "",
	})
}

func (f *brokerFlags) check() error {
	if set := f.given(); len(set) > 0 && !f.BrokerTLS {
		return wrong("add --broker-tls", "%s: brokers are spoken to in plaintext", strings.Join(set, ", "))
	}
	return checkPair("--broker-cert-file", f.BrokerCertFile, "--broker-key-file", f.BrokerKeyFile)
}

// build reads the files.
func (f *brokerFlags) build(bootstrap, allow []string, log *slog.Logger) (*proxy.Brokers, error) {
	b := &proxy.Brokers{Bootstrap: bootstrap, Allow: allow, ServerName: f.BrokerServerName}
	if !f.BrokerTLS {
		return b, nil
	}
	files := proxy.ClientTLS{
		CertFile: proxy.File{Path: f.BrokerCertFile, Flag: "--broker-cert-file"},
		KeyFile:  proxy.File{Path: f.BrokerKeyFile, Flag: "--broker-key-file"},
		Logger:   log,
	}
	var err error
	if b.TLS, err = files.Config(f.BrokerServerName); err != nil {
		return nil, badFile(err)
	}
	if f.BrokerCAFile != "" {
		if b.CA, err = proxy.NewCAFile(proxy.File{Path: f.BrokerCAFile, Flag: "--broker-ca-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	return b, nil
}
