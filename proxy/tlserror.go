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

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

// brokerConn is a TLS connection to a broker. In TLS 1.3, our side of the handshake succeeds before
// the broker checks our certificate. So the first read may fail with an alert that is an error of
// the handshake.
type brokerConn struct {
	*tls.Conn
	names    hints.Names
	received bool // bytes have arrived, so the handshake has ended on both sides; owned by the reader
}

func (c *brokerConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if isAlert(err) && !c.received {
		err = &tlsError{err, c.names}
	}
	c.received = c.received || n > 0
	return n, err
}

// tlsError is an error of the TLS handshake with a broker. Its text contains the hint, because a
// gateway sends it to the agent as one sentence.
type tlsError struct {
	err   error
	names hints.Names
}

func (e *tlsError) Unwrap() error { return e.err }
func (e *tlsError) Error() string { return "TLS handshake: " + e.err.Error() + e.hint() }

// hint returns the end of the sentence: what to look at. It may be empty.
func (e *tlsError) hint() string {
	if v, ok := errors.AsType[*tls.CertificateVerificationError](e.err); ok {
		return e.certificateHint(v)
	}
	_, plaintext := errors.AsType[tls.RecordHeaderError](e.err)
	switch {
	case plaintext, connClosed(e.err):
		return e.names.Sprintf("; does this broker listener speak TLS? If not, leave out %s", hints.BrokerTLS)
	case errors.Is(e.err, context.DeadlineExceeded):
		return "; the broker sends nothing: does this listener speak TLS?"
	case isAlert(e.err) && !aboutCertificates(e.err):
		return " from the broker; which TLS versions and ciphers does this listener accept?"
	case isAlert(e.err):
		return e.names.Sprintf(" from the broker; does it require a client certificate from a CA that it trusts? Set %s and %s",
			hints.BrokerCertFile, hints.BrokerKeyFile)
	}
	return ""
}

func (e *tlsError) certificateHint(v *tls.CertificateVerificationError) string {
	var shown string
	if len(v.UnverifiedCertificates) > 0 {
		shown = v.UnverifiedCertificates[0].Issuer.String()
	}
	if remedy := remedies.Certificate(v, "whoever runs the broker"); remedy != "" {
		return "; " + remedy
	}
	switch v.Err.(type) {
	case x509.UnknownAuthorityError:
		return e.names.Sprintf("; is %q, which signed the broker's certificate, in %s?", shown, hints.BrokerCAFile)
	case x509.HostnameError:
		return e.names.Sprintf("; %s sets the name that the certificate must contain", hints.BrokerServerName)
	}
	return ""
}

// isAlert reports whether err is a TLS alert from the other end. Package crypto/tls exports no type
// for alerts that it receives over TCP, only this Op.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// aboutCertificates reports whether an alert may be about a certificate. Servers without a client's
// certificate send "handshake failure" as well, which has other causes too.
func aboutCertificates(err error) bool {
	text := err.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "handshake failure") || strings.Contains(text, "access denied")
}

// connClosed reports whether the other end closed the connection without an alert.
func connClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// clientHint returns what to look at, for an error of the handshake with a client.
func clientHint(err error, names hints.Names) string {
	_, plaintext := errors.AsType[tls.RecordHeaderError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	if remedy := remedies.Certificate(err, "whoever runs the client"); remedy != "" {
		return remedy
	}
	switch {
	case plaintext:
		return "this port speaks TLS: is the client's security.protocol SSL or SASL_SSL?"
	case untrusted, strings.Contains(err.Error(), "didn't provide a certificate"):
		return names.Sprintf("the client needs a certificate signed by a CA in %s: ssl.keystore.location in Java, ssl.certificate.location in librdkafka",
			hints.ListenClientCA)
	case isAlert(err) && aboutCertificates(err):
		return names.Sprintf("the client rejected the agent's certificate: does the client trust the CA that signed %s, and does the certificate contain the host name that the client uses?",
			hints.ListenTLSCertFile)
	}
	return "which TLS versions does the client support?"
}

// firstBytesHint returns what to look at, for a client whose first bytes are not a Kafka request; ""
// if err is about anything else.
func firstBytesHint(err error, names hints.Names) string {
	foreign, _ := errors.AsType[protocol.ForeignError](err)
	switch {
	case foreign == protocol.TLSClientHello, foreign == protocol.TLSAlert:
		return names.Sprintf("the client speaks TLS and this port does not: set security.protocol to PLAINTEXT or SASL_PLAINTEXT in the client, or give the agent %s",
			hints.ListenTLSCertFile)
	case foreign == protocol.HTTPRequest:
		return "this port speaks Kafka: does a browser, a health check or an HTTP client have its address?"
	case foreign == protocol.ProxyHeader:
		return "turn the PROXY protocol off where the load balancer connects to this port"
	case errors.Is(err, protocol.ErrFrame):
		return "is this a Kafka client, or something that scans ports?"
	}
	return ""
}

// explainForeign wraps the error of a response that is not Kafka's, with a hint. Most often it is a
// TLS alert: the broker's listener uses TLS and we do not.
func explainForeign(err error, names hints.Names) error {
	return fmt.Errorf("read response: %w; does this broker listener require TLS (%s)?", err, names.Of(hints.BrokerTLS))
}
