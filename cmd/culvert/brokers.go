package main

import (
	"log/slog"
	"strings"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/credentials"
)

// brokerFlags say how to connect to brokers: from a gateway, or from an agent that uses none.
type brokerFlags struct {
	BrokerTLS        bool   `group:"TLS with brokers" help:"Speak TLS to the brokers. An agent dials brokers only with --gateway-url tcp://BROKER:PORT."`
	BrokerCAFile     string `group:"TLS with brokers" placeholder:"FILE" help:"Certificate authorities to trust for the brokers' certificates, instead of the system's."`
	BrokerCertFile   string `group:"TLS with brokers" placeholder:"FILE" help:"Client certificate for the brokers."`
	BrokerKeyFile    string `group:"TLS with brokers" placeholder:"FILE" help:"Private key of that certificate."`
	BrokerServerName string `group:"TLS with brokers" placeholder:"NAME" help:"Name to expect in the brokers' certificates; unset: the host that is dialled."`
}

// given lists the flags that are set.
func (f *brokerFlags) given() []string {
	return given(map[string]bool{
		"--broker-tls": f.BrokerTLS, "--broker-ca-file": f.BrokerCAFile != "", "--broker-cert-file": f.BrokerCertFile != "",
		"--broker-key-file": f.BrokerKeyFile != "", "--broker-server-name": f.BrokerServerName != "",
	})
}

// check refuses the other flags without --broker-tls, for a CA file does not turn TLS on by itself:
// nobody should believe that a connection is encrypted because a certificate is configured.
func (f *brokerFlags) check() error {
	if set := f.given(); len(set) > 0 && !f.BrokerTLS {
		return wrong("add --broker-tls", "%s: connections to the brokers are in plaintext", strings.Join(set, ", "))
	}
	return checkPair("--broker-cert-file", f.BrokerCertFile, "--broker-key-file", f.BrokerKeyFile)
}

// build reads the files that the flags name. bootstrap finds the cluster; allow are patterns of
// addresses that may be dialled although no broker named them.
func (f *brokerFlags) build(bootstrap, allow []string, log *slog.Logger) (*proxy.Brokers, error) {
	b := &proxy.Brokers{Names: flagOf, Bootstrap: bootstrap, Allow: allow, ServerName: f.BrokerServerName, Logger: log}
	if !f.BrokerTLS {
		return b, nil
	}
	// The CA file is not among these: the name to verify is known only when a broker is dialled.
	files := credentials.ClientTLS{
		CertFile: credentials.File{Path: f.BrokerCertFile, Name: "--broker-cert-file"},
		KeyFile:  credentials.File{Path: f.BrokerKeyFile, Name: "--broker-key-file"},
		Logger:   log,
	}
	var err error
	if b.TLS, err = files.Config(f.BrokerServerName); err != nil {
		return nil, badFile(err)
	}
	if f.BrokerCAFile != "" {
		if b.CA, err = credentials.ReadCA(credentials.File{Path: f.BrokerCAFile, Name: "--broker-ca-file"}, log); err != nil {
			return nil, badFile(err)
		}
	}
	return b, nil
}

// certificate is what this end shows to brokers.
func (f *brokerFlags) certificate() credentials.Pair {
	return pair("--broker-cert-file", f.BrokerCertFile, "--broker-key-file", f.BrokerKeyFile)
}

// credentialFiles are the files with credentials for brokers.
func (f *brokerFlags) credentialFiles() []credentialFile {
	return []credentialFile{
		{"--broker-ca-file", kindCA, f.BrokerCAFile},
		{"--broker-cert-file", kindCertificate, f.BrokerCertFile},
	}
}
