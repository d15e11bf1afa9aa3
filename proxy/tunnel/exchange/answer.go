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

// AnswerError is an HTTP answer where a tunnel was expected. No retry heals most of them. Its texts are printable, but for what is for an
// [Ingress].
type AnswerError struct {
	URL       string
	Transport string
	Proven    bool // Transport has worked, so that the answer is not about it
	Status    int
	Gateway   bool   // a culvert gateway answered, and not something before it
	Proxy     bool   // the proxy on the way answered, and did not let us through to URL
	Location  string // the host that a redirect leads to
	Text      string // the first line of a gateway's answer; the whole sentence about a proxy's, or about an ingress's that we know
	Remedy    string // what to do about a proxy's answer, or an ingress's
	Final     bool   // an ingress has answered, and would say the same over any transport
	Type      string // Content-Type

	// For an [Ingress] to explain. They may hold what is in no log's place.
	Header http.Header
	Body   []byte // the beginning, of at most maxBody bytes

	Again bool // whoever knows the ingress wants the exchange tried again
}

// maxBody is how much of an answer's body is looked at.
const maxBody = 2 << 10

func (e *AnswerError) Error() string {
	status := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	switch {
	case e.Proxy || !e.Gateway && e.Text != "":
		return e.Text
	case e.Gateway && e.Status == http.StatusUnauthorized:
		return "gateway refused the token: " + e.Text
	case e.Gateway && e.Status == http.StatusForbidden:
		return "gateway lets us not in: " + e.Text
	case e.Gateway:
		return fmt.Sprintf("gateway answered %s: %s", status, e.Text)
	case e.Status/100 == 3:
		return fmt.Sprintf("something before the gateway answered with a redirect (%s) to %s, a login page?", status, e.Location)
	case e.Status == http.StatusNotFound:
		return "no culvert gateway at " + e.URL + " (" + status + ")"
	case e.Status/100 == 2:
		return fmt.Sprintf("answered %s with %s where a tunnel was asked for: not a culvert gateway, or something on the way answers in its place", status, cmp.Or(e.Type, "no content"))
	}
	return fmt.Sprintf("answered %s by something before the gateway", status)
}

// Unwrap makes of a gateway's 503 the ERROR that an open exchange would have got.
func (e *AnswerError) Unwrap() error {
	if e.Gateway && e.Status == http.StatusServiceUnavailable {
		return &Error{CodeDraining, e.Text}
	}
	return nil
}

// HintFor says what to do about the answer, with settings as their user writes them, or nothing.
func (e *AnswerError) HintFor(names hints.Names) string {
	switch {
	case e.Remedy != "":
		return e.Remedy
	case e.Proxy && e.gatewayFailed():
		return names.Sprintf("is the host in %s right, and known where the proxy is?", hints.GatewayURL)
	case e.Proxy:
		return ""
	case e.Gateway && e.Status == http.StatusUnauthorized:
		return names.Sprintf("does the first line of %s stand in the gateway's file too?", hints.TokenFile)
	case e.Gateway:
		return ""
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status/100 == 3:
		return "the ingress before the gateway wants credentials of its own: are they set, and not expired?"
	case e.Status == http.StatusNotFound:
		return names.Sprintf("is the path in %s right? curl -i %s must answer with a %s header", hints.GatewayURL, e.URL, HeaderGateway)
	case e.gatewayFailed():
		return "is the gateway up, and does the ingress route to it?"
	}
	return ""
}

// gatewayFailed reports whether what answered could not reach what is behind it.
func (e *AnswerError) gatewayFailed() bool {
	return e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
}

// Temporary reports whether the same request may be answered otherwise soon.
func (e *AnswerError) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests
}

// ReadAnswer reads an HTTP/1.1 answer as far as it says something.
func ReadAnswer(r io.Reader) *AnswerError {
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	return answerOf(resp.StatusCode, resp.Header, resp.Body)
}

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
