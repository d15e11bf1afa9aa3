package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

func TestTheTokenHasItsOwnHeader(t *testing.T) {
	for _, kind := range kinds {
		token := "another"
		r := newRig(t, kind, func(r *rig) {
			r.dialer.Token = func() (string, error) { return token, nil }
			r.dialer.timing.race.PermanentRetry, r.dialer.timing.race.PermanentRetryMost = time.Nanosecond, time.Nanosecond
			r.server.Authenticate = func(req *http.Request) (string, error) {
				if req.Header.Get(headerAuthorization) != "Bearer secret" {
					return "", errors.New("unknown token")
				}
				return "alice", nil
			}
		})
		_, err := r.dialer.Dial(t.Context(), Open{}, nil)
		e, ok := errors.AsType[*AnswerError](err)
		want := fmt.Sprintf("dial gateway %s over %s: gateway refused the token: unknown token", r.addr, r.dialer.Transport)
		if !ok || e.Status != http.StatusUnauthorized || err.Error() != want {
			t.Errorf("%s: without a token: %v, want %s", kind, err, want)
		}
		if !strings.Contains(hintsOf(err), "--token-file") {
			t.Errorf("%s: no hint at --token-file in %v", kind, err)
		}
		token = "secret"
		for err != nil && t.Context().Err() == nil { // the failed round may still be answering
			var c *Conn
			if c, err = r.dialer.Dial(t.Context(), Open{}, nil); err == nil {
				c.Close()
				(<-r.served).returned()
			}
		}
		if _, s := r.dial(); s.peer.Identity != "alice" || s.peer.Transport != r.dialer.Transport {
			t.Errorf("%s: peer = %+v", kind, s.peer)
		}
	}
}

func TestTheGatewayExplainsItselfToOtherClients(t *testing.T) {
	r := newRig(t, "plain")
	for _, tt := range []struct {
		method, path string
		header       http.Header
		status       int
		text         string
	}{
		{"GET", "/", nil, 404, "this is a culvert gateway; its tunnel is at /culvert"},
		{"GET", "/favicon.ico", nil, 404, "/culvert"},
		{"GET", "/prefix/culvert", nil, 426, "use this URL as the gateway URL"},
		{"PUT", "/culvert", nil, 405, "use this URL as the gateway URL"},
		{"POST", "/culvert", nil, 415, "application/octet-stream"},
		{"POST", "/culvert", http.Header{"Content-Type": {"application/octet-stream"}}, 400, "buffers whole requests"},
		{"GET", "/culvert", http.Header{"Origin": {"https://evil.example"}}, 403, "https://evil.example"},
		{"GET", "/culvert", http.Header{"Upgrade": {"websocket"}, "Connection": {"upgrade"}, "Sec-Websocket-Version": {"12"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}, 426, "Sec-WebSocket-Version"},
	} {
		req, _ := http.NewRequest(tt.method, "http://"+r.addr+tt.path, nil)
		if tt.header != nil {
			req.Header = tt.header
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.text) || resp.Header.Get(exchange.HeaderGateway) != "test" {
			t.Errorf("%s %s = %s %v %q, want %d, %q", tt.method, tt.path, resp.Status, resp.Header, body, tt.status, tt.text)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestTCPAnswersTellOfH3(t *testing.T) {
	r := newRig(t, "ws")
	tr := &http.Transport{TLSClientConfig: r.dialer.TLS.Clone()}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(httptest.NewRequest("GET", "https://"+r.addr+"/", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, port, _ := net.SplitHostPort(r.addr)
	if got := resp.Header.Get("Alt-Svc"); got != `h3=":`+port+`"; ma=86400` {
		t.Errorf("Alt-Svc = %q", got)
	}
}

// If something else answers instead of a gateway, the error says what, with a hint.
func TestWhatAnswersInsteadOfAGateway(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
		hint    string
	}{
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example.com/oauth?x=y", http.StatusFound)
		}, "answered with a redirect (302 Found) to login.example.com, probably a login page", "credentials"},
		{"web page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>")
		}, "answered 200 OK with text/html instead of a tunnel", ""},
		{"not found", http.NotFound, "no culvert gateway at http", "--gateway-url"},
		{"ingress without gateway", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) },
			"something in front of the gateway answered 502 Bad Gateway", "is the gateway up"},
		{"ingress that refuses", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) },
			"something in front of the gateway answered 403 Forbidden", "credentials"},
		{"broken handshake", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
		}, "WebSocket handshake: ", ""},
		{"silence", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "not connected within 300ms", ""},
		{"closed", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "connection closed before the answer", ""},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			s := httptest.NewServer(tt.handler)
			defer s.Close()
			u, _ := url.Parse(s.URL)
			d := &Dialer{URL: u, Transport: TransportWS, timing: defaultTiming}
			d.timing.handshake = 300 * time.Millisecond
			defer d.Close()
			_, err := d.Dial(t.Context(), Open{}, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "dial gateway "+u.Host+" over ws: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial = %v, want %q", err, tt.want)
			}
			hint := hintsOf(err)
			if !strings.Contains(hint, tt.hint) {
				t.Errorf("hint = %q, want %q", hint, tt.hint)
			}
		})
	}
}

func TestAnUnknownAuthorityIsNamed(t *testing.T) {
	for _, kind := range []string{"ws", "h3"} {
		r := newRig(t, kind, func(r *rig) { r.dialer.TLS = nil })
		_, err := r.dialer.Dial(t.Context(), Open{}, nil)
		if hint := hintsOf(err); err == nil || !strings.Contains(err.Error(), "unknown authority") || !strings.Contains(hint, "--gateway-ca-file") || !strings.Contains(hint, "CN=culvert test") {
			t.Errorf("%s: Dial = %v, want an unknown authority and a hint", kind, err)
		}
	}
}

func TestAWrongNameIsNamed(t *testing.T) {
	r := newRig(t, "ws", func(r *rig) {
		r.dialer.TLS = r.dialer.TLS.Clone()
		r.dialer.TLS.ServerName = "kafka.example.com"
	})
	_, err := r.dialer.Dial(t.Context(), Open{}, nil)
	if !strings.Contains(hintsOf(err), "a certificate for gateway, 127.0.0.1") {
		t.Errorf("Dial = %v, want a hint with the names of the certificate", err)
	}
}

func TestPlainHTTPWhereTLSIsExpected(t *testing.T) {
	r := newRig(t, "plain", func(r *rig) { r.dialer.URL.Scheme = "https" })
	_, err := r.dialer.Dial(t.Context(), Open{}, nil)
	if !strings.Contains(hintsOf(err), "does not speak TLS") {
		t.Errorf("Dial = %v, want a hint that there is no TLS", err)
	}
}

func TestThePathOfTheURLIsAPrefix(t *testing.T) {
	for _, kind := range kinds {
		r := newRig(t, kind, func(r *rig) { r.dialer.URL.Path = "/kafka/" })
		r.dial()
	}
}

// ALPN must not offer h2: given a choice an ingress takes it, and h2 has no Upgrade.
func TestWSOffersHTTP1Alone(t *testing.T) {
	var offered []string
	r := newRig(t, "ws", func(r *rig) {
		r.server.TLS = r.server.TLS.Clone()
		r.server.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = h.SupportedProtos
			return nil, nil
		}
	})
	r.dial()
	if len(offered) != 1 || offered[0] != "http/1.1" {
		t.Errorf("ALPN = %v", offered)
	}
}

func TestDrainingRefusesNewStreamsAndKeepsTheOld(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		if r.dialer.Transport == TransportWS { // the exchange exists, and its OPEN comes late
			late := r.unopened(Open{Target: TargetBootstrap})
			r.server.drain()
			_, err := late.Opened(t.Context())
			if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDraining {
				t.Errorf("OPEN while draining: %v", err)
			}
		}
		r.server.drain()
		_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDraining {
			t.Errorf("a new exchange while draining: %v", err)
		}
		io.WriteString(c, "still here")
		if got, err := io.ReadAll(io.LimitReader(s, 10)); string(got) != "still here" || err != nil {
			t.Errorf("the old stream: %q, %v", got, err)
		}
	})
}

func TestShutdownWaitsForStreamsAndThenEndsThem(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, _ := r.dial()
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 streams cut") {
			t.Errorf("Shutdown = %v", err)
		}
		if err := <-read; !race.Draining(err) { // otherwise the agent would blame the network
			t.Errorf("Read: %v, want ERROR draining", err)
		}
	})
}

// The slowest possible peers: one never ends its header, and the header of another is too long.
func TestSlowAndLongHeadersAreRefused(t *testing.T) {
	r := newRig(t, "plain", func(r *rig) {
		r.server.timing = defaultTiming
		r.server.timing.handshake = 100 * time.Millisecond
	})
	slow, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	io.WriteString(slow, "GET /culvert HTTP/1.1\r\n")
	slow.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(slow); err != nil {
		t.Errorf("a slow header was kept: %v", err)
	}
	long, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	go io.WriteString(long, "GET /culvert HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 2*exchange.MaxHeader)+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(long), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a long header: %v, %v", resp, err)
	}
}

// A balancer continues to send agents to a gateway that has ended its last stream. They must get an
// answer, and not a closed port.
func TestADrainedGatewayTellsAgentsThatStillCome(t *testing.T) {
	for _, kind := range []string{"ws", "h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, kind, func(r *rig) { r.server.Linger = time.Minute })
			c, s := r.dial()
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			r.server.drain()
			go func() { over <- r.server.Shutdown(ctx) }()
			c.CloseWrite()
			io.ReadAll(s)
			s.CloseWrite()
			io.ReadAll(c)
			c.Close()
			s.returned()
			<-r.server.registry.empty
			if _, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil); !race.Draining(err) {
				t.Errorf("Dial = %v, want draining", err)
			}
			cancel()
			if err := <-over; err != nil {
				t.Errorf("Shutdown = %v", err)
			}
		})
	}
}

// A gateway without streams need not linger.
func TestAGatewayWithoutStreamsEndsAtOnce(t *testing.T) {
	r := newRig(t, "plain", func(r *rig) { r.server.Linger = time.Minute })
	resp, err := http.Get("http://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("Shutdown = %v, %v", err, ctx.Err())
	}
}

// Shutdown closes what Run was given.
func TestShutdownClosesTheListeners(t *testing.T) {
	tcp, udp := listenOn(t, true)
	s := &Server{}
	s.TLS, _ = testTLS()
	if s.Drained() {
		t.Error("a server that has not run counts as drained")
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() { over <- s.Run(ctx, tcp, udp) }()
	waitUntil(t, func() bool { return s.h3Server() != nil })
	cancel()
	if err := <-over; err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown = %v", err)
	}
	if _, err := udp.WriteTo([]byte("x"), udp.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the UDP socket: %v, want %v", err, net.ErrClosed)
	}
	if _, err := tcp.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the TCP listener: %v, want %v", err, net.ErrClosed)
	}
}
