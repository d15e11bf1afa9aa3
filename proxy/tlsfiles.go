package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
)

// ServerTLS names the files of an end that is connected to. They are read again
// when they change, and new handshakes use the new content.
type ServerTLS struct {
	CertFile, KeyFile File
	// ClientCAFile, when its path is set, makes handshakes demand a certificate
	// that it has signed.
	ClientCAFile File
	Logger       *slog.Logger // nil discards
}

// Config reads the files for the first time.
func (s ServerTLS) Config() (*tls.Config, error) {
	pair, err := newKeyPair(s.CertFile, s.KeyFile, s.Logger)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get() },
	}
	if s.ClientCAFile.Path == "" {
		return config, nil
	}
	ca, err := NewClientCAFile(s.ClientCAFile, s.Logger)
	if err != nil {
		return nil, err
	}
	// Not by GetConfigForClient: it would drop what users of the config add to it.
	config.ClientAuth = tls.RequireAnyClientCert
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return ca.verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, "")
	}
	return config, nil
}

// ClientTLS names the files of an end that connects; each may be left out. They
// are read again when they change, and new handshakes use the new content.
type ClientTLS struct {
	CAFile            File         // whom to believe; no path: whom the system believes
	CertFile, KeyFile File         // what to show when asked; no paths: nothing
	Logger            *slog.Logger // nil discards
}

// Config reads the files for the first time. The server must prove to be
// serverName, a name or an IP address.
func (c ClientTLS) Config(serverName string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if c.CertFile.Path != "" {
		pair, err := newKeyPair(c.CertFile, c.KeyFile, c.Logger)
		if err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get() }
	}
	if c.CAFile.Path == "" {
		return config, nil
	}
	ca, err := NewCAFile(c.CAFile, c.Logger)
	if err != nil {
		return nil, err
	}
	ca.check(config, serverName)
	return config, nil
}

func newKeyPair(cert, key File, log *slog.Logger) (*reread[*tls.Certificate], error) {
	r := &reread[*tls.Certificate]{
		files: []File{cert, key}, log: orDiscard(log),
		parse: func(contents [][]byte) (*tls.Certificate, error) {
			pair, err := tls.X509KeyPair(contents[0], contents[1])
			if err != nil {
				return nil, fmt.Errorf("load %s with %s: %w", cert, key, err)
			}
			if n := len(pair.Certificate); n > maxChain {
				return nil, fmt.Errorf("load %s: %d certificates in it, and peers take %d: leave in the first one and those of who has signed it", cert, n, maxChain)
			}
			return &pair, nil
		},
	}
	_, err := r.get()
	return r, err
}

// CAFile is a file of certificates, in PEM, of those who may sign others. It is
// read again when it changes.
type CAFile struct {
	pool     reread[*x509.CertPool]
	verdicts verdicts // on clients of a gateway
}

// NewCAFile reads, for the first time, a file of those who sign servers. When it
// cannot be read later, its last content stays in force: it lets nobody in. A nil
// logger discards.
func NewCAFile(f File, log *slog.Logger) (*CAFile, error) { return newCAFile(f, false, log) }

// NewClientCAFile reads, for the first time, a file of those who sign clients.
// When it has been gone for five seconds, no client is believed until it is back.
// A nil logger discards.
func NewClientCAFile(f File, log *slog.Logger) (*CAFile, error) { return newCAFile(f, true, log) }

func newCAFile(f File, lapses bool, log *slog.Logger) (*CAFile, error) {
	c := &CAFile{pool: reread[*x509.CertPool]{
		files: []File{f}, lapses: lapses, log: orDiscard(log),
		parse: func(contents [][]byte) (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(contents[0]) {
				return nil, fmt.Errorf("load %s: no certificate in PEM in it", f)
			}
			return pool, nil
		},
	}}
	_, err := c.pool.get()
	return c, err
}

// Roots returns those whom the system believes and besides them those in a file,
// which may have no path. The function reads the file again when it changes. A nil
// logger discards.
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
				return nil, fmt.Errorf("load %s: no certificate in PEM in it", f)
			}
			return pool, nil
		},
	}
	_, err := r.get()
	return r.get, err
}

// check makes config, of a client, believe these certificates and no others.
// Package tls's own check is replaced, not left out: it could only use what was
// in the file when the config was made. The name is taken now, since an IP
// address would not show in the state of a connection.
func (c *CAFile) check(config *tls.Config, serverName string) {
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
func (c *CAFile) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, name string) error {
	roots, err := c.pool.get()
	if err != nil {
		return err
	}
	_, err = verifyChain(roots, chain, usage, name)
	return err
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
