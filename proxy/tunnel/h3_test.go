package tunnel

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

func TestStreamsGetCarriersOfTheirOwnAndThenShare(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) { r.dialer.Carriers = 3 })
	count := func() (carriers, streams int) {
		r.h3().mu.Lock()
		defer r.h3().mu.Unlock()
		for _, c := range r.h3().list {
			streams += c.streams
		}
		return len(r.h3().list), streams
	}
	r.dialer.Hello(t.Context())
	for _, streams := count(); streams > 0; _, streams = count() { // the stream of its hello ends later
		time.Sleep(time.Millisecond)
	}
	for i, want := range []int{1, 2, 3, 3, 3} {
		if i < 3 {
			r.unusedCarrier()
		}
		r.dial()
		r.h3().mu.Lock()
		used := len(r.h3().list) - r.h3().unused()
		r.h3().mu.Unlock()
		if _, streams := count(); used != want || streams != i+1 {
			t.Errorf("after %d streams: %d on %d carriers", i+1, streams, used)
		}
	}
	for range 3*maxStreams - 5 {
		r.dial()
	}
	if carriers, _ := count(); carriers != 3 {
		t.Errorf("%d carriers for %d streams", carriers, 3*maxStreams)
	}
	r.dial()
	if carriers, _ := count(); carriers != 4 {
		t.Errorf("%d carriers for %d streams", carriers, 3*maxStreams+1)
	}
}

// unusedCarrier waits until a carrier has no streams.
func (r *rig) unusedCarrier() {
	r.t.Helper()
	p := r.h3()
	waitUntil(r.t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.unused() > 0
	})
}

func TestIdleCarriersAreClosedButAFew(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) {
		r.dialer.timing = defaultTiming
		r.dialer.timing.idle = 50 * time.Millisecond
	})
	var conns []*Conn
	r.dialer.Hello(t.Context())
	for range 6 {
		r.unusedCarrier()
		c, _ := r.dial()
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Close()
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		r.h3().mu.Lock()
		n := len(r.h3().list)
		r.h3().mu.Unlock()
		if n == maxIdle {
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("%d carriers are kept, want %d", n, maxIdle)
		}
	}
	r.dial()
}

func TestADeadCarrierIsReplaced(t *testing.T) {
	r := newRig(t, "h3")
	c, _ := r.dial()
	c.x.(*exchange.H3).Conn().CloseWithError(0, "test")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read on a dead carrier: %v", err)
	}
	c.Close()
	r.dial()
}

// The version header in a gateway's responses may be empty: a Server without Opened has no version
// to send.
func TestAGatewayNeedNotSayItsVersion(t *testing.T) {
	for _, kind := range []string{"h3", "h3post", "h2", "ws"} {
		t.Run(kind, func(t *testing.T) { newRig(t, kind, func(r *rig) { r.server.Opened = nil }).dial() })
	}
}

// OPEN and the first bytes leave with the request, before any response, so that the first answer
// arrives after one round trip.
func TestOpenDoesNotWaitForTheAnswer(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, "h3", func(r *rig) {
		r.server.Authenticate = func(*http.Request) (string, error) {
			<-hold
			return "", nil
		}
	})
	c := r.unopened(Open{})
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !exchange.IsTimeout(err) {
		t.Errorf("Read before the answer: %v", err)
	}
	if n, err := c.Write([]byte("at once")); n != 7 || err != nil {
		t.Errorf("Write before the answer = %d, %v", n, err)
	}
	close(hold)
	s := <-r.served
	defer close(s.done)
	got := make([]byte, 7)
	if _, err := io.ReadFull(s, got); string(got) != "at once" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	c.SetReadDeadline(time.Time{})
	if _, err := c.Opened(t.Context()); err != nil {
		t.Errorf("Opened after a Read that timed out: %v", err)
	}
}

// An agent leaves the carriers of a draining gateway before that closes them.
func TestDrainingTellsTheCarriers(t *testing.T) {
	r := newRig(t, "h3")
	c, s := r.dial()
	r.unusedCarrier()
	idle, other := r.dial()
	io.WriteString(other, "x") // both ends CloseWrite, so that the second carrier has no streams
	other.CloseWrite()
	idle.CloseWrite()
	io.ReadAll(idle)
	idle.Close()
	r.unusedCarrier() // no dial is in progress
	p := r.h3()
	now := func() *udpSocket {
		p.sockets.mu.Lock()
		defer p.sockets.mu.Unlock()
		return p.sockets.current
	}
	before := now()
	r.server.drain()
	list := func() (carriers, usable int) {
		r.h3().mu.Lock()
		defer r.h3().mu.Unlock()
		for _, c := range r.h3().list {
			if c.conn.Context().Err() == nil {
				carriers++
			}
			if c.conn.Context().Err() == nil && !c.left {
				usable++
			}
		}
		return carriers, usable
	}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		// A balancer sends everything from this socket to this gateway.
		if _, usable := list(); usable == 0 && now() == nil {
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatal("the carriers are still in use")
		}
	}
	io.WriteString(c, "still here")
	if got, err := io.ReadAll(io.LimitReader(s, 10)); string(got) != "still here" || err != nil {
		t.Errorf("the old stream: %q, %v", got, err)
	}
	_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDraining {
		t.Errorf("Dial = %v, want draining", err)
	}
	if now() == before {
		t.Error("the next carrier came from the same socket")
	}
	c.Close()
	s.Close()
	r.dialer.Close()
	if _, err := before.tr.Conn.WriteTo([]byte("x"), before.tr.Conn.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket that was left is still open: %v", err)
	}
}

// A thousand clients that reconnect at once do not get a carrier each.
func TestABurstOfDialsSharesTheCarriers(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) { r.dialer.Carriers = 4 })
	r.dialer.Hello(t.Context())
	r.h3().drop()
	var dials sync.WaitGroup
	for range 60 {
		dials.Go(func() { r.dial() })
	}
	dials.Wait()
	p := r.h3()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.usable(); n > 4 {
		t.Errorf("%d carriers for 60 streams, want 4", n)
	}
}

// Carriers that take no new streams after a GOAWAY must not count towards Carriers.
func TestCarriersThatWereLeftDoNotCount(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) { r.dialer.Carriers = 3 })
	r.dialer.Hello(t.Context())
	for range 3 {
		r.unusedCarrier()
		r.dial()
	}
	p := r.h3()
	p.drop()
	waitUntil(t, func() bool {
		r.dial()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.usable() == 3
	})
}

// Clients other than ours get responses that they can read.
func TestAnyHTTP3ClientIsAnswered(t *testing.T) {
	r := newRig(t, "h3")
	_, client := testTLS()
	for _, tt := range []struct {
		method, path, header string
		status               int
		says                 string
	}{
		{"GET", "/", "", 404, "its tunnel is at /culvert"},
		{"HEAD", "/", "", 404, ""},
		{"GET", "/culvert", "", 405, "use this URL as the gateway URL"},
		{"POST", "/culvert", "", 415, "application/octet-stream"},
		{"GET", "/", strings.Repeat("x", exchange.MaxHeader), 431, ""},
		{"GET", "/", strings.Repeat("x", exchange.MaxHeader-500), 404, "its tunnel"},
	} {
		req, err := http.NewRequest(tt.method, "https://"+r.addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", tt.header)
		// One per request: unauthenticated peers may send little on one connection.
		tr := &http3.Transport{TLSClientConfig: client}
		defer tr.Close()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
			t.Errorf("%s %s: %s, %q, %v", tt.method, tt.path, resp.Status, body, err)
		}
		if tt.status != 431 && resp.Header.Get(exchange.HeaderGateway) != "test" || resp.Header.Get("Date") == "" {
			t.Errorf("%s %s: header %v", tt.method, tt.path, resp.Header)
		}
	}
}
