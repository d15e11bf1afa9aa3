package remedies

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Certificate returns what to do about a certificate that is refused for what is in it, and
// not for who signed it: for its dates, or because it has no name that counts. whose is who has to
// renew it. It returns "" for any other error.
func Certificate(err error, whose string) string {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired && e.Cert != nil {
		return dates(e.Cert, whose, time.Now())
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok && nameless(e.Certificate) {
		return fmt.Sprintf("the certificate has no subjectAltName, and the common name (\"%s\") is ignored: ask %s to issue it again with %s as subjectAltName",
			printable.Text(e.Certificate.Subject.CommonName, printable.Name), whose, printable.Text(e.Host, printable.Name))
	}
	return ""
}

// dates is the remedy for a certificate that is not valid now. Package x509 has one reason for a
// certificate that is too old and for one that is too young. Its text has the current time; the
// remedy has none, so that it is the same in the next minute.
func dates(c *x509.Certificate, whose string, now time.Time) string {
	const form = "2006-01-02 15:04 MST"
	if now.Before(c.NotBefore) {
		return fmt.Sprintf("the certificate is valid only from %s: is this machine's clock wrong?", c.NotBefore.UTC().Format(form))
	}
	return fmt.Sprintf("the certificate expired on %s: if this machine's clock is right, ask %s to renew it", c.NotAfter.UTC().Format(form), whose)
}

// nameless reports whether a certificate has no name that is compared with a host's.
func nameless(c *x509.Certificate) bool {
	return c != nil && len(c.DNSNames) == 0 && len(c.IPAddresses) == 0
}
