package main

import (
	"log/slog"
	"net/url"
	"slices"
	"strings"
)

// providerFlags are the flags of all providers of an ingress that an agent knows. A new one is a
// package below proxy, a file here that makes its flags a [provider], and a line in this struct and
// in its method below.
type providerFlags struct {
	Snowflake snowflakeFlags `embed:""`
}

// providers returns all of them. The first with flags set wins if none names a host.
func (f *providerFlags) providers() []provider {
	return []provider{&f.Snowflake}
}

// providerOf returns the provider whose ingress is in front of gateway, one of all, or nil. It is
// the provider that gave the host its name; otherwise one whose flags are set, if it named no
// gateway's host, because a private link may have any name. Where some gateways have a provider's
// names, the others do not get the credentials for it.
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

// check has each provider check its flags.
func (f *providerFlags) check() error {
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

// warnOfOtherHosts warns of gateways that get a provider's credentials though it did not name their
// hosts.
func (f *providerFlags) warnOfOtherHosts(gateways []*url.URL, log *slog.Logger) {
	for _, u := range gateways {
		host := strings.ToLower(u.Hostname())
		if provider := f.providerOf(u, gateways); provider != nil && !provider.isHost(host) && !isLoopback(host) {
			log.Warn("credentials for a provider's ingress are sent to a host that is not known to be the provider's", "provider", provider.name(), "host", host)
		}
	}
}
