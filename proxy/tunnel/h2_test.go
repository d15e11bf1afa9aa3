package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

var noHTTPLog = log.New(io.Discard, "", 0)

// h2Count returns how many live HTTP/2 connections the dialer has, and their streams.
func (r *rig) h2Count() (conns, streams int) {
	p := r.h2()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.list {
		if !c.dead() {
			conns++
			streams += c.streams
		}
	}
	return conns, streams
}

// settle lets the race decide, and waits until the stream of its hello has ended.
func (r *rig) settle() {
	r.dialer.Hello(r.t.Context())
	for _, streams := r.h2Count(); streams > 0; _, streams = r.h2Count() {
		time.Sleep(time.Millisecond)
	}
}

// waitH2 waits until n connections are left.
func (r *rig) waitH2(n int) {
	r.t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		conns, streams := r.h2Count()
		if conns == n {
			return
		}
		if time.Since(start) > 10*time.Second {
			r.t.Fatalf("%d connections with %d streams are left, want %d connections", conns, streams, n)
		}
	}
}

func TestAFewStreamsShareAnHTTP2Connection(t *testing.T) {
	r := newRig(t, "h2c", func(r *rig) { r.dialer.Carriers = 2 })
	r.settle()
	for i := range maxShared {
		if conns, streams := r.h2Count(); conns != 1 || streams != i {
			t.Fatalf("%d streams on %d connections", streams, conns)
		}
		r.dial()
	}
	r.roomToShare()
	waitUntil(t, func() bool { return r.fewest() == 0 }) // the stream of its hello ends later
	for i := range maxShared {
		if r.dial(); r.fewest() != i+1 {
			t.Fatalf("%d streams on the connection with the fewest, want %d", r.fewest(), i+1)
		}
	}
	for range 2 * (maxStreams - maxShared) {
		r.dial()
	}
	if conns, streams := r.h2Count(); conns != 2 || streams != 2*maxStreams {
		t.Errorf("%d connections for %d streams, want 2", conns, streams)
	}
	r.dial()
	if conns, _ := r.h2Count(); conns != 3 {
		t.Errorf("%d connections for %d streams, want 3", conns, 2*maxStreams+1)
	}
}

// roomToShare waits until a connection has fewer than maxShared streams and is established.
func (r *rig) roomToShare() {
	r.t.Helper()
	p := r.h2()
	waitUntil(r.t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		c, ok := p.leastLoaded()
		return ok && c.stands() && c.streams < maxShared
	})
}

// fewest returns how many streams the connection with the fewest has.
func (r *rig) fewest() int {
	p := r.h2()
	p.mu.Lock()
	defer p.mu.Unlock()
	c, _ := p.leastLoaded()
	return c.streams
}

// A thousand clients that reconnect at once do not cause a thousand TLS handshakes.
func TestDialsThatComeAtOnceShareConnections(t *testing.T) {
	r := newRig(t, "h2")
	r.settle()
	r.h2().drop()
	var dials sync.WaitGroup
	for range 4 * maxShared {
		dials.Go(func() { r.dial() })
	}
	dials.Wait()
	if conns, streams := r.h2Count(); conns < 4 || conns > 5 || streams < 4*maxShared { // one for the next
		t.Errorf("%d connections with %d streams, want 4 with %d", conns, streams, 4*maxShared)
	}
}

func TestFinishedStreamsLeaveTheirConnection(t *testing.T) {
	r := newRig(t, "h2")
	ends := map[string]func(c *Conn, s *served){
		"both finish": func(c *Conn, s *served) {
			s.CloseWrite()
			c.CloseWrite()
			io.ReadAll(c)
			io.ReadAll(s)
			s.Conn.Close()
			c.Close()
		},
		"agent cuts":   func(c *Conn, s *served) { c.Close() },
		"gateway cuts": func(c *Conn, s *served) { s.Conn.Close(); io.ReadAll(c); c.Close() },
		"agent resets": func(c *Conn, s *served) {
			c.Reset(&Error{Code: CodeClient, Message: "gone"})
			io.ReadAll(s)
			s.Conn.Close()
			c.Close()
		},
		"gateway resets": func(c *Conn, s *served) {
			s.Reset(&Error{Code: CodeBroker, Message: "gone"})
			io.ReadAll(c)
			s.Conn.Close()
			c.Close()
		},
	}
	for name, end := range ends {
		c, s := r.dial()
		end(c, s)
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			conns, streams := r.h2Count()
			if streams == 0 && conns == 1 {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s: %d streams are left on %d connections", name, streams, conns)
			}
		}
		if n := r.h2().list[0].http.InFlight(); n != 0 {
			t.Errorf("%s: %d requests are in flight", name, n)
		}
	}
}

func TestIdleHTTP2ConnectionsAreClosed(t *testing.T) {
	r := newRig(t, "h2", func(r *rig) {
		r.dialer.timing = defaultTiming
		r.dialer.timing.idle = 50 * time.Millisecond
	})
	c, _ := r.dial()
	c.Close()
	r.waitH2(0)
	r.dial()
}

func TestADeadHTTP2ConnectionIsReplaced(t *testing.T) {
	r := newRig(t, "h2")
	c, _ := r.dial()
	r.h2().list[0].conn.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrCut) {
		t.Errorf("Read on a dead connection: %v, want ErrCut", err)
	}
	c.Close()
	r.dial()
}

// An agent leaves the connection of a draining gateway before anything is refused over it, and its
// streams continue.
func TestDrainingSendsGOAWAY(t *testing.T) {
	r := newRig(t, "h2")
	c, s := r.dial()
	r.server.drain()
	for start := time.Now(); r.h2().list[0].room() > 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the connection is still in use")
		}
	}
	for range 3 { // whichever server takes the connection
		_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDraining {
			t.Errorf("Dial = %v, want draining", err)
		}
	}
	io.WriteString(c, "still here")
	if got, err := io.ReadAll(io.LimitReader(s, 10)); string(got) != "still here" || err != nil {
		t.Errorf("the old stream: %q, %v", got, err)
	}
}

// A server may offer only HTTP/1.1 in ALPN, or speak HTTP/1.1 where the agent expects HTTP/2.
func TestAServerWithoutHTTP2IsNamed(t *testing.T) {
	dial := func(r *rig) error {
		c, err := r.dialer.Dial(t.Context(), Open{}, nil)
		if err == nil {
			_, err = c.Opened(t.Context())
			c.Close()
		}
		return err
	}
	for _, protos := range [][]string{nil, {"http/1.1"}} {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		s.Config.ErrorLog = noHTTPLog
		s.TLS, _ = testTLS()
		s.TLS = s.TLS.Clone()
		s.TLS.NextProtos = protos
		s.StartTLS()
		r := newRig(t, "h2", func(r *rig) { r.dialer.URL.Host = s.Listener.Addr().String() })
		if err := dial(r); err == nil || !strings.HasSuffix(err.Error(), " over h2: the server does not speak HTTP/2") {
			t.Errorf("TLS with ALPN %v: %v", protos, err)
		}
		s.Close()
	}
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	r := newRig(t, "h2c", func(r *rig) { r.dialer.URL.Host = s.Listener.Addr().String() })
	if err := dial(r); err == nil || !strings.Contains(err.Error(), "the server does not speak HTTP/2") && !strings.Contains(err.Error(), "no response to POST") {
		t.Errorf("plain HTTP/1.1: %v", err)
	}
}

// A web server that answers every POST with 200 is not a gateway.
func TestASuccessFromAnotherServerIsNoTunnel(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>")
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	r := newRig(t, "h2c", func(r *rig) { r.dialer.URL.Host = s.Listener.Addr().String() })
	c, err := r.dialer.Dial(t.Context(), Open{}, nil)
	if err == nil {
		defer c.Close()
		_, err = c.Opened(t.Context())
	}
	if e, ok := errors.AsType[*AnswerError](err); !ok || e.Gateway || !strings.Contains(err.Error(), "answered 200 OK with text/html instead of a tunnel") {
		t.Errorf("Opened = %v", err)
	}
}

// newFrontDoorRig is newRig with a reverse proxy in front of the gateway that turns HTTP/2 into
// HTTP/1.1. config may be nil.
func newFrontDoorRig(t *testing.T, config *http.HTTP2Config) *rig {
	door := httptest.NewUnstartedServer(nil)
	door.Config.HTTP2 = config
	door.Config.Protocols = new(http.Protocols)
	door.Config.Protocols.SetUnencryptedHTTP2(true)
	r := newRig(t, "h2c")
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.addr})
	proxy.ErrorLog = noHTTPLog
	proxy.FlushInterval = -1
	transport := &http.Transport{}
	proxy.Transport = transport
	door.Config.Handler = proxy
	door.Start()
	r.dialer.URL.Host = door.Listener.Addr().String()
	t.Cleanup(func() {
		r.dialer.Close()
		door.Close()
		transport.CloseIdleConnections()
	})
	return r
}

// nginx and others turn a POST over HTTP/2 into one over HTTP/1.1.
func TestPOSTThroughAFrontDoorThatSpeaksHTTP1(t *testing.T) {
	r := newFrontDoorRig(t, nil)
	if _, err := r.dialer.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, s := r.dial()
	if s.peer.Transport != TransportH2 {
		t.Errorf("transport at the gateway = %s", s.peer.Transport)
	}
	want := random(4 << 20)
	for _, ends := range [][2]*Conn{{c, s.Conn}, {s.Conn, c}} {
		go func() {
			ends[0].Write(want)
			ends[0].CloseWrite()
		}()
		if got, err := io.ReadAll(ends[1]); err != nil || string(got) != string(want) {
			t.Errorf("read %d of %d bytes, %v", len(got), len(want), err)
		}
	}

	c, s = r.dial()
	io.WriteString(s, "bytes")
	s.Reset(&Error{Code: CodeBroker, Message: "gone"})
	got, err := io.ReadAll(c)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeBroker || string(got) != "bytes" {
		t.Errorf("read %q, %v, want the gateway's ERROR", got, err)
	}

	c, s = r.dial()
	io.WriteString(c, "bytes")
	c.Reset(&Error{Code: CodeClient, Message: "gone"})
	got, err = io.ReadAll(s)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeClient || string(got) != "bytes" {
		t.Errorf("read %q, %v, want the agent's ERROR", got, err)
	}

	c, s = r.dial()
	s.Conn.Close()
	if _, err := io.ReadAll(c); !errors.Is(err, ErrCut) {
		t.Errorf("after a cut: %v", err)
	}
}

// The header of the response must not wait for the end of the request's body: that is how an agent
// detects an intermediary that buffers.
func TestAPOSTIsAnsweredAtOnce(t *testing.T) {
	r := newRig(t, "h2c")
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(version == "HTTP/1.1")
		tr.Protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		body, more := io.Pipe()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.addr+"/culvert", body)
		req.Header.Set("Content-Type", exchange.PostType)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		for name, want := range map[string]string{"Content-Type": exchange.PostType, "Cache-Control": "no-store", "X-Accel-Buffering": "no", exchange.HeaderGateway: "test"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s = %q, want %q", version, name, got, want)
			}
		}
		if resp.Proto != version || resp.StatusCode != http.StatusOK || resp.ContentLength != -1 {
			t.Errorf("%s: answer %s %s of %d bytes", version, resp.Proto, resp.Status, resp.ContentLength)
		}
		cancel()
		more.Close()
		resp.Body.Close()
		tr.CloseIdleConnections()
	}
}

// h2c is only for clients that know of it beforehand. An upgrade to it would bypass the checks of
// an ingress.
func TestNoUpgradeToH2C(t *testing.T) {
	r := newRig(t, "h2c")
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /culvert HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 426" {
		t.Errorf("Upgrade: h2c is answered with %q, %v", head, err)
	}
}

func TestMethodsOfEachHTTPVersion(t *testing.T) {
	r := newRig(t, "h2")
	for proto, want := range map[string]string{"HTTP/1.1": "GET, POST", "HTTP/2.0": "POST"} {
		tr := &http.Transport{TLSClientConfig: r.dialer.TLS.Clone(), Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(proto == "HTTP/1.1")
		tr.Protocols.SetHTTP2(proto == "HTTP/2.0")
		resp, err := tr.RoundTrip(httptest.NewRequest(http.MethodPut, "https://"+r.addr+"/culvert", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if got := resp.Header.Get("Allow"); got != want || resp.Proto != proto || resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("PUT over %s: %s, Allow: %s, want %s", resp.Proto, resp.Status, got, want)
		}
	}
}
