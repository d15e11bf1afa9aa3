package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
)

// clientTLS has the client of the settings and the agent shake hands. Both certificates
// are verified as they will be: the agent's for each host that clients are told.
func (d *Doctor) clientTLS(ctx context.Context) {
	const hop = "client tls"
	theirs, ours := d.Client, d.Agent.ListenTLS
	switch {
	case theirs == nil && ours == nil:
		return // plaintext is what clients speak unless they are told otherwise
	case theirs == nil:
		f := skipped(d.Names.Sprintf("TLS with clients, because there is no %s", hints.ClientConfig),
			"the agent speaks TLS with clients, and their settings are not known", d.Names.Sprintf("give a client's properties file with %s", hints.ClientConfig))
		f.Hop = hop
		d.report(f)
		return
	case theirs.SpeaksTLS() && ours == nil:
		d.report(Finding{
			Hop: hop, Result: Fail, Text: theirs.Protocol + ": the client speaks TLS, and the agent does not", brief: "does not fit",
			Remedy: d.Names.Sprintf("set %s, or leave TLS out of the client's security.protocol: between agent and gateway there is TLS already", hints.ListenTLSCertFile),
		})
		return
	case !theirs.SpeaksTLS() && ours != nil:
		d.report(Finding{
			Hop: hop, Result: Fail, Text: theirs.Protocol + ": the client speaks plaintext, and the agent speaks TLS", brief: "does not fit",
			Remedy: "set the client's security.protocol to SSL or SASL_SSL, and ssl.truststore.location",
		})
		return
	case ours == nil:
		return
	case theirs.TLS == nil:
		f := skipped("TLS with clients", strings.Join(theirs.Unsupported, "; "), "")
		f.Hop = hop
		d.report(f)
		return
	}
	for _, name := range d.clientNames() {
		d.examining(hop)
		d.report(timed(ctx, hop, func(ctx context.Context) Finding { return d.shakeHands(ctx, name) }))
	}
}

// hostOf is the host that clients of a bootstrap address connect to.
func hostOf(l proxy.Listen) string {
	if l.Host != "" {
		return l.Host
	}
	host, _, _ := net.SplitHostPort(l.Bind)
	return host
}

// shakeHands connects the two over loopback: in TLS, both ends may write at once.
func (d *Doctor) shakeHands(ctx context.Context, host string) Finding {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return d.failure(ctx, err)
	}
	served := make(chan error, 1)
	go acceptTLS(ctx, ln, d.Agent.ListenTLS, served)
	client, err := d.connectTLS(ctx, ln.Addr().String(), host)
	if err != nil {
		ln.Close()
		<-served
		return d.failure(ctx, fmt.Errorf("the client does not trust the agent as %s: %w", host, err)).
			or(d.Names.Sprintf("does ssl.truststore.location have the CA of %s, and is that certificate for %s?", hints.ListenTLSCertFile, host))
	}
	defer client.Close()
	if err := <-served; err != nil {
		return d.failure(ctx, fmt.Errorf("the agent does not accept the client: %w", err)).
			or(d.Names.Sprintf("set ssl.keystore.location to a certificate of an authority in %s", hints.ListenClientCA))
	}
	return ok("client and agent speak %s, and trust each other as %s", tls.VersionName(client.ConnectionState().Version), host)
}

// acceptTLS shakes hands with one client, as the agent would, and tells how that went.
func acceptTLS(ctx context.Context, ln net.Listener, config *tls.Config, served chan<- error) {
	defer ln.Close()
	c, err := ln.Accept()
	if err != nil {
		served <- err
		return
	}
	defer c.Close()
	served <- tls.Server(c, config).HandshakeContext(ctx)
}

func (d *Doctor) connectTLS(ctx context.Context, address, host string) (*tls.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	config := d.Client.TLS.Clone()
	config.ServerName = host
	client := tls.Client(c, config)
	if err := client.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return client, nil
}
