package main

import (
	"os"
	"slices"
	"time"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// The kinds of credentials in the status document.
const (
	kindToken       = "token"
	kindCertificate = "certificate"
	kindCA          = "ca"
	kindKey         = "key"
	kindLogin       = "login"
)

// credentialFile is a file with a credential, and the flag that names it.
type credentialFile struct{ flag, kind, path string }

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

func (f *brokerFlags) credentialFiles() []credentialFile {
	return []credentialFile{
		{"--broker-ca-file", kindCA, f.BrokerCAFile},
		{"--broker-cert-file", kindCertificate, f.BrokerCertFile},
	}
}

// show returns what the status document shows of a file. expires says when the certificate in it
// expires, and may be nil. The file is not read: whoever uses it does that when it has changed.
func (f credentialFile) show(now time.Time, expires func() time.Time) document.Credential {
	c := document.Credential{Setting: f.flag, Kind: f.kind}
	info, err := os.Stat(f.path)
	if err == nil {
		err = credentials.CheckRegular(f.path, info)
	}
	if err != nil {
		c.Error = oneLine(err)
	} else {
		c.Loaded = info.ModTime().UTC()
	}
	if expires != nil {
		c.Expires = expires().UTC()
	}
	return dated(c, now)
}

// logins returns what the status document shows of the logins at ingresses.
func (p *agentPlan) logins(now time.Time) (all []document.Credential) {
	for _, i := range p.ingresses {
		at, expires, err := i.Login()
		if at.IsZero() && err == nil {
			continue
		}
		c := document.Credential{Setting: i.loginFlag, Kind: kindLogin, Loaded: at.UTC(), Expires: expires.UTC()}
		if err != nil {
			c.Error = oneLine(err)
		}
		all = append(all, dated(c, now))
	}
	return all
}

// dated returns c with how old it is, and how long it is still good.
func dated(c document.Credential, now time.Time) document.Credential {
	if !c.Loaded.IsZero() {
		c.Age = now.Sub(c.Loaded).Seconds()
	}
	if !c.Expires.IsZero() {
		c.Left = c.Expires.Sub(now).Seconds()
	}
	return c
}

// givenFiles returns the files that are named.
func givenFiles(all []credentialFile) []credentialFile {
	return slices.DeleteFunc(all, func(f credentialFile) bool { return f.path == "" })
}
