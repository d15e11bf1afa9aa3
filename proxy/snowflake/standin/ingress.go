package standin

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultIdleCut is how long nothing may move on a connection.
const DefaultIdleCut = 90 * time.Second

// The headers that tokens come in. The first one is looked at first.
const (
	headerSPCS          = "X-Sf-Spcs-Authorization"
	headerAuthorization = "Authorization"
	headerUser          = "Sf-Context-Current-User"
)

// An Ingress is before the services of an account. Fields are set before use. As an http.Handler it
// works without Serve, but then no connection is cut and no instance is probed.
type Ingress struct {
	Account  *Account // whose tokens are accepted, and whose host is served too; required
	Services []*Service
	Logger   *slog.Logger // gets what became of each request, at Debug; nil discards

	Certificate tls.Certificate
	IdleCut     time.Duration // 0: DefaultIdleCut
	Lifetime    time.Duration // after which a connection is cut, idle or not; 0: never
	ProbeEvery  time.Duration // 0: DefaultProbeEvery

	// What Snowflake's ingress may do, but does not document.
	HTTP2         bool     // offered to clients; instances always get HTTP/1.1
	Buffers       bool     // a response is held back until it is complete
	PassesUser    bool     // a client's own Sf-Context-Current-User is passed on beside the true one
	HidesRefusals bool     // 404 where there would be a 401 or 403
	TokenHeaders  []string // where tokens are looked for; nil: X-SF-SPCS-Authorization, then Authorization

	once      sync.Once
	proxy     *httputil.ReverseProxy
	transport *http.Transport // to instances
	requests  sync.WaitGroup  // also those that were upgraded, which the server forgets

	mu    sync.Mutex
	stats Stats
}

// Stats are what an ingress has done so far.
type Stats struct {
	Answers  map[int]int // by status: its own, and those of instances
	IdleCuts int         // connections on which nothing moved
	LifeCuts int         // connections past their Lifetime
}

// Stats returns what the ingress has done so far.
func (in *Ingress) Stats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.stats
	s.Answers = maps.Clone(s.Answers)
	return s
}

func (in *Ingress) count(change func(*Stats)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stats.Answers == nil {
		in.stats.Answers = make(map[int]int)
	}
	change(&in.stats)
}

func (in *Ingress) countAnswer(status int) { in.count(func(s *Stats) { s.Answers[status]++ }) }
func (in *Ingress) log() *slog.Logger      { return cmp.Or(in.Logger, slog.New(slog.DiscardHandler)) }

// ServeHTTP authenticates a request, and relays or answers it.
func (in *Ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in.once.Do(in.init)
	in.requests.Add(1)
	defer in.requests.Done()
	host := hostOf(r)
	if host == in.Account.Host {
		in.Account.ServeHTTP(w, r)
		return
	}
	mark(w.Header())
	s, err := in.enter(r, host)
	if err == nil {
		in.relay(w, r, s)
		return
	}
	var a *answer
	if !errors.As(err, &a) {
		a = &answer{status: http.StatusInternalServerError, err: err}
	}
	in.log().Debug("request refused", "method", r.Method, "host", host, "path", r.URL.Path, "status", a.status, "err", err)
	in.countAnswer(a.status)
	a.write(w, in.signIn(r))
}

// hostOf is the name that a request is for, without a port.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.ToLower(host)
}

// visit is a request that was let in.
type visit struct {
	user     string
	instance string
}

// enter lets a request in, or returns the answer that it gets instead.
func (in *Ingress) enter(r *http.Request, host string) (visit, error) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return visit{}, &answer{status: http.StatusMethodNotAllowed, err: fmt.Errorf("method %s is banned", r.Method)}
	}
	service := in.serviceAt(host)
	if service == nil {
		return visit{}, &answer{status: http.StatusNotFound, err: fmt.Errorf("no endpoint at %q", host)}
	}
	token := in.tokenIn(r.Header)
	switch {
	case token == "" && crossOrigin(r):
		return visit{}, &answer{status: http.StatusForbidden, err: errCORS}
	case token == "":
		return visit{}, &answer{status: http.StatusFound, err: errors.New("no token")}
	}
	s, err := in.Account.admit(token, host)
	if err == nil && !slices.Contains(service.Roles, s.role) {
		err = errRole
	}
	if err != nil {
		return visit{}, in.refuse(err)
	}
	instance := service.pick()
	if instance == "" {
		return visit{}, &answer{status: http.StatusServiceUnavailable, err: errors.New("no instance is ready")}
	}
	return visit{s.user, instance}, nil
}

func (in *Ingress) serviceAt(host string) *Service {
	for _, s := range in.Services {
		if slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
			return s
		}
	}
	return nil
}

// tokenIn returns the Snowflake token in a header, or "".
func (in *Ingress) tokenIn(h http.Header) string {
	names := in.TokenHeaders
	if names == nil {
		names = []string{headerSPCS, headerAuthorization}
	}
	for _, name := range names {
		if token := snowflakeToken(h.Get(name)); token != "" {
			return token
		}
	}
	return ""
}

// snowflakeToken is the token of Snowflake Token="…", which one page of the documentation wants
// without its quotes.
func snowflakeToken(authorization string) string {
	token, ok := strings.CutPrefix(authorization, "Snowflake Token=")
	if !ok {
		return ""
	}
	return strings.Trim(token, `"`)
}

// crossOrigin reports whether a page of another site sent the request, so that the user's cookies
// would stand for a token.
func crossOrigin(r *http.Request) bool {
	return r.Header.Get("Origin") != "" && r.Header.Get("Cookie") != "" && r.Method != http.MethodGet && r.Method != http.MethodHead
}

// signIn is where a browser is sent.
func (in *Ingress) signIn(r *http.Request) string {
	back := url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path}
	return (&url.URL{Scheme: "https", Host: in.Account.Host, Path: "/oauth/authorize", RawQuery: url.Values{"redirect_uri": {back.String()}}.Encode()}).String()
}

// refuse is the answer to a token that does not open the endpoint: 404 where the role may not use
// it, so that nobody learns what exists.
func (in *Ingress) refuse(err error) *answer {
	switch {
	case in.HidesRefusals, errors.Is(err, errRole), errors.Is(err, errHost):
		return &answer{status: http.StatusNotFound, err: err}
	case errors.Is(err, errPolicy):
		return &answer{status: http.StatusForbidden, kind: "ERROR_NETWORK_POLICY", err: err}
	}
	return &answer{status: http.StatusUnauthorized, kind: "ERROR_INVALID_TOKEN", err: err}
}
