package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
)

// ServerTLS names the files of a TLS server. They are read again when they change, and new
// handshakes use the new content.
type ServerTLS struct {
	CertFile, KeyFile File
	// ClientCAFile, if its path is set, makes handshakes require a client certificate signed by one
	// of its CAs.
	ClientCAFile File
	Logger       *slog.Logger // nil discards
}

// Config reads the files and returns a config.
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
	ca, err := ReadClientCA(s.ClientCAFile, s.Logger)
	if err != nil {
		return nil, err
	}
	// Not with GetConfigForClient, which would ignore what the caller adds to config.
	config.ClientAuth = tls.RequireAnyClientCert
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return ca.verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, "")
	}
	return config, nil
}

// ClientTLS names the files of a TLS client; each may be left out. They are read again when they
// change, and new handshakes use the new content.
type ClientTLS struct {
	CAFile            File         // trusted CAs; no path: those of the system
	CertFile, KeyFile File         // the client's certificate; no paths: none
	Logger            *slog.Logger // nil discards
}

// Config reads the files and returns a config. The server's certificate must contain serverName, a
// host name or an IP address.
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
	ca, err := ReadCA(c.CAFile, c.Logger)
	if err != nil {
		return nil, err
	}
	ca.VerifyServer(config, serverName)
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
				return nil, fmt.Errorf("load %s: it has %d certificates and peers accept %d: keep the first one and those of its issuers", cert, n, maxChain)
			}
			return &pair, nil
		},
	}
	_, err := r.get()
	return r, err
}

// AskForCertificate makes the handshakes of a gateway ask for a client certificate. A [Policy]
// checks it with each request. The handshake itself fails only if the chain would cost too much to
// verify.
func AskForCertificate(config *tls.Config) {
	config.ClientAuth = tls.RequestClientCert
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // the answer to the request will say so
		}
		return boundChain(state.PeerCertificates)
	}
}
