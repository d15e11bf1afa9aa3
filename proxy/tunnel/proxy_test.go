package tunnel

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A testProxy passes each connection it accepts to serve.
type testProxy struct {
	t        *testing.T
	ln       net.Listener
	serve    func(net.Conn)
	wg       sync.WaitGroup
	requests chan *http.Request
}

func newTestProxy(t *testing.T, cfg *tls.Config, serve func(p *testProxy, c net.Conn)) *testProxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		ln = tls.NewListener(ln, cfg)
	}
	p := &testProxy{t: t, ln: ln, requests: make(chan *http.Request, 100)}
	p.serve = func(c net.Conn) { serve(p, c) }
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.wg.Wait()
	})
	return p
}

func (p *testProxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() {
			defer c.Close()
			p.serve(c)
		})
	}
}

// url returns the proxy's URL, with credentials.
func (p *testProxy) url(scheme string) func(*url.URL) (*url.URL, error) {
	u := &url.URL{Scheme: scheme, Host: p.ln.Addr().String(), User: url.UserPassword("user", "pass@word")}
	return func(*url.URL) (*url.URL, error) { return u, nil }
}

// connect behaves as an HTTP proxy.
func connect(p *testProxy, c net.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	p.requests <- req
	if req.Method != http.MethodConnect || br.Buffered() > 0 {
		p.t.Errorf("%s, and %d bytes too early", req.Method, br.Buffered())
	}
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n")
	p.relay(c, req.Host)
}

func (p *testProxy) relay(c net.Conn, addr string) {
	to, err := net.Dial("tcp", addr)
	if err != nil {
		p.t.Error(err)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(to, c); to.Close(); c.Close() })
	io.Copy(c, to)
	to.Close()
	c.Close()
	wg.Wait()
}

// answering returns a proxy that sends the same answer to everybody.
func answering(text string) func(p *testProxy, c net.Conn) {
	return func(p *testProxy, c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, text)
	}
}

func TestTCPGoesThroughTheProxy(t *testing.T) {
	proxyServer, proxyClient := testTLS()
	for _, kind := range []string{"ws", "plain", "h2", "auto"} {
		for _, scheme := range []string{"http", "https"} {
			var log bytes.Buffer
			var p *testProxy
			r := newRig(t, kind, func(r *rig) {
				p = newTestProxy(t, map[string]*tls.Config{"https": proxyServer}[scheme], connect)
				r.dialer.Proxy, r.dialer.proxyTLS = p.url(scheme), proxyClient
				r.dialer.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			for i := range 2 {
				c, s := r.dial()
				if want := map[string]string{"h2": TransportH2}[kind]; s.peer.Transport != cmp.Or(want, TransportWS) {
					t.Errorf("%s over %s: the transport is %s", kind, scheme, s.peer.Transport)
				}
				want := random(1 << 20)
				go c.Write(want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s over %s: read something else, %v", kind, scheme, err)
				}
				if kind == "h2" && i > 0 {
					continue // the same connection
				}
				req := <-p.requests
				if req.Host != r.addr || req.Header.Get("Proxy-Authorization") != "Basic dXNlcjpwYXNzQHdvcmQ=" || req.Header.Get(headerAuthorization) != "" {
					t.Errorf("%s over %s: CONNECT %s %v", kind, scheme, req.Host, req.Header)
				}
			}
			r.stop()
			if n := strings.Count(log.String(), "through a proxy"); n != 1 || strings.Contains(log.String(), "pass") {
				t.Errorf("%s over %s: the proxy was logged %d times, want once and without the password:\n%s", kind, scheme, n, log.String())
			}
		}
	}
}

func TestSOCKS(t *testing.T) {
	p := newTestProxy(t, nil, socks)
	r := newRig(t, "ws", func(r *rig) { r.dialer.Proxy = p.url("socks5") })
	c, s := r.dial()
	c.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

// socks behaves as a SOCKS proxy that requires user and password (RFC 1928, RFC 1929).
func socks(p *testProxy, c net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(c, b)
		return b
	}
	read(int(read(2)[1]))
	c.Write([]byte{5, 2})
	user := read(int(read(2)[1]))
	password := read(int(read(1)[0]))
	if string(user) != "user" || string(password) != "pass@word" {
		p.t.Errorf("user %q, password %q", user, password)
	}
	c.Write([]byte{1, 0})
	if head := read(4); head[3] != 1 {
		p.t.Errorf("address of type %d", head[3])
		return
	}
	ip, port := net.IP(read(4)), binary.BigEndian.Uint16(read(2))
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	p.relay(c, fmt.Sprintf("%s:%d", ip, port))
}

func TestWhatComesBehindTheProxysAnswerIsKept(t *testing.T) {
	p := newTestProxy(t, nil, answering("HTTP/1.1 200 OK\r\n\r\nearly"))
	d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Proxy: p.url("http")}
	defer d.Close()
	d.init()
	c, err := dialGateway(t.Context(), d.route, plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "early" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestWhatAProxySaysInstead(t *testing.T) {
	for _, tt := range []struct {
		name, answer, want, hint string
	}{
		{"no credentials", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n",
			`the proxy refused the credentials (Basic realm="corp")`, "HTTPS_PROXY"},
		{"another scheme", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\xe9\r\n\r\n",
			`the proxy requires credentials (Negotiate, NTLM\xe9)`, "supports only Basic"},
		{"refusal", "HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy refuses to connect to gateway.example:443 (403 Forbidden)", "allow CONNECT to gateway.example:443"},
		{"no way", "HTTP/1.1 503 Service Unavailable\r\n\r\n", "the proxy cannot connect to gateway.example:443 (503 Service Unavailable)", "--gateway-url"},
		{"not even CONNECT", "HTTP/1.1 400 Bad Request\r\n\r\n", "the proxy answered 400 Bad Request to CONNECT", ""},
		{"not HTTP", "220 mail.example ESMTP\r\n\r\n", "read the proxy's answer to CONNECT: malformed HTTP", ""},
		{"nothing", "", "read the proxy's answer to CONNECT: unexpected EOF", ""},
		{"too much", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", exchange.MaxHeader), "its header is longer than 16384 bytes", ""},
	} {
		p := newTestProxy(t, nil, answering(tt.answer))
		d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Transport: TransportWS, Proxy: p.url("http")}
		_, err := d.Dial(t.Context(), Open{}, nil)
		want := "dial gateway gateway.example:443 over ws through the proxy " + p.ln.Addr().String() + ": "
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "pass@") {
			t.Errorf("%s: %v, want %s…%s", tt.name, err, want, tt.want)
		}
		hint := hintsOf(err)
		if (hint == "") != (tt.hint == "") || !strings.Contains(hint, tt.hint) {
			t.Errorf("%s: hint %q, want …%s…", tt.name, hint, tt.hint)
		}
		d.Close()
	}
}

func TestAProxyThatWantsCredentials(t *testing.T) {
	p := newTestProxy(t, nil, answering("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n"))
	d := &Dialer{URL: &url.URL{Scheme: "http", Host: "gateway.example"}, Transport: TransportWS, Proxy: func(*url.URL) (*url.URL, error) {
		return &url.URL{Scheme: "http", Host: p.ln.Addr().String()}, nil
	}}
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{}, nil)
	e, ok := errors.AsType[*AnswerError](err)
	if !ok || e.Error() != `the proxy requires credentials (Basic realm="corp")` || !strings.Contains(hintsOf(err), "HTTP_PROXY=http://USER:PASSWORD@host:port") || e.Temporary() {
		t.Errorf("Dial: %v, hint %q", err, hintsOf(err))
	}
}

func TestAProxyThatDoesNotAnswerIsNamed(t *testing.T) {
	silent := newTestProxy(t, nil, func(_ *testProxy, c net.Conn) { io.Copy(io.Discard, c) })
	gone := newTestProxy(t, nil, connect)
	gone.ln.Close()
	for _, tt := range []struct {
		p    *testProxy
		want string
	}{
		{silent, "the proxy did not answer: not connected within 50ms"},
		{gone, "cannot reach the proxy: dial tcp " + gone.ln.Addr().String()},
	} {
		d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Transport: TransportWS, Proxy: tt.p.url("http"), timing: defaultTiming}
		d.timing.handshake = 50 * time.Millisecond
		if tt.p == gone {
			d.timing.handshake = time.Minute
		}
		_, err := d.Dial(t.Context(), Open{}, nil)
		want := "dial gateway gateway.example:443 over ws through the proxy " + tt.p.ln.Addr().String() + ": " + tt.want
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Dial: %v, want %s", err, want)
		}
		d.Close()
	}
}

func TestTheEnvironmentNamesTheProxy(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		url  string
		want string
		err  string
	}{
		{nil, "https://gateway.example", "", ""},
		{[]string{"HTTPS_PROXY=http://user:secret@proxy.example"}, "https://gateway.example", "http://user:secret@proxy.example:80", ""},
		{[]string{"https_proxy=proxy.example:3128"}, "https://gateway.example:8443", "http://proxy.example:3128", ""},
		{[]string{"HTTPS_PROXY=https://proxy.example"}, "https://gateway.example", "https://proxy.example:443", ""},
		{[]string{"HTTPS_PROXY=socks5://[::1]"}, "https://gateway.example", "socks5://[::1]:1080", ""},
		{[]string{"HTTPS_PROXY=http://proxy.example"}, "http://gateway.example", "", ""},
		{[]string{"HTTP_PROXY=http://proxy.example", "REQUEST_METHOD=GET"}, "http://gateway.example", "http://proxy.example:80", ""},
		{[]string{"HTTPS_PROXY=http://proxy.example", "NO_PROXY=.example"}, "https://gateway.example", "", ""},
		{[]string{"HTTPS_PROXY=http://proxy.example"}, "https://127.0.0.1", "", ""},
		{[]string{"HTTPS_PROXY=http://user:sec%ret@proxy.example"}, "https://gateway.example", "", "HTTPS_PROXY is not a proxy URL"},
		{[]string{"HTTPS_PROXY=http://user:sec%ret@proxy.example", "NO_PROXY=gateway.example"}, "https://gateway.example", "", ""},
		{[]string{"HTTPS_PROXY=ftp://user:secret@proxy.example"}, "https://gateway.example", "", "unsupported proxy ftp://proxy.example"},
	} {
		t.Run("", func(t *testing.T) {
			for _, set := range tt.env {
				name, value, _ := strings.Cut(set, "=")
				t.Setenv(name, value)
			}
			u, _ := url.Parse(tt.url)
			d := &Dialer{URL: u}
			d.init()
			defer d.Close()
			got := ""
			if d.route.proxy != nil && d.route.proxyErr == nil {
				got = d.route.proxy.String()
			}
			if got != tt.want || fmt.Sprint(d.route.proxyErr) != cmp.Or(tt.err, "<nil>") {
				t.Errorf("%v for %s: %q, %v", tt.env, tt.url, got, d.route.proxyErr)
			}
			if d.route.proxied() != (tt.want != "" || tt.err != "") {
				t.Errorf("%v for %s: proxied = %v", tt.env, tt.url, d.route.proxied())
			}
			if _, err := dialGateway(cancelled(), d.route, plain); tt.err != "" && fmt.Sprint(err) != tt.err {
				t.Errorf("%v for %s: dialTCP: %v", tt.env, tt.url, err)
			}
		})
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
