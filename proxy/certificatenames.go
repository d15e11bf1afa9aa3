package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Bootstrap returns the names that lead clients to the bootstrap brokers: the hosts of an agent's
// listens that are names, and the names that the certificate for its clients lists. A wildcard
// lists none. Names of brokers are no bootstrap names.
func (n BrokerNames) Bootstrap(listens []Listen, certificate *x509.Certificate) (names []string) {
	for _, l := range listens {
		if l.Host == "" {
			l.Host, _, _ = net.SplitHostPort(l.Bind)
		}
		names = append(names, l.Host)
	}
	names = append(names, certificate.DNSNames...)
	names = slices.DeleteFunc(names, func(name string) bool {
		_, isBroker := n.NodeID(name)
		_, notIP := netip.ParseAddr(name)
		return isBroker || notIP == nil || name == "" || strings.Contains(name, "*")
	})
	for i := range names {
		names[i] = strings.ToLower(names[i])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Uncovered returns an error if the certificate is for none of these nodes' names. Without ids, it
// returns one if the certificate is for no broker's name at all.
func (n BrokerNames) Uncovered(certificate *x509.Certificate, ids []int32) error {
	if len(ids) == 0 && slices.ContainsFunc(certificate.DNSNames, func(name string) bool { _, ok := n.NodeID(name); return ok }) {
		return nil
	}
	if len(ids) == 0 {
		ids = []int32{0}
	}
	for _, id := range ids {
		if err := certificate.VerifyHostname(n.Of(id)); err != nil {
			return fmt.Errorf("the certificate is not for %s: it is for %s", n.Of(id), namesIn(certificate))
		}
	}
	return nil
}

// maxNamesShown bounds the names of a certificate in a text.
const maxNamesShown = 8

// namesIn lists names of a certificate.
func namesIn(certificate *x509.Certificate) string {
	names := certificate.DNSNames
	switch more := len(names) - maxNamesShown; {
	case len(names) == 0:
		return "no DNS name"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamesShown], ", "), more)
	}
	return strings.Join(names, ", ")
}

// CertificateOf returns the certificate that a server with this config shows.
func CertificateOf(config *tls.Config) (*x509.Certificate, error) {
	var c *tls.Certificate
	switch {
	case config.GetCertificate != nil:
		var err error
		if c, err = config.GetCertificate(&tls.ClientHelloInfo{}); err != nil {
			return nil, err
		}
	case len(config.Certificates) > 0:
		c = &config.Certificates[0]
	default:
		return nil, errors.New("there is no certificate")
	}
	if c.Leaf != nil {
		return c.Leaf, nil
	}
	return x509.ParseCertificate(c.Certificate[0])
}
