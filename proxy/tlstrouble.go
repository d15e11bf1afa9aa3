package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// brokerConn is a TLS connection to a broker. In TLS 1.3 a broker refuses our
// certificate only after our side of the handshake has succeeded: the first read
// tells.
type brokerConn struct {
	*tls.Conn
	names hints.Names
	heard bool // something came: the handshake is over for both; owned by the reader
}

func (c *brokerConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if isAlert(err) && !c.heard {
		err = &tlsError{err, c.names}
	}
	c.heard = c.heard || n > 0
	return n, err
}

// tlsError is why there is no TLS with a broker, with what to look at: it
// travels to the agent as one sentence.
type tlsError struct {
	err   error
	names hints.Names
}

func (e *tlsError) Unwrap() error { return e.err }
func (e *tlsError) Error() string { return "TLS handshake: " + e.err.Error() + e.question() }

// question is what the sentence ends with.
func (e *tlsError) question() string {
	if v, ok := errors.AsType[*tls.CertificateVerificationError](e.err); ok {
		return e.questionOf(v)
	}
	_, plaintext := errors.AsType[tls.RecordHeaderError](e.err)
	switch {
	case plaintext, isGone(e.err):
		return e.names.Sprintf("; does this listener of the broker speak TLS? If not, leave out %s", hints.BrokerTLS)
	case errors.Is(e.err, context.DeadlineExceeded):
		return "; it says nothing: does this listener of the broker speak TLS?"
	case isAlert(e.err) && !aboutCertificates(e.err):
		return " from the broker; which versions of TLS, and which ciphers, does this listener take?"
	case isAlert(e.err):
		return e.names.Sprintf(" from the broker; does it want a certificate, and one signed by whom it trusts? %s and %s show one",
			hints.BrokerCertFile, hints.BrokerKeyFile)
	}
	return ""
}

func (e *tlsError) questionOf(v *tls.CertificateVerificationError) string {
	var shown string
	if len(v.UnverifiedCertificates) > 0 {
		shown = v.UnverifiedCertificates[0].Issuer.String()
	}
	switch inner := v.Err.(type) {
	case x509.UnknownAuthorityError:
		return e.names.Sprintf("; is %q, who has signed the broker's, in %s?", shown, hints.BrokerCAFile)
	case x509.HostnameError:
		return e.names.Sprintf("; %s says which name is in it", hints.BrokerServerName)
	case x509.CertificateInvalidError:
		if inner.Reason == x509.Expired {
			return "; has the broker a newer one, or is a clock wrong?"
		}
	}
	return ""
}

// isAlert reports whether the other end has ended TLS with a reason of its own.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// aboutCertificates reports whether an alert blames them, or does not say what it
// blames.
func aboutCertificates(err error) bool {
	text := err.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "handshake failure") || strings.Contains(text, "access denied")
}

// isGone reports whether the other end has closed the connection without one.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// clientHint is what to look at in the client's settings.
func clientHint(err error, names hints.Names) string {
	_, plaintext := errors.AsType[tls.RecordHeaderError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case plaintext:
		return "this port speaks TLS: is the client's security.protocol SSL or SASL_SSL?"
	case untrusted, strings.Contains(err.Error(), "didn't provide a certificate"):
		return names.Sprintf("the client needs a certificate that one of %s has signed: ssl.keystore.location in Java, ssl.certificate.location in librdkafka",
			hints.ListenClientCA)
	case isAlert(err) && aboutCertificates(err):
		return names.Sprintf("the client did not take the agent's certificate: does it trust who has signed %s, and is the name that it dials in it?",
			hints.ListenTLSCertFile)
	}
	return "which versions of TLS does the client speak?"
}

// sayForeign says what a response is that is not Kafka's.
func sayForeign(err error, names hints.Names) error {
	return fmt.Errorf("read response: %w; does this listener of the brokers want TLS (%s)?", err, names.Of(hints.BrokerTLS))
}
