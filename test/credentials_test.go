package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/netns"
)

// gatewayName is a name of the gateway that resolves nowhere by itself.
const gatewayName = "gateway.invalid"

// writeCredentials writes the files that agents and gateways are started with: a token, ca.pem,
// gateway.pem and gateway-key.pem. The certificate is for 127.0.0.1, localhost, the server of a
// network of package netns, and the stand-in for Snowflake.
func writeCredentials(dir string) error {
	ca, err := newAuthority("culvert test CA")
	if err != nil {
		return err
	}
	cert, key, err := ca.issue("culvert test gateway", time.Now().Add(30*24*time.Hour), "localhost", gatewayName, accountHost, endpointHost, clientHost, netns.ServerIP)
	if err != nil {
		return err
	}
	return writeFiles(dir, map[string][]byte{
		"ca.pem": ca.pem(), "gateway.pem": cert, "gateway-key.pem": key, "token": []byte("test=" + rand.Text() + "\n"),
	})
}

// writeKafkaTLS writes the certificates of brokers and clients that speak TLS to culvert and verify
// its certificate, or have theirs verified. Each side has its own authority.
//
//	brokers-ca    signed  broker        and  to-brokers, which culvert shows to brokers
//	clients-ca    signed  agent         and  client, which clients show to the agent
//	other-ca      signed  other-server  and  other-client
//
// The files are NAME.pem, NAME-key.pem and, with both, NAME-both.pem. Each server also has an
// expired certificate, such as expired-broker.pem.
func writeKafkaTLS(dir string) error {
	files := map[string][]byte{}
	for _, side := range []struct{ ca, server, client string }{{"brokers-ca", "broker", "to-brokers"}, {"clients-ca", "agent", "client"}, {"other-ca", "other-server", "other-client"}} {
		ca, err := newAuthority(side.ca)
		if err != nil {
			return err
		}
		files[side.ca+".pem"] = ca.pem()
		for name, life := range map[string]time.Duration{side.server: 24 * time.Hour, side.client: 24 * time.Hour, "expired-" + side.server: -time.Minute} {
			cert, key, err := ca.issue(name, time.Now().Add(life), "broker-0."+kafka.Domain, "localhost", clientHost)
			if err != nil {
				return err
			}
			files[name+".pem"], files[name+"-key.pem"] = cert, key
			files[name+"-both.pem"] = append(append([]byte(nil), key...), cert...)
		}
	}
	return writeFiles(dir, files)
}

func writeFiles(dir string, files map[string][]byte) error {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &authority{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}, nil
}

// pem returns the authority's self-signed certificate.
func (a *authority) pem() []byte {
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		panic(err) // of a template above
	}
	return pemBlock("CERTIFICATE", der)
}

// issue makes a certificate and its key, valid for servers and clients, for names and addresses.
func (a *authority) issue(subject string, until time.Time, names ...string) (cert, key []byte, err error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: subject},
		NotBefore: a.cert.NotBefore, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, secret.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(secret)
	return pemBlock("CERTIFICATE", der), pemBlock("PRIVATE KEY", raw), err
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
