package tunnel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"golang.org/x/net/proxy"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// findProxy sets the proxy on the way to the gateway, or the error why it cannot be used. ask nil
// means the environment.
func (r *route) findProxy(ask func(gateway *url.URL) (*url.URL, error)) {
	if ask == nil {
		ask = ProxyFromEnvironment
	}
	r.proxy, r.proxyErr = ask(r.url)
	if r.proxy != nil && r.proxyErr == nil {
		r.proxy, r.proxyErr = checkProxy(r.proxy)
	}
}

// checkProxy refuses proxies of unsupported schemes, and adds the default port.
func checkProxy(u *url.URL) (*url.URL, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port, known := ports[u.Scheme]
	if !known || u.Hostname() == "" {
		return nil, &hints.Error{
			Err:    fmt.Errorf("unsupported proxy %s", withoutUser(u)),
			Remedy: "use a URL that begins with http://, https:// or socks5://",
		}
	}
	full := *u
	full.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return &full, nil
}

// withoutUser returns the proxy's URL without credentials, for logs.
func withoutUser(u *url.URL) string {
	return u.Scheme + "://" + u.Host
}

// dialThrough connects to the gateway through a proxy.
func (r *route) dialThrough(ctx context.Context, through *url.URL) (net.Conn, error) {
	if strings.HasPrefix(through.Scheme, "socks") {
		return r.dialSOCKS(ctx, through)
	}
	tcp, err := r.dialProxy(ctx, "tcp", through.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { tcp.SetDeadline(aLongTimeAgo) })
	c, err := r.connect(ctx, tcp, through)
	if !stop() {
		err = fmt.Errorf("the proxy did not answer: %w", context.Cause(ctx))
	}
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return c, nil
}

// dialProxy connects to the proxy itself.
func (r *route) dialProxy(ctx context.Context, _, addr string) (net.Conn, error) {
	c, err := dialSecure(ctx, r, addr, plain)
	if err == nil {
		return c, nil
	}
	if remedies.CauseOf(err) == remedies.NoDescriptors {
		return nil, hints.New(fmt.Errorf("cannot reach the proxy: %w", err), remedies.Descriptors)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, &hints.Error{
		Err:    fmt.Errorf("cannot reach the proxy: %w", err),
		Remedy: fmt.Sprintf("is %s right? To bypass the proxy, add %s to NO_PROXY", variable(r.url), r.url.Hostname()),
	}
}

// connect makes the proxy connect tcp to the gateway, with HTTP CONNECT. net/http would do that
// only inside http.Transport, which hides three things that we need: the connection itself, for
// WebSocket and for our wire below TLS; the proxy's response, for an error that says what to do;
// and the bytes that arrive right after it.
func (r *route) connect(ctx context.Context, tcp net.Conn, through *url.URL) (net.Conn, error) {
	c := &proxyConn{Conn: tcp}
	if through.Scheme == "https" {
		var err error
		if c, err = r.tlsToProxy(ctx, tcp, through.Hostname()); err != nil {
			return nil, err
		}
	}
	req := r.connectRequest(through.User)
	if err := req.Write(c); err != nil {
		return nil, fmt.Errorf("write CONNECT to the proxy: %w", err)
	}
	limited := &io.LimitedReader{R: c, N: exchange.MaxHeader}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, req)
	switch {
	case err != nil && limited.N == 0:
		return nil, fmt.Errorf("read the proxy's answer to CONNECT: its header is longer than %d bytes", exchange.MaxHeader)
	case err != nil:
		return nil, fmt.Errorf("read the proxy's answer to CONNECT: %w", err)
	case resp.StatusCode/100 != 2:
		return nil, r.proxyAnswer(resp, through.User != nil)
	}
	c.early, _ = br.Peek(br.Buffered())
	if c.below == nil && len(c.early) == 0 {
		return tcp, nil
	}
	return c, nil
}

// connectRequest returns the CONNECT request, with Basic credentials if the proxy's URL has any.
func (r *route) connectRequest(user *url.Userinfo) *http.Request {
	req := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: r.addr()},
		Host:   r.addr(),
		Header: http.Header{"User-Agent": {"culvert/" + Version}},
	}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	return req
}

// proxyAnswer returns the error for a proxy that did not connect us, with a remedy.
func (r *route) proxyAnswer(resp *http.Response, hadCredentials bool) *AnswerError {
	e := &AnswerError{URL: r.addr(), Status: resp.StatusCode, Proxy: true}
	status := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	switch e.Status {
	case http.StatusProxyAuthRequired:
		offered := cmp.Or(printable.Text(strings.Join(resp.Header.Values("Proxy-Authenticate"), ", "), printable.Name), "no scheme offered")
		e.Text = fmt.Sprintf("the proxy requires credentials (%s)", offered)
		e.Remedy = "put them in its URL: " + variable(r.url) + "=http://USER:PASSWORD@host:port"
		switch {
		case !strings.Contains(strings.ToLower(offered), "basic"):
			e.Remedy = "culvert supports only Basic; a local proxy in between, such as cntlm, can translate"
		case hadCredentials:
			e.Text = fmt.Sprintf("the proxy refused the credentials (%s)", offered)
			e.Remedy = "are the user and password in " + variable(r.url) + " right? Special characters must be percent-encoded: " + encodings
		}
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		e.Text = fmt.Sprintf("the proxy refuses to connect to %s (%s)", e.URL, status)
		e.Remedy = fmt.Sprintf("ask whoever runs the proxy to allow CONNECT to %s; to bypass the proxy, add %s to NO_PROXY", e.URL, r.url.Hostname())
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.Text = fmt.Sprintf("the proxy cannot connect to %s (%s)", e.URL, status)
	default:
		e.Text = fmt.Sprintf("the proxy answered %s to CONNECT", status)
	}
	return e
}

// dialSOCKS connects through a SOCKS 5 proxy, which resolves the gateway's name.
func (r *route) dialSOCKS(ctx context.Context, through *url.URL) (net.Conn, error) {
	var auth *proxy.Auth
	if u := through.User; u != nil {
		auth = &proxy.Auth{User: u.Username()}
		auth.Password, _ = u.Password()
	}
	s, err := proxy.SOCKS5("tcp", through.Host, auth, dialFunc(r.dialProxy))
	if err != nil {
		return nil, err
	}
	return s.(proxy.ContextDialer).DialContext(ctx, "tcp", r.addr())
}

// A dialFunc is a function as proxy.ContextDialer.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial satisfies proxy.Dialer. Nobody calls it: golang.org/x/net/proxy prefers DialContext.
func (f dialFunc) Dial(network, addr string) (net.Conn, error) { return nil, errors.ErrUnsupported }

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// A proxyConn is a connection through a proxy that is more than the TCP connection to it: TLS to
// the proxy, or bytes that arrived early.
type proxyConn struct {
	net.Conn                // TCP, or TLS to the proxy
	early    []byte         // arrived right after the proxy's response; owned by the reader
	below    *exchange.Wire // the wire below TLS to the proxy; nil without TLS
}

// tlsToProxy starts TLS on the TCP connection to a proxy. A tls.Conn is unusable after a write
// deadline, so this one gets a wire below it, as does the TLS to the gateway that runs inside.
func (r *route) tlsToProxy(ctx context.Context, tcp net.Conn, host string) (*proxyConn, error) {
	cfg := &tls.Config{}
	if r.proxyTLS != nil {
		cfg = r.proxyTLS.Clone()
	}
	cfg.ServerName = host
	cfg.NextProtos = []string{"http/1.1"}
	below := exchange.NewWire(tcp, nil)
	t := tls.Client(below, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, explainProxyTLS(fmt.Errorf("TLS handshake with the proxy: %w", err))
	}
	below.Hold()
	return &proxyConn{Conn: t, below: below}, nil
}

// explainProxyTLS adds to an error of the handshake with a proxy what to do about it. No setting of
// ours names authorities for proxies: the system's are trusted.
func explainProxyTLS(err error) error {
	if remedy := remedies.Certificate(err, "whoever runs the proxy"); remedy != "" {
		return hints.New(err, "%s", remedy)
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return hints.New(err, "add the certificate of "+printable.Text(e.Cert.Issuer.String(), printable.Name)+
			" to those that this system trusts; except on Windows and macOS, SSL_CERT_FILE=FILE does that for one process")
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return hints.New(err, "is the host in the proxy's URL the one in its certificate?")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return hints.New(err, "the proxy does not speak TLS on that port: does its URL begin with http:// and not with https://?")
	}
	return err
}

// Read returns the early bytes first.
func (c *proxyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write may have accepted all of p even if it returns a timeout; see [exchange.NewWire].
func (c *proxyConn) Write(p []byte) (int, error) {
	if c.below == nil {
		return c.Conn.Write(p)
	}
	if err := c.below.Flush(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		return n, err
	}
	return n, c.below.Flush()
}

// dialGateway connects to the gateway, through a proxy if one is set. See dialSecure.
func dialGateway[C net.Conn](ctx context.Context, r *route, secure func(context.Context, net.Conn) (C, error)) (c C, err error) {
	switch {
	case r.proxyErr != nil:
		return c, r.proxyErr
	case r.proxy == nil:
		var reached atomic.Bool // over TCP, so that explain has nothing to say
		c, err = dialSecure(ctx, r, r.addr(), func(ctx context.Context, tcp net.Conn) (C, error) {
			reached.Store(true)
			return secure(ctx, tcp)
		})
		if err != nil && !reached.Load() {
			err = r.explain(ctx, err)
		}
		return c, err
	}
	tunnel, err := r.dialThrough(ctx, r.proxy)
	if err != nil {
		return c, err
	}
	if c, err = secure(ctx, tunnel); err != nil {
		tunnel.Close()
	}
	return c, err
}

// newWire returns the wire above a connection that dialGateway made.
func newWire(c net.Conn) *exchange.Wire {
	if p, ok := c.(*proxyConn); ok {
		return exchange.NewWire(c, p.below)
	}
	return exchange.NewWire(c, nil)
}
