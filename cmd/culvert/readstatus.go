package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// adminFlags say whose status is read.
type adminFlags struct {
	Admin string `group:"Main settings" placeholder:"URL" help:"The admin listener of an agent or a gateway: a URL, or HOST:PORT. Unset: 127.0.0.1:9464, an agent's, or else 127.0.0.1:9465, a gateway's."`
}

// Where agents and gateways have their admin listener unless told otherwise.
const (
	agentAdmin   = "127.0.0.1:9464"
	gatewayAdmin = "127.0.0.1:9465"
)

// Limits of what the other side, which may be another program, can make us hold and wait for.
const (
	maxStatus     = 8 << 20          // bytes of a document; one of a thousand nodes has less than one MiB
	maxValues     = 1 << 18          // values in it; small ones take more room in memory than in the document
	statusTimeout = 5 * time.Second  // for all of the answer
	maxHeader     = 64 << 10         // bytes of the answer's header
	maxLists      = 4 << 10          // entries of a list that has no bound of its own
	maxTransports = 16               // of one tunnel
	maxPlainText  = printable.Record // bytes of an answer that is not a document
)

// statusReader reads status documents.
type statusReader struct {
	urls   []*url.URL // the first one that answers is asked again
	client *http.Client
}

// reader checks the flag.
func (f adminFlags) reader() (*statusReader, error) {
	r := &statusReader{client: &http.Client{
		Timeout: statusTimeout,
		// No proxy: an admin listener is on this machine, or at the end of a port that is forwarded.
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: statusTimeout}).DialContext, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if strings.TrimSpace(f.Admin) == "" {
		r.urls = []*url.URL{{Scheme: "http", Host: agentAdmin}, {Scheme: "http", Host: gatewayAdmin}}
		return r, nil
	}
	u, err := parseAdmin(strings.TrimSpace(f.Admin))
	if err != nil {
		return nil, wrong("write it as http://"+agentAdmin+", or "+agentAdmin, "--admin %s: %w", f.Admin, err)
	}
	r.urls = []*url.URL{u}
	return r, nil
}

// parseAdmin reads a URL or HOST:PORT.
func parseAdmin(s string) (*url.URL, error) {
	if s == noAdmin {
		return nil, errors.New("a process with --admin-listen none has no status to read")
	}
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the scheme must be http or https")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("neither a user nor a query belongs here")
	case u.Hostname() == "" || u.Port() == "" && u.Scheme == "http":
		return nil, errors.New("host and port are needed")
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/status")
	return u, nil
}

// read returns the document as it came, and decoded. It asks each address until one answers with a
// document.
func (r *statusReader) read(ctx context.Context) (raw []byte, d *document.Document, err error) {
	var failures []error
	for i, u := range r.urls {
		if raw, d, err = r.readFrom(ctx, u); err == nil {
			r.urls = r.urls[i : i+1]
			return raw, d, nil
		}
		if errors.Is(err, errIncompatible) {
			return raw, nil, err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			failures = append(failures, err)
		}
	}
	if failures != nil {
		return nil, nil, failures[0]
	}
	var hosts []string
	for _, u := range r.urls {
		hosts = append(hosts, u.Host)
	}
	return nil, nil, &hints.Error{
		Err:    fmt.Errorf("nothing listens on %s", strings.Join(hosts, " or ")),
		Remedy: "is the agent or gateway running? Give its --admin-listen with --admin; with --admin-listen none it has no status to read",
	}
}

// errIncompatible is about a document that this program cannot decode.
var errIncompatible = errors.New("the status document cannot be read")

func (r *statusReader) readFrom(ctx context.Context, u *url.URL) (raw []byte, d *document.Document, err error) {
	raw, err = r.get(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	var head struct {
		Version int    `json:"version"`
		End     string `json:"end"`
	}
	if bytes.Count(raw, []byte{','}) > maxValues {
		return nil, nil, notCulvert(u, "sends more values than a status document has")
	}
	if !json.Valid(raw) || json.Unmarshal(raw, &head) != nil || head.Version < 1 || head.End != document.Agent && head.End != document.Gateway {
		return nil, nil, notCulvert(u, "answers with something else than a status document")
	}
	d = new(document.Document)
	if err := json.Unmarshal(raw, d); err != nil {
		hint := "use the culvert of that process, or print the document with culvert status --json"
		return raw, nil, &hints.Error{Err: fmt.Errorf("%w: the one of %s has version %d, and this culvert reads version %d: %w", errIncompatible, u.Host, head.Version, document.Version, err), Remedy: hint}
	}
	bound(d)
	return raw, d, nil
}

// bound shortens lists to what a document may have.
func bound(d *document.Document) {
	d.Nodes, d.Events = d.Nodes[:min(len(d.Nodes), document.MaxNodes)], d.Events[:min(len(d.Events), document.MaxEvents)]
	d.Listeners, d.Tunnels = d.Listeners[:min(len(d.Listeners), maxLists)], d.Tunnels[:min(len(d.Tunnels), maxLists)]
	for i, u := range d.Tunnels {
		d.Tunnels[i].Tried, d.Tunnels[i].Carriers = u.Tried[:min(len(u.Tried), maxTransports)], u.Carriers[:min(len(u.Carriers), maxTransports)]
	}
	d.APIs = d.APIs[:min(len(d.APIs), maxLists)]
	d.Credentials, d.Limits = d.Credentials[:min(len(d.Credentials), maxLists)], d.Limits[:min(len(d.Limits), maxLists)]
}

// get returns the body of /status.
func (r *statusReader) get(ctx context.Context, u *url.URL) ([]byte, error) {
	response, body, err := r.fetch(ctx, u.JoinPath("status"), maxStatus)
	if err != nil {
		return nil, r.failed(u, err)
	}
	switch {
	case response.StatusCode == http.StatusOK && len(body) > maxStatus:
		return nil, notCulvert(u, fmt.Sprintf("sends more than %d MiB", maxStatus>>20))
	case response.StatusCode == http.StatusOK:
		return body, nil
	case response.StatusCode == http.StatusForbidden:
		return nil, &hints.Error{Err: fmt.Errorf("%s refuses: %s", u.Host, firstLine(body)), Remedy: "use its IP address or localhost in --admin"}
	case response.StatusCode == http.StatusNotFound && r.isAdmin(ctx, u):
		return nil, &hints.Error{
			Err:    fmt.Errorf("the admin listener at %s does not serve its status", u.Host),
			Remedy: "others can reach that listener: there, --admin-page is needed; or set --admin-listen to an address on loopback, and ask from the same machine",
		}
	}
	return nil, notCulvert(u, fmt.Sprintf("answers %s: %s", response.Status, firstLine(body)))
}

// isAdmin reports whether culvert's list of pages is at u.
func (r *statusReader) isAdmin(ctx context.Context, u *url.URL) bool {
	response, body, err := r.fetch(ctx, u.JoinPath("/"), maxPlainText)
	return err == nil && response.StatusCode == http.StatusOK && bytes.HasPrefix(body, []byte("culvert\n"))
}

// fetch returns an answer, and at most one byte more of its body than most.
func (r *statusReader) fetch(ctx context.Context, u *url.URL, most int64) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	return response, body, err
}

// failed says what it means that there was no answer.
func (r *statusReader) failed(u *url.URL, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens on %s: %w", u.Host, syscall.ECONNREFUSED)
	case errors.Is(err, context.Canceled):
		return err
	case isTimeout(err):
		return &hints.Error{Err: fmt.Errorf("%s has not answered within %v", u.Host, statusTimeout), Remedy: "is that the address of an admin listener, and is the process alive?"}
	case errors.Is(err, http.ErrSchemeMismatch):
		return &hints.Error{Err: fmt.Errorf("what listens on %s speaks HTTP, not HTTPS", u.Host), Remedy: "write http:// in --admin: admin listeners have no TLS"}
	case isDial(err):
		return &hints.Error{Err: fmt.Errorf("read the status of %s: %w", u.Host, err), Remedy: "is the address in --admin right?"}
	}
	return notCulvert(u, "does not answer in HTTP: "+printable.Text(err.Error(), printable.Sentence))
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// notCulvert says that another program is there.
func notCulvert(u *url.URL, why string) error {
	return &hints.Error{
		Err:    fmt.Errorf("what listens on %s is no admin listener of culvert: it %s", u.Host, why),
		Remedy: "give the address of --admin-listen with --admin; the line with listening in the log has it. " + showListeners(cmp.Or(u.Host, agentAdmin)) + " shows what it is",
	}
}

// firstLine is the beginning of a page, printable.
func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body[:min(len(body), maxPlainText)])), "\n")
	return printable.Text(line, printable.Sentence)
}

// visibleJSON is a document as it came, except that a character that is not visible is written as
// JSON writes one: the document means the same, and a terminal does not obey it.
func visibleJSON(raw []byte) string {
	var b strings.Builder
	for rest := raw; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == '\n', r < utf8.RuneSelf && r >= ' ' && r != 0x7f:
			b.WriteRune(r)
		case r < ' ': // between values, the only place where JSON may have it
			b.WriteByte(' ')
		case r > 0xffff && printable.Text(string(r), printable.Name) != string(r):
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case r == utf8.RuneError && size == 1, printable.Text(string(r), printable.Name) != string(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		rest = rest[size:]
	}
	return b.String()
}
