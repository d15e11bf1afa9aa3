package dialer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Config says how to reach the gateway. Only GatewayURLs is required. Files are read again when they
// change.
type Config struct {
	// GatewayURLs are the gateways of one cluster, each https://HOST[:PORT][/PREFIX], or http:// on
	// loopback, as behind kubectl port-forward. Connections are spread over those that share a ticket
	// key; a gateway with another key is used only while those before it do not answer.
	GatewayURLs []string

	// Transport is h3, ws, h2 or auto, the first of them that works. Empty means auto.
	Transport string

	// TokenFile is the file whose first token authenticates to the gateway.
	TokenFile string
	// Token returns that token, instead of TokenFile. It is called often, and concurrently.
	Token func() (string, error)

	// CAFile has the certificate authorities to trust for the gateway's certificate, in PEM. Empty
	// means the system's.
	CAFile string
	// CertFile and KeyFile are the client certificate for the gateway and its key, in PEM.
	CertFile, KeyFile string
	// TLS is used instead of these files. Its ServerName is taken from the URL if it is empty.
	TLS *tls.Config

	// Snowflake has the credentials for the ingress of Snowpark Container Services, if the gateway
	// runs there. Where some of GatewayURLs have hosts of Snowflake's, the others do not get them.
	Snowflake Snowflake

	// Logger gets what an agent would log: which transport is used, and what goes wrong. Nil
	// discards.
	Logger *slog.Logger
}

// parts are what a Config is made into.
type parts struct {
	dialers   []*tunnel.Dialer
	ingresses []io.Closer
}

func (p *parts) close() error {
	var errs []error
	for _, i := range p.ingresses {
		errs = append(errs, i.Close())
	}
	return errors.Join(errs...)
}

// parts reads the files and makes one tunnel dialer per gateway.
func (c *Config) parts() (*parts, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	gateways, err := c.gateways()
	if err != nil {
		return nil, err
	}
	token := c.Token
	if c.TokenFile != "" {
		if token, err = credentials.FirstToken(credentials.File{Path: c.TokenFile, Name: "TokenFile"}, c.Logger); err != nil {
			return nil, err
		}
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	login, err := c.Snowflake.login(roots, c.Logger)
	if err != nil {
		return nil, err
	}
	p := &parts{}
	for _, u := range gateways {
		config, err := c.tls(u.Hostname())
		if err != nil {
			return nil, err
		}
		d := &tunnel.Dialer{URL: u, Transport: c.Transport, TLS: config, Token: token, Memory: memory(), Logger: c.Logger}
		if i := login.ingress(u, gateways); i != nil {
			d.Ingress, d.Unlikely = i, i.Unlikely()
			p.ingresses = append(p.ingresses, i)
		}
		p.dialers = append(p.dialers, d)
	}
	return p, nil
}

// memory is how much the process may have in use before QUIC connections are closed: of its memory
// limit, as much as an agent takes of what it may use; 0 means no limit.
func memory() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	return limit / 16 * 11
}

// check refuses settings that exclude each other.
func (c *Config) check() error {
	switch {
	case len(c.GatewayURLs) == 0:
		return errors.New("GatewayURLs is empty")
	case c.Transport != "" && c.Transport != tunnel.TransportAuto && !slices.Contains(tunnel.Transports(), c.Transport):
		return fmt.Errorf("Transport %q: want %s or %s", c.Transport, tunnel.TransportAuto, strings.Join(tunnel.Transports(), ", "))
	case c.TokenFile != "" && c.Token != nil:
		return errors.New("TokenFile and Token: set one of them")
	case c.TLS != nil && c.CAFile+c.CertFile+c.KeyFile != "":
		return errors.New("TLS: CAFile, CertFile and KeyFile are not used with it")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("CertFile and KeyFile: set both of them, or none")
	}
	return nil
}

func (c *Config) gateways() (all []*url.URL, err error) {
	for _, s := range c.GatewayURLs {
		u, err := parseGateway(s)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// parseGateway reads the URL of one gateway. http:// is refused beyond loopback: whoever is on the
// path could read the token and every record.
func parseGateway(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("GatewayURLs: one is not a URL") // err would repeat a password in it
	}
	wrong := func(what string) (*url.URL, error) {
		return nil, hints.New(fmt.Errorf("GatewayURLs: %s: %s", u.Redacted(), what), "write it as https://kafka.example.com or https://kafka.example.com:8443/prefix")
	}
	plain := u.Scheme == "http" && isLoopback(u.Hostname())
	switch port := u.Port(); {
	case u.Scheme == "http" && !plain:
		return wrong("tokens and records would be sent unencrypted")
	case u.Scheme != "https" && !plain, u.Hostname() == "", u.Opaque != "":
		return wrong("not an https:// URL")
	case u.User != nil:
		return wrong("a URL must not contain secrets")
	case u.RawQuery != "" || u.Fragment != "":
		return wrong("it has a query or a fragment")
	case port != "" || strings.HasSuffix(u.Host, ":"):
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return wrong("the port is not a number between 1 and 65535")
		}
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// files are those of the TLS connection to the gateway.
func (c *Config) files() credentials.ClientTLS {
	return credentials.ClientTLS{
		CAFile:   credentials.File{Path: c.CAFile, Name: "CAFile"},
		CertFile: credentials.File{Path: c.CertFile, Name: "CertFile"},
		KeyFile:  credentials.File{Path: c.KeyFile, Name: "KeyFile"},
		Logger:   c.Logger,
	}
}

func (c *Config) tls(host string) (*tls.Config, error) {
	if c.TLS != nil {
		return c.TLS.Clone(), nil
	}
	return c.files().Config(host)
}

// roots returns whom to trust for logins at Snowflake.
func (c *Config) roots() (func() (*x509.CertPool, error), error) {
	if c.TLS != nil {
		return func() (*x509.CertPool, error) { return c.TLS.RootCAs, nil }, nil
	}
	return credentials.Roots(c.files().CAFile, c.Logger)
}
