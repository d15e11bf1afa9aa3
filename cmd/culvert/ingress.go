package main

import (
	"crypto/x509"
	"io"
	"log/slog"
	"net/url"
	"time"

	"github.com/culvert-proxy/culvert/proxy/doctor"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// A provider is a platform with an ingress in front of the gateways that run on it. The agent knows
// of one only what it says here and in its [ingress].
type provider interface {
	// name is how its users know it.
	name() string
	// given are its flags that are set.
	given() []string
	// check refuses settings that do not go together.
	check() error
	// isHost reports whether a host name is one that the provider gives to gateways.
	isHost(host string) bool
	// credentialFiles are the files with its credentials.
	credentialFiles() []credentialFile
	// loginFlag is the flag with what an ingress logs in with.
	loginFlag() string
	// ingress makes the ingress in front of a gateway. It is called after check.
	ingress(gateway *url.URL, env ingressEnv) (ingress, error)
}

// An ingress is what is in front of one gateway: it says which credentials it asks for, what its
// answers mean, and what to do when none comes.
type ingress interface {
	doctor.Ingress
	// Unlikely are for [tunnel.Dialer].
	Unlikely() []string
	// Login returns when the last login that succeeded was and when its token expires, and the error
	// of the last login if that failed. All of them are zero if nobody logs in.
	Login() (at, expires time.Time, err error)
	io.Closer
}

// loginIngress is an ingress, and the flag with what it logs in with.
type loginIngress struct {
	ingress
	loginFlag string
}

// ingressEnv is what an ingress shares with the rest of the agent.
type ingressEnv struct {
	roots   func() (*x509.CertPool, error) // the trusted CAs, at the time of the call
	metrics *metrics.Metrics               // nil: nothing is counted
	log     *slog.Logger
}
