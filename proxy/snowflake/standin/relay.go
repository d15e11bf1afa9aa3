package standin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// maxBuffered bounds a response that is held back.
	maxBuffered = 1 << 20
	// dialTimeout bounds the way to an instance.
	dialTimeout = 5 * time.Second
)

// removed are the headers that are taken out of responses.
var removed = []string{"Server", "X-Powered-By", "X-Xss-Protection", "Public-Key-Pins"}

// added are the headers that are set in each response of an instance.
var added = map[string]string{
	"Content-Security-Policy":      "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; object-src 'none'; connect-src 'self'; frame-ancestors 'self';",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Cross-Origin-Embedder-Policy": "require-corp",
	"X-Frame-Options":              "SAMEORIGIN",
}

// executables are content types whose responses are refused: the two examples in the documentation.
var executables = []string{"application/x-msdownload", "application/x-sh"}

var errExecutable = errors.New("the response is an executable")

type visitKey struct{}

func (in *Ingress) init() {
	in.transport = &http.Transport{
		DialContext:        (&net.Dialer{Timeout: dialTimeout}).DialContext,
		DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: DefaultIdleCut,
	}
	in.proxy = &httputil.ReverseProxy{
		Transport: in.transport, ErrorLog: slog.NewLogLogger(in.log().Handler(), slog.LevelDebug),
		Rewrite: in.rewriteRequest, ModifyResponse: in.modifyResponse, ErrorHandler: in.noResponse,
	}
}

// relay passes a request on to the instance that was picked for it.
func (in *Ingress) relay(w http.ResponseWriter, r *http.Request, v visit) {
	// Over HTTP/1.1 a server otherwise reads all of a request before it answers.
	_ = http.NewResponseController(w).EnableFullDuplex()
	in.log().Debug("request relayed", "method", r.Method, "host", r.Host, "path", r.URL.Path, "user", v.user, "instance", v.instance)
	in.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
}

// rewriteRequest takes the tokens out of a request, and says whose they were. What it does not name
// goes on as it came, an Upgrade to anything included.
func (in *Ingress) rewriteRequest(r *httputil.ProxyRequest) {
	v := r.In.Context().Value(visitKey{}).(visit)
	r.SetURL(&url.URL{Scheme: "http", Host: v.instance})
	r.Out.Host = r.In.Host
	h := r.Out.Header
	h.Del(headerSPCS)
	if snowflakeToken(h.Get(headerAuthorization)) != "" {
		h.Del(headerAuthorization)
	}
	if !in.PassesUser {
		h.Del(headerUser)
	}
	h.Add(headerUser, v.user)
}

// modifyResponse refuses executables, and sets the headers as documented.
func (in *Ingress) modifyResponse(r *http.Response) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if slices.Contains(executables, kind) {
		return errExecutable
	}
	for _, name := range removed {
		r.Header.Del(name)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "Access-Control-") { // the service's specification has no corsSettings
			r.Header.Del(name)
		}
	}
	for name, value := range added {
		r.Header.Set(name, value)
	}
	if in.Buffers && r.StatusCode != http.StatusSwitchingProtocols {
		if err := buffer(r); err != nil {
			return err
		}
	}
	in.countAnswer(r.StatusCode)
	return nil
}

// buffer reads a response to its end, up to maxBuffered.
func buffer(r *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBuffered+1))
	if err != nil {
		return fmt.Errorf("read a response: %w", err)
	}
	if len(body) > maxBuffered {
		return fmt.Errorf("a response of more than %d bytes", maxBuffered)
	}
	r.Body.Close()
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", fmt.Sprint(len(body)))
	return nil
}

// noResponse answers where an instance did not, or with an executable.
func (in *Ingress) noResponse(w http.ResponseWriter, r *http.Request, err error) {
	a := &answer{status: http.StatusServiceUnavailable, err: err}
	if errors.Is(err, errExecutable) {
		a.status = http.StatusForbidden
	}
	in.log().Debug("request failed", "method", r.Method, "host", r.Host, "path", r.URL.Path, "status", a.status, "err", err)
	in.countAnswer(a.status)
	a.write(w, "")
}
