package snowflake

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// PATFile returns a function that returns the programmatic access token in a file, for
// [Ingress.PAT]. The function reads the file again when it changes. A nil logger discards.
func PATFile(f credentials.File, log *slog.Logger) (func() (string, error), error) {
	return credentials.Secrets(func(contents [][]byte) (string, error) {
		pat, err := ParsePAT(contents[0])
		if err != nil {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		return pat, nil
	}, log, f)
}

// KeyFile returns a function that returns the private key in a file, for [KeyPair.Key]. passphrase
// names the file with the key's passphrase; without a path there is none. The function reads the
// files again when they change. A nil logger discards.
func KeyFile(f, passphrase credentials.File, log *slog.Logger) (func() (*rsa.PrivateKey, error), error) {
	files := []credentials.File{f}
	if passphrase.Path != "" {
		files = append(files, passphrase)
	}
	return credentials.Secrets(func(contents [][]byte) (*rsa.PrivateKey, error) {
		var secret []byte
		if len(contents) > 1 {
			var err error
			if secret, err = TrimPassphrase(contents[1]); err != nil {
				return nil, fmt.Errorf("%s: %w", passphrase, err)
			}
		}
		key, err := ParsePrivateKey(contents[0], secret)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		return key, nil
	}, log, files...)
}

// LoginTransport carries logins, for [KeyPair.HTTP]. They are rare, so each has a connection of its
// own, through the proxy of the environment if there is one.
type LoginTransport struct {
	Roots func() (*x509.CertPool, error) // the trusted CAs, at the time of the call
}

// RoundTrip implements [http.RoundTripper].
func (t LoginTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	roots, err := t.Roots()
	if err != nil {
		return nil, err
	}
	return (&http.Transport{
		Proxy:             func(r *http.Request) (*url.URL, error) { return tunnel.ProxyFromEnvironment(r.URL) },
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives: true,
	}).RoundTrip(req)
}
