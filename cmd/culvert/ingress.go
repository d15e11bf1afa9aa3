package main

import (
	"crypto/x509"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/doctor"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// providerFlags are the flags of all providers. A new provider is a package
// below proxy, a file here with its flags, and a line in this struct and in its
// method.
type providerFlags struct {
	Snowflake snowflakeFlags `embed:""`
}

// providers are those that an agent knows.
func (f *providerFlags) providers() []provider {
	return []provider{&f.Snowflake}
}

// A provider is a platform with an ingress before the gateways that run on it.
// The agent knows of one only what it says here and in its [ingress].
type provider interface {
	// name is how its users know it.
	name() string
	// given are its flags that are set.
	given() []string
	// check refuses settings that do not go together.
	check() error
	// isHost reports whether a host name is one that the provider gives to gateways.
	isHost(host string) bool
	// ingress makes the ingress before a gateway, after check.
	ingress(gateway *url.URL, env ingressEnv) (ingress, error)
}

// An ingress is the one before one gateway: which credentials it asks for, what its
// answers mean, and what to do where none come.
type ingress interface {
	doctor.Ingress
	// Unlikely are for [tunnel.Dialer].
	Unlikely() []string
	io.Closer
}

// ingressEnv is what an ingress shares with the rest of the agent.
type ingressEnv struct {
	roots   func() (*x509.CertPool, error) // whom to trust, at the time of the call
	metrics *metrics.Metrics               // nil: nothing is counted
	log     *slog.Logger
}

// providerOf returns whose ingress is before one of all gateways, or nil. It is the
// provider that gave the host its name; else one whose flags are set, if it named
// no gateway's host, because a private link may have any name. Where some gateways
// have a provider's names, the others do not get the credentials for it.
func (f *providerFlags) providerOf(gateway *url.URL, all []*url.URL) provider {
	for _, p := range f.providers() {
		if p.isHost(gateway.Hostname()) {
			return p
		}
	}
	for _, p := range f.providers() {
		if len(p.given()) > 0 && !slices.ContainsFunc(all, func(u *url.URL) bool { return p.isHost(u.Hostname()) }) {
			return p
		}
	}
	return nil
}

// addIngress has d deal with the ingress before its gateway, if there is one.
func (f *providerFlags) addIngress(p *agentPlan, d *tunnel.Dialer, env ingressEnv) error {
	provider := f.providerOf(d.URL, p.gateways)
	if provider == nil {
		return nil
	}
	i, err := provider.ingress(d.URL, env)
	if err != nil {
		return err
	}
	p.ingresses = append(p.ingresses, i)
	d.Ingress, d.Unlikely = i, i.Unlikely()
	return nil
}

// checkProviders has each provider check its flags.
func (f *providerFlags) checkProviders(*agentPlan) error {
	for _, p := range f.providers() {
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

// given are the flags of all providers that are set.
func (f *providerFlags) given() (set []string) {
	for _, p := range f.providers() {
		set = append(set, p.given()...)
	}
	return set
}

// warnOfOtherHosts warns of gateways that get a provider's credentials though it did
// not name their hosts.
func (f *providerFlags) warnOfOtherHosts(p *agentPlan, log *slog.Logger) {
	for _, u := range p.gateways {
		host := strings.ToLower(u.Hostname())
		if provider := f.providerOf(u, p.gateways); provider != nil && !provider.isHost(host) && !isLoopback(host) {
			log.Warn("credentials for a provider's ingress are sent to a host that is not known to be the provider's", "provider", provider.name(), "host", host)
		}
	}
}
