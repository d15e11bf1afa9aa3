package race

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// CredentialsError means that there are no credentials for the gateway or its ingress. It says
// nothing about any transport.
type CredentialsError struct{ Err error }

func (e CredentialsError) Error() string { return e.Err.Error() }
func (e CredentialsError) Unwrap() error { return e.Err }

// Authoritative reports whether err would be the same over any transport: there are no credentials,
// or the gateway, or an ingress that we know, has refused them. Other answers of a gateway are
// about the request, which something on the way may have changed.
func Authoritative(err error) bool {
	if _, ok := errors.AsType[CredentialsError](err); ok {
		return true
	}
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && (e.Final || e.Gateway && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden))
}

// FromGateway reports whether err is the gateway's own decision, which it would repeat for another
// request. Most of its HTTP answers are not: they are about a request that something on the way has
// changed. Some intermediaries turn an extended CONNECT into a GET, or lose its path.
func FromGateway(err error) bool {
	if Authoritative(err) {
		return true
	}
	if e, ok := errors.AsType[*exchange.AnswerError](err); ok {
		return e.Gateway && e.Status == http.StatusServiceUnavailable
	}
	_, ok := errors.AsType[*exchange.Error](err)
	return ok
}

// Draining reports whether err says that the gateway is about to stop. No transport is to blame for
// that.
func Draining(err error) bool {
	e, ok := errors.AsType[*exchange.Error](err)
	return ok && e.Code == exchange.CodeDraining
}

// endsRace reports whether a dial that failed with err would fail over any transport.
func endsRace(err error) bool {
	_, ok := errors.AsType[*exchange.AnswerError](err)
	return ok || Authoritative(err)
}

// fromIngress reports whether something in front of the gateway answered.
func fromIngress(err error) bool {
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && !e.Gateway
}

// permanent reports whether err will not go away by waiting: somebody has to change something.
func permanent(err error) bool {
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && !e.Temporary()
}

// maxKinds bounds the lines about one outage, when its reason changes.
const maxKinds = 8

// isNews reports whether a verdict is of a kind that has not been logged for this outage, and notes
// that it has been. The texts of one kind may differ, for example in a request number.
func (v *verdict) isNews(err error) bool {
	kind := kindOf(err)
	if slices.Contains(v.logged, kind) || len(v.logged) >= maxKinds {
		return false
	}
	v.logged = append(v.logged, kind)
	return true
}

// kindOf returns what two failures have in common that want the same from their reader.
func kindOf(err error) string {
	if e, ok := errors.AsType[*exchange.AnswerError](err); ok {
		return http.StatusText(e.Status)
	}
	if e, ok := errors.AsType[CredentialsError](err); ok {
		return e.Error()
	}
	return strings.Join(hints.Of(err, nil), "; ")
}

// noTransport returns the error of a round in which all transports have failed. A reason that
// several have in common is in it once. Each failure has its hint already.
func noTransport(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	text := "no transport reaches the gateway: " + summary(failures)
	failures = slices.Clone(failures)
	for i, err := range failures {
		failures[i] = withoutOverTCP(err)
	}
	return &noTransportError{failures, text}
}

// A noTransportError wraps the failures of all transports, so that callers can look for each of
// them.
type noTransportError struct {
	failures []error
	text     string
}

func (e *noTransportError) Error() string   { return e.text }
func (e *noTransportError) Unwrap() []error { return e.failures }

// Explain adds a hint to the error of a dial if there is one to give. An error keeps a hint that it
// has: that was given where more was known, such as whose certificate it is about.
func Explain(err error) error {
	if hints.Of(err, nil) != nil {
		return err
	}
	if remedy := remedies.Certificate(err, "whoever runs the gateway or its ingress"); remedy != "" {
		return hints.New(err, "%s", remedy)
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return hints.New(err, "the server presented a certificate for %s, issued by %s; if that is your gateway or its ingress, pass the issuer's certificate with %s",
			names(e.Cert), printable.Text(e.Cert.Issuer.String(), printable.Name), hints.GatewayCAFile)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return hints.New(err, "the server presented a certificate for %s; is %s right?", names(e.Certificate), hints.GatewayURL)
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok || overUDP(err) {
		return hints.New(err, overTCP, hints.Transport)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return hints.New(err, "the server does not speak TLS; is the port in %s right?", hints.GatewayURL)
	}
	return err
}

// overTCP is the hint of a transport over UDP that does not work.
const overTCP = "nothing answers over UDP; %s ws needs only TCP"

// withoutOverTCP returns err without that hint, for those who have tried TCP.
func withoutOverTCP(err error) error {
	if e, ok := errors.AsType[*hints.Error](err); ok && e.Remedy == overTCP {
		return e.Err
	}
	return err
}

// overUDP reports whether err is about a UDP socket.
func overUDP(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && strings.HasPrefix(op.Net, "udp")
}

// names returns the names that a certificate is for.
func names(c *x509.Certificate) string {
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		list = []string{cmp.Or(c.Subject.CommonName, "no name")}
	}
	return printable.Text(strings.Join(list, ", "), printable.Name)
}
