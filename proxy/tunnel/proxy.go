package tunnel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// findProxy looks up the proxy before the gateway.
func (r *route) findProxy(ask func(gateway *url.URL) (*url.URL, error)) {
	if ask == nil {
		ask = ProxyFromEnvironment
	}
	r.proxy, r.proxyErr = ask(r.url)
	if r.proxy != nil && r.proxyErr == nil {
		r.proxy, r.proxyErr = checkProxy(r.proxy)
	}
}

// variable is the environment variable that names the proxy for URLs such as the gateway's.
func variable(gateway *url.URL) string {
	return strings.ToUpper(gateway.Scheme) + "_PROXY"
}

// ProxyFromEnvironment returns the proxy that HTTPS_PROXY or HTTP_PROXY names, nil where there is none or NO_PROXY lists the gateway, or an
// error, with a hint, if that is no proxy that a [Dialer] can use. No proxy stands before loopback.
func ProxyFromEnvironment(gateway *url.URL) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	env.CGI = false // REQUEST_METHOD means nothing to us
	if u, _ := env.ProxyFunc()(gateway); u != nil {
		return checkProxy(u)
	}
	// The parser takes for none what it cannot read, and we would go around a proxy that was meant.
	for _, set := range []*string{&env.HTTPSProxy, &env.HTTPProxy} {
		if *set != "" {
			*set = "http://proxy"
		}
	}
	if u, _ := env.ProxyFunc()(gateway); u == nil {
		return nil, nil
	}
	return nil, &hints.Error{
		Err:    fmt.Errorf("%s is not the URL of a proxy", variable(gateway)),
		Remedy: "write it as " + variable(gateway) + "=http://USER:PASSWORD@host:port, with what is special in URLs written as %40 for @",
	}
}

// checkProxy refuses proxies of a kind that we do not speak to, and fills in the port.
func checkProxy(u *url.URL) (*url.URL, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port, known := ports[u.Scheme]
	if !known || u.Hostname() == "" {
		return nil, &hints.Error{
			Err:    fmt.Errorf("no way to speak to the proxy %s", withoutUser(u)),
			Remedy: "its URL begins with http://, https:// or socks5://",
		}
	}
	full := *u
	full.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return &full, nil
}

// withoutUser is a proxy as it may be logged.
func withoutUser(u *url.URL) string {
	return u.Scheme + "://" + u.Host
}

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
		err = fmt.Errorf("the proxy does not answer: %w", context.Cause(ctx))
	}
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return c, nil
}

// dialProxy connects to the proxy.
func (r *route) dialProxy(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := r.dialAddr(ctx, network, addr)
	if err == nil {
		return c, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, &hints.Error{
		Err:    fmt.Errorf("the proxy cannot be reached: %w", err),
		Remedy: fmt.Sprintf("is %s right? With %s in NO_PROXY the way leads around it", variable(r.url), r.url.Hostname()),
	}
}

// connect has the proxy connect tcp to the gateway, by HTTP CONNECT.
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

// proxyAnswer says what a proxy answered instead of connecting us.
func (r *route) proxyAnswer(resp *http.Response, hadCredentials bool) *AnswerError {
	e := &AnswerError{URL: r.addr(), Status: resp.StatusCode, Proxy: true}
	status := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	switch e.Status {
	case http.StatusProxyAuthRequired:
		offered := cmp.Or(printable.Text(strings.Join(resp.Header.Values("Proxy-Authenticate"), ", "), printable.Name), "no scheme named")
		e.Text = fmt.Sprintf("the proxy wants credentials (%s)", offered)
		e.Remedy = "put them into its URL: " + variable(r.url) + "=http://USER:PASSWORD@host:port"
		switch {
		case !strings.Contains(strings.ToLower(offered), "basic"):
			e.Remedy = "culvert knows only Basic; a proxy of your own before that one, such as cntlm, can translate"
		case hadCredentials:
			e.Text = fmt.Sprintf("the proxy refused the credentials (%s)", offered)
			e.Remedy = "are user and password in " + variable(r.url) + " right? What is special in URLs is written as %40 for @"
		}
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		e.Text = fmt.Sprintf("the proxy refuses to connect to %s (%s)", e.URL, status)
		e.Remedy = fmt.Sprintf("whoever runs the proxy can allow CONNECT to %s; with %s in NO_PROXY the way leads around it", e.URL, r.url.Hostname())
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.Text = fmt.Sprintf("the proxy cannot connect to %s (%s)", e.URL, status)
	default:
		e.Text = fmt.Sprintf("the proxy answered %s to CONNECT", status)
	}
	return e
}

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

// dialFunc makes a dialer of a function.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial is for nobody: whoever has a context calls DialContext.
func (f dialFunc) Dial(network, addr string) (net.Conn, error) { return nil, errors.ErrUnsupported }

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// A proxyConn is a connection through a proxy where that is more than the TCP connection to it.
type proxyConn struct {
	net.Conn                // TCP, or TLS to the proxy
	early    []byte         // what came behind the proxy's answer; owned by the reader
	below    *exchange.Wire // what the TLS to the proxy writes to; nil if there is none
}

// tlsToProxy makes TLS of a TCP connection to a proxy. A deadline for writing must not reach that TLS, which would not survive it: so there is
// a wire below, as there is below the TLS that goes through the proxy.
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
		return nil, fmt.Errorf("TLS handshake with the proxy: %w", err)
	}
	below.Hold()
	return &proxyConn{Conn: t, below: below}, nil
}

func (c *proxyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write may have taken all of p when a deadline passes; see exchange.NewWire.
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
