package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// CA is a file of trusted CA certificates, in PEM. It is read again when it changes. Its methods
// may be called concurrently.
type CA struct {
	pool   reread[*x509.CertPool]
	chains chainCache // of the clients of a gateway
}

// ReadCA reads a file of CAs that sign servers' certificates. If the file cannot be read later, its
// last content stays in use: nobody gains access by it. A nil logger discards.
func ReadCA(f File, log *slog.Logger) (*CA, error) { return readCA(f, false, log) }

// ReadClientCA reads a file of CAs that sign clients' certificates. If the file cannot be read
// later, clients are accepted for another five seconds, and then no more until it can be read
// again. A nil logger discards.
func ReadClientCA(f File, log *slog.Logger) (*CA, error) { return readCA(f, true, log) }

func readCA(f File, lapses bool, log *slog.Logger) (*CA, error) {
	c := &CA{pool: reread[*x509.CertPool]{
		files: []File{f}, lapses: lapses, log: orDiscard(log),
		parse: func(contents [][]byte) (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(contents[0]) {
				return nil, fmt.Errorf("load %s: no PEM certificate in it", f)
			}
			return pool, nil
		},
	}}
	_, err := c.pool.get()
	return c, err
}

// Roots returns a function that returns the CAs that the system trusts and those in a file. The
// function reads the file again when it changes. It returns nil, for the system's CAs alone, if the
// file has no path. A nil logger discards.
func Roots(f File, log *slog.Logger) (func() (*x509.CertPool, error), error) {
	if f.Path == "" {
		return func() (*x509.CertPool, error) { return nil, nil }, nil
	}
	r := &reread[*x509.CertPool]{
		files: []File{f}, log: orDiscard(log),
		parse: func(contents [][]byte) (*x509.CertPool, error) {
			pool, err := x509.SystemCertPool()
			if err != nil {
				return nil, fmt.Errorf("load the system's certificates: %w", err)
			}
			if !pool.AppendCertsFromPEM(contents[0]) {
				return nil, fmt.Errorf("load %s: no PEM certificate in it", f)
			}
			return pool, nil
		},
	}
	_, err := r.get()
	return r.get, err
}

// VerifyServer makes the config of a client trust these CAs and no others. It replaces the check of
// package tls, which could only use the file's content of this moment. serverName is a parameter
// because a connection's state does not contain it if it is an IP address.
func (c *CA) VerifyServer(config *tls.Config, serverName string) {
	config.ServerName = serverName
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if serverName == "" {
			return errors.New("no name to check the certificate against")
		}
		return c.verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth, serverName)
	}
}

// verify is verifyChain with the current CAs.
func (c *CA) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, name string) error {
	roots, err := c.pool.get()
	if err != nil {
		return err
	}
	_, err = verifyChain(roots, chain, usage, name)
	return err
}

// identify returns the name in a request's client certificate, or a [tunnel.Forbidden].
func (c *CA) identify(r *http.Request, names hints.Names) (string, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", tunnel.Forbidden(names.Sprintf("no client certificate: give the agent %s and %s", hints.GatewayCertFile, hints.GatewayKeyFile))
	}
	roots, err := c.pool.get()
	if err != nil {
		return "", tunnel.Forbidden("the gateway cannot read its client CA")
	}
	if err := c.chains.verify(roots, r.TLS.PeerCertificates); err != nil {
		return "", tunnel.Forbidden("client certificate: " + printable.Text(err.Error(), printable.Sentence))
	}
	return certificateName(r.TLS.PeerCertificates[0])
}

// maxIdentity bounds the bytes of an identity. Each log line of a stream contains it, and the
// limits for each identity use it as a key.
const maxIdentity = 255

// certificateName returns the identity in a certificate: its common name or, if that is empty, as
// in many new certificates, its first alternative name. The result is printable, because logs and
// refusals repeat it.
func certificateName(c *x509.Certificate) (string, error) {
	names := []string{c.Subject.CommonName}
	names = append(names, c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.EmailAddresses...)
	for _, name := range names {
		if len(name) > maxIdentity {
			return "", tunnel.Forbidden(fmt.Sprintf("client certificate: a name of %d bytes exceeds the limit of %d", len(name), maxIdentity))
		}
		if name != "" {
			return printable.Text(name, printable.Name), nil
		}
	}
	return "", tunnel.Forbidden("client certificate: it contains no name")
}
