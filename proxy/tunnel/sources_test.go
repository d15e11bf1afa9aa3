package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Streams without OPEN are counted: nobody with a token may have as many of them as they like.
func TestStreamsWithoutOpenAreCounted(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) {
		r.server.Limits = Limits{StreamsPerIdentity: 50, SparesPerIdentity: 10}
		r.server.Authenticate = knowsAlice
	})
	for range 3 {
		c := dialUnauthenticated(t, r.addr)
		for range maxStreams {
			s, err := c.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			s.Write(aliceRequest(t))
		}
	}
	waiting := func() int {
		r.server.limiter.mu.Lock()
		defer r.server.limiter.mu.Unlock()
		return r.server.limiter.of["alice"].waiting
	}
	waitUntil(t, func() bool { return waiting() >= 60 })
	if n := waiting(); n != 60 {
		t.Errorf("%d streams wait for their OPEN, limit 60", n)
	}
}

func aliceRequest(t *testing.T) []byte {
	t.Helper()
	u := &url.URL{Scheme: "https", Host: "gateway", Path: Path}
	return exchange.H3Request(u, http.Header{headerAuthorization: {"Bearer alice"}}, false)
}

// An attacker cannot keep agents out with connections whose handshake never ends.
func TestHalfOpenConnectionsKeepNoAgentOut(t *testing.T) {
	r := newRig(t, "h3")
	r.dialer.Hello(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	var begun sync.WaitGroup
	defer begun.Wait()
	defer cancel()
	for range 3 * maxHalfOpen { // the packets of one machine, about a hundred connections in five seconds
		// All of 127/8 is on loopback.
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: &halfHello{UDPConn: udp}}
		to, _ := net.ResolveUDPAddr("udp", r.addr)
		begun.Go(func() {
			defer udp.Close()
			defer tr.Close()
			tr.Dial(ctx, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}}, &quic.Config{HandshakeIdleTimeout: 4 * time.Second})
		})
	}
	// From here on one source gets no more.
	for halfOpen := 0; halfOpen < maxHalfOpen/2 && t.Context().Err() == nil; {
		_, halfOpen = r.countUnauthenticated()
	}
	for range 5 {
		d := &Dialer{URL: r.dialer.URL, TLS: r.dialer.TLS, Transport: TransportH3}
		start := time.Now()
		_, err := d.Hello(t.Context())
		d.Close()
		t.Logf("hello took %v: %v", time.Since(start), err)
		if err != nil {
			t.Errorf("an agent was kept out: %v", err)
		}
	}
}

// A halfHello sends only the first packet of each flight, which contains half of the ClientHello.
type halfHello struct {
	*net.UDPConn
	last time.Time
}

func (h *halfHello) WriteTo(b []byte, to net.Addr) (int, error) {
	if time.Since(h.last) < 50*time.Millisecond {
		h.last = time.Now()
		return len(b), nil
	}
	h.last = time.Now()
	return h.UDPConn.WriteTo(b, to)
}
func (h *halfHello) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (int, int, error) {
	n, err := h.WriteTo(b, to)
	return n, len(oob), err
}

// A distant agent is not displaced by many unauthenticated connections from one address that come
// after it.
func TestManyConnectionsFromOneAddressMakeRoomThemselves(t *testing.T) {
	closed := ""
	u := &unauthenticatedTCP{within: time.Hour, onFull: func(Peer, *Error) {}}
	u.add(Peer{Addr: "192.0.2.1:1000"}, func(error) { closed = "the agent" })
	for i := range maxUnauthenticated + 1 {
		u.add(Peer{Addr: fmt.Sprintf("198.51.100.1:%d", 1000+i)}, func(error) {
			if closed == "" {
				closed = "an attacker"
			}
		})
	}
	if closed != "an attacker" {
		t.Errorf("%s made room for connections that all come from one address", closed)
	}
}
