// Package testca makes certificates for tests.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// CA signs certificates.
type CA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New returns a CA whose certificate it has signed itself.
func New(t testing.TB, name string) *CA {
	t.Helper()
	return (&CA{}).Intermediate(t, name)
}

// Intermediate returns a CA whose certificate a has signed.
func (a *CA) Intermediate(t testing.TB, name string) *CA {
	t.Helper()
	b := &CA{}
	b.Cert, b.key = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return b
}

// Chain returns a client's certificate and behind it n intermediates of a, which name names, each
// signed by the next.
func (a *CA) Chain(t testing.TB, n int, name func(i int) string) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for i := range n {
		a = a.Intermediate(t, name(i))
		chain = append([]*x509.Certificate{a.Cert}, chain...)
	}
	return append([]*x509.Certificate{a.Client(t, "agent-1")}, chain...)
}

// Sign makes a certificate from template, which is good for an hour around now unless it says until
// when.
func (a *CA) Sign(t testing.TB, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	cert, _ := a.sign(t, template)
	return cert
}

// sign makes a certificate; without a certificate of its own, a self-signed one.
func (a *CA) sign(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.Cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Client makes the certificate of a client.
func (a *CA) Client(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	return a.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server makes the certificate of a server with these names, and its key.
func (a *CA) Server(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	c, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// Pool is the CA's own certificate.
func (a *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// Pair makes a certificate that is good at either end of a connection, and its key, both in PEM.
func (a *CA) Pair(t testing.TB, name string) (cert, key string) {
	t.Helper()
	return a.PairUntil(t, name, time.Now().Add(time.Hour))
}

// PairUntil is Pair, with the time when the certificate expires.
func (a *CA) PairUntil(t testing.TB, name string, until time.Time) (cert, key string) {
	t.Helper()
	c, k := a.sign(t, &x509.Certificate{
		NotAfter: until,
		Subject:  pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return PEM(c), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// PEM is the CA's own certificate.
func (a *CA) PEM() string { return PEM(a.Cert) }

// PEM writes a certificate.
func PEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
