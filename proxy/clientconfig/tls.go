package clientconfig

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// addTLS adds how the client speaks TLS. The TLS config verifies what Java would: the chain always,
// the name unless ssl.endpoint.identification.algorithm is empty.
func (p Properties) addTLS(c *Config) error {
	p.unsupported(c, "ssl.engine.factory.class", "ssl.cipher.suites", "ssl.provider", "security.providers")
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if slices.Equal(protocols(p["ssl.enabled.protocols"]), []string{"TLSv1.2"}) {
		config.MaxVersion = tls.VersionTLS12
	} else if slices.Equal(protocols(p["ssl.enabled.protocols"]), []string{"TLSv1.3"}) {
		config.MinVersion = tls.VersionTLS13
	}
	roots, why, err := p.trustStore()
	if err != nil {
		return err
	}
	c.note(why)
	config.RootCAs = roots
	cert, why, err := p.keyStore()
	if err != nil {
		return err
	}
	c.note(why)
	if cert != nil {
		// Set as a function: a client shows its certificate even if the server's list of
		// authorities leaves out the one that signed it.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if !strings.EqualFold(p.or("ssl.endpoint.identification.algorithm", "https"), "https") {
		config.InsecureSkipVerify = true // the name is not verified, the chain is
		config.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, roots) }
	}
	if len(c.Unsupported) == 0 {
		c.TLS = config
	}
	return nil
}

func protocols(list string) (names []string) {
	for name := range strings.SplitSeq(list, ",") {
		names = append(names, strings.TrimSpace(name))
	}
	return names
}

func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}

// store is a truststore or a keystore: where it is, and its content.
type store struct {
	name     string // "ssl.truststore"
	content  []byte
	isPEM    bool
	password string
}

// jksMagic begins a file in Java's own format, which only Java reads.
const jksMagic = "\xfe\xed\xfe\xed"

// store reads the file of a store. The second result says why it is not supported. nil is no store.
// As in Java, what is in a file that is not PEM decides its format, whatever its type says.
func (p Properties) store(name string) (*store, string, error) {
	kind := strings.ToUpper(p.or(name+".type", "JKS"))
	if !slices.Contains([]string{"JKS", "PKCS12", "PEM"}, kind) {
		return nil, name + ".type " + printable.Text(kind, printable.Name) + " is not supported here", nil
	}
	path := p.or(name+".location", "")
	if path == "" {
		return nil, "", nil
	}
	content, err := credentials.ReadFile(path, credentials.MaxFile)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return nil, "", fmt.Errorf("%s.location %s: %w", name, printable.Text(path, printable.Name), err)
	}
	if strings.HasPrefix(string(content), jksMagic) && kind != "PEM" {
		return nil, fmt.Sprintf("%s.location is in the format JKS, which is not supported here (keytool -importkeystore -deststoretype PKCS12 converts it)", name), nil
	}
	return &store{name, content, kind == "PEM", p[name+".password"]}, "", nil
}

// trustStore returns the authorities that the client trusts; nil are the system's, in place of
// those that Java has.
func (p Properties) trustStore() (*x509.CertPool, string, error) {
	const name = "ssl.truststore"
	pool := x509.NewCertPool()
	if inline := p[name+".certificates"]; inline != "" {
		if !pool.AppendCertsFromPEM([]byte(inline)) {
			return nil, "", errors.New(name + ".certificates has no certificate in PEM")
		}
		return pool, "", nil
	}
	s, why, err := p.store(name)
	if s == nil || err != nil {
		return nil, why, err
	}
	if s.isPEM {
		if !pool.AppendCertsFromPEM(s.content) {
			return nil, "", fmt.Errorf("%s.location has no certificate in PEM", name)
		}
		return pool, "", nil
	}
	certs, err := pkcs12.DecodeTrustStore(s.content, s.password)
	if why, err := s.problem(err); why != "" || err != nil {
		return nil, why, err
	}
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, "", nil
}

// problem says what an error of PKCS #12 means: a wrong password, which is the user's mistake, or a
// form that is not supported.
func (s *store) problem(err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return "", fmt.Errorf("%s.password is not that of the file", s.name)
	}
	return s.name + ".location is in a form of PKCS12 that is not supported here", nil
}

// keyStore returns the client's certificate; nil is none.
func (p Properties) keyStore() (*tls.Certificate, string, error) {
	const name = "ssl.keystore"
	chain, key := []byte(p[name+".certificate.chain"]), []byte(p[name+".key"])
	if len(chain) == 0 || len(key) == 0 {
		s, why, err := p.store(name)
		if s == nil || err != nil {
			return nil, why, err
		}
		if !s.isPEM {
			return s.pkcs12()
		}
		chain, key = s.content, s.content
	}
	if isEncrypted(key) {
		return nil, "an encrypted private key in PEM is not supported here (openssl pkey writes it without a password)", nil
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	return &cert, "", nil
}

// pkcs12 reads a certificate with its key. Java decrypts the key with ssl.key.password, which for
// PKCS #12 must be the store's.
func (s *store) pkcs12() (*tls.Certificate, string, error) {
	key, leaf, more, err := pkcs12.DecodeChain(s.content, s.password)
	if why, err := s.problem(err); why != "" || err != nil {
		return nil, why, err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, c := range more {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, "", nil
}

func isEncrypted(key []byte) bool {
	for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" {
			return true
		}
	}
	return false
}
