package exchange

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// AnswerError is an HTTP response that opened no tunnel. Most of these errors persist when the
// request is retried. Its texts are printable, except for those that are for a tunnel.Ingress.
type AnswerError struct {
	URL       string
	Transport string
	Proven    bool // Transport has worked before, so the response is not about the transport
	Status    int
	Gateway   bool   // sent by a culvert gateway, and not by something in front of it
	Proxy     bool   // sent by the proxy, which did not connect us to URL
	Location  string // the host that a redirect leads to
	// The first line of a gateway's response; for a proxy, or an ingress that we know, the whole
	// sentence.
	Text   string
	Remedy string // what to do about the response of a proxy or an ingress
	Final  bool   // an ingress has decided, and would say the same over any transport
	Type   string // Content-Type

	// For a tunnel.Ingress to interpret. They may contain secrets and must not be logged.
	Header http.Header
	Body   []byte // the beginning, at most maxBody bytes

	Again bool // the ingress wants the exchange retried
}

// maxBody is how much of a response's body is read, in bytes.
const maxBody = 2 << 10

// Error names who answered, and what, as far as that can be told.
func (e *AnswerError) Error() string {
	status := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	switch {
	case e.Proxy || !e.Gateway && e.Text != "":
		return e.Text
	case e.Gateway && e.Status == http.StatusUnauthorized:
		return "gateway refused the token: " + e.Text
	case e.Gateway && e.Status == http.StatusForbidden:
		return "gateway denied access: " + e.Text
	case e.Gateway:
		return fmt.Sprintf("gateway answered %s: %s", status, e.Text)
	case e.Status/100 == 3:
		return fmt.Sprintf("something in front of the gateway answered with a redirect (%s) to %s, probably a login page", status, e.Location)
	case e.Status == http.StatusNotFound:
		return "no culvert gateway at " + e.URL + " (" + status + ")"
	case e.Status/100 == 2:
		return fmt.Sprintf("answered %s with %s instead of a tunnel: not a culvert gateway, or something on the way answers for it", status, cmp.Or(e.Type, "no content"))
	}
	return fmt.Sprintf("something in front of the gateway answered %s", status)
}

// Unwrap turns a gateway's 503 into the ERROR that an open exchange would have received, so that
// callers need to look only for that.
func (e *AnswerError) Unwrap() error {
	if e.Gateway && e.Status == http.StatusServiceUnavailable {
		return &Error{Code: CodeDraining, Message: e.Text}
	}
	return nil
}

// HintFor returns what to do about the response, with settings as the user writes them, or "".
func (e *AnswerError) HintFor(names hints.Names) string {
	switch {
	case e.Remedy != "":
		return e.Remedy
	case e.Proxy && e.gatewayFailed():
		return names.Sprintf("is the host in %s right, and can the proxy resolve it?", hints.GatewayURL)
	case e.Proxy:
		return ""
	case e.Gateway && e.Status == http.StatusUnauthorized && strings.HasPrefix(e.Text, "unknown token"):
		return names.Sprintf("is the first line of %s in the gateway's file too?", hints.TokenFile)
	case e.Gateway:
		return ""
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status/100 == 3:
		return "the ingress in front of the gateway requires credentials of its own: are they set, and still valid?"
	case e.Status == http.StatusNotFound:
		return names.Sprintf("is the path in %s right? curl -i %s should return a %s header", hints.GatewayURL, e.URL, HeaderGateway)
	case e.gatewayFailed():
		return "is the gateway up, and does the ingress route to it?"
	case e.Status == http.StatusLengthRequired:
		return "the ingress passes on no request without a length: only ws works behind it"
	case e.Status/100 == 2:
		return names.Sprintf("another web server answers: is %s that of the gateway, and does the ingress route its path there? curl -i %s should return a %s header",
			hints.GatewayURL, e.URL, HeaderGateway)
	}
	return ""
}

// gatewayFailed reports whether whoever answered could not reach the server behind it.
func (e *AnswerError) gatewayFailed() bool {
	return e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
}

// Temporary reports whether the same request may get another response soon.
func (e *AnswerError) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests
}

// ReadAnswer reads an HTTP/1.1 response. It returns nil if r contains none.
func ReadAnswer(r io.Reader) *AnswerError {
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	return answerOf(resp.StatusCode, resp.Header, resp.Body)
}

// answerOf makes an AnswerError of a response. It makes printable whatever may be logged.
func answerOf(status int, h http.Header, body io.Reader) *AnswerError {
	e := &AnswerError{Status: status, Type: printable.Text(h.Get("Content-Type"), printable.Name), Header: h}
	e.Body, _ = io.ReadAll(io.LimitReader(body, maxBody))
	if u, err := url.Parse(h.Get("Location")); err == nil {
		e.Location = printable.Text(cmp.Or(u.Host, u.Path), printable.Name)
	}
	if _, e.Gateway = h[HeaderGateway]; e.Gateway {
		line, _, _ := strings.Cut(string(e.Body), "\n")
		e.Text = printable.Text(strings.TrimSuffix(line, "\r"), printable.Sentence)
	}
	return e
}
