package race

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// CredentialsError is that credentials could not be had. It says nothing about the ways to the gateway.
type CredentialsError struct{ Err error }

func (e CredentialsError) Error() string { return e.Err.Error() }
func (e CredentialsError) Unwrap() error { return e.Err }

// Authoritative reports an error that would be the same over any transport: there are no credentials, or the gateway, or an ingress that we know,
// has said who may not come in. Other answers of a gateway are about the request, which something on the way may have changed.
func Authoritative(err error) bool {
	if _, ok := errors.AsType[CredentialsError](err); ok {
		return true
	}
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && (e.Final || e.Gateway && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden))
}

// FromGateway reports whether err is a gateway's word, which it would say to another request too. Most of its answers are not: they are about a
// request that something on the way has changed. Front doors are known that make a GET of an extended CONNECT, or lose its path.
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

// Draining reports that the gateway is about to stop, which says nothing about the way to it.
func Draining(err error) bool {
	e, ok := errors.AsType[*exchange.Error](err)
	return ok && e.Code == exchange.CodeDraining
}

// endsRace reports whether a dial that failed with err would have failed over any transport.
func endsRace(err error) bool {
	_, ok := errors.AsType[*exchange.AnswerError](err)
	return ok || Authoritative(err)
}

// fromIngress reports whether something before the gateway answered.
func fromIngress(err error) bool {
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && !e.Gateway
}

// hopeless reports that only somebody's doing can make the next try better.
func hopeless(err error) bool {
	e, ok := errors.AsType[*exchange.AnswerError](err)
	return ok && !e.Temporary()
}

// sameVerdict reports whether two failures mean the same, so that the log has said so already. Answers differ in words from time to time, in a
// number of the request for one.
func sameVerdict(a, b error) bool {
	x, answeredA := errors.AsType[*exchange.AnswerError](a)
	y, answeredB := errors.AsType[*exchange.AnswerError](b)
	if answeredA || answeredB {
		return answeredA && answeredB && x.Status == y.Status
	}
	_, credsA := errors.AsType[CredentialsError](a)
	_, credsB := errors.AsType[CredentialsError](b)
	return !credsA && !credsB || a.Error() == b.Error()
}

// noTransport is the error of a round in which all have failed.
func noTransport(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	var all []string
	for _, err := range failures {
		all = append(all, err.Error())
	}
	return Explain(&noTransportError{failures, "no transport reaches the gateway: " + strings.Join(all, "; ")})
}

type noTransportError struct {
	failures []error
	text     string
}

func (e *noTransportError) Error() string   { return e.text }
func (e *noTransportError) Unwrap() []error { return e.failures }

// Explain adds a hint to an error of a dial where there is one to give, unless the error has one.
func Explain(err error) error {
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return hints.New(err, "what answered shows a certificate for %s, issued by %s; if that is your gateway or its ingress, name the issuer's certificate with %s",
			names(e.Cert), printable.Text(e.Cert.Issuer.String(), printable.Name), hints.GatewayCAFile)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return hints.New(err, "what answered shows a certificate for %s; is %s right?", names(e.Certificate), hints.GatewayURL)
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return hints.New(err, "nothing answers over UDP there; %s ws needs TCP alone", hints.Transport)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return hints.New(err, "what answered does not speak TLS; is the port in %s right?", hints.GatewayURL)
	}
	return err
}

// names are those that a certificate is for.
func names(c *x509.Certificate) string {
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		list = []string{cmp.Or(c.Subject.CommonName, "nobody")}
	}
	return printable.Text(strings.Join(list, ", "), printable.Name)
}
