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

// CA is a file of certificates, in PEM, of those who may sign others. It is
// read again when it changes.
type CA struct {
	pool   reread[*x509.CertPool]
	chains chainCache // on clients of a gateway
}

// ReadCA reads, for the first time, a file of those who sign servers. When it
// cannot be read later, its last content stays in force: it lets nobody in. A nil
// logger discards.
func ReadCA(f File, log *slog.Logger) (*CA, error) { return readCA(f, false, log) }

// ReadClientCA reads, for the first time, a file of those who sign clients.
// When it has been gone for five seconds, no client is believed until it is back.
// A nil logger discards.
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

// Roots returns the CAs that the system trusts and those in a file, which may have no
// path. The function reads the file again when it changes. A nil logger discards.
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

// VerifyServer makes config, of a client, believe these certificates and no others.
// Package tls's own check is replaced, not left out: it could only use what was
// in the file when the config was made. The name is taken now, since an IP
// address would not show in the state of a connection.
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

// verify is verifyChain with these certificates.
func (c *CA) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, name string) error {
	roots, err := c.pool.get()
	if err != nil {
		return err
	}
	_, err = verifyChain(roots, chain, usage, name)
	return err
}

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

// maxIdentity bounds the bytes of a name that logs and limits go by.
const maxIdentity = 255

// certificateName is the identity in a certificate: its common name or, as names
// moved out of that, the first of its alternative names. Logs and refusals
// repeat it, so that it is made printable.
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
