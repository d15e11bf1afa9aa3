package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// inUse returns the memory that this process holds after garbage collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // pools keep their content through the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

const (
	maxMemoryPerConn = 256 << 10
	maxMemoryOfAll   = 256 << 20
)

// An unauthenticated connection costs at most 256 KiB and a few goroutines, whatever its peer sends
// and withholds.
func TestWhatAnUnauthenticatedQUICConnectionCosts(t *testing.T) {
	for name, a := range map[string]attack{
		"nothing":                                {Conns: 100},
		"64 request streams, nothing on them":    {Conns: 100, Streams: 64},
		"64 request streams, frames of one byte": {Conns: 100, Streams: 64, Bytes: 6, Frame: 1},
		"a request stream, frames of one byte":   {Conns: 100, Streams: 1, Bytes: 500, Frame: 1},
		"a request stream, large frames":         {Conns: 100, Streams: 1, Bytes: 500, Frame: 500},
		"more than its credit, large frames":     {Conns: 20, Streams: 64, Bytes: 20 << 10, Frame: 1000},
		"more than its credit, tiny frames":      {Conns: 20, Streams: 64, Bytes: 1000, Frame: 1},
		"unidirectional streams, tiny frames":    {Conns: 100, Streams: 2, Uni: true, Bytes: 200, Frame: 1},
		"unidirectional streams, large frames":   {Conns: 20, Streams: 2, Uni: true, Bytes: 200 << 10, Frame: 1000},
		"more unidirectional streams":            {Conns: 20, Streams: 90, Uni: true},
		"handshake messages, some":               {Conns: 100, Crypto: 1500},
		"handshake messages, many":               {Conns: 20, Crypto: 15 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "h3")
			if _, err := r.dialer.Hello(t.Context()); err != nil { // so that one-time allocations have happened
				t.Fatal(err)
			}
			before, goroutines := inUse(), runtime.NumGoroutine()
			a.Addr = r.addr
			a.start(t)
			each, more := (inUse()-before)/int64(a.Conns), (runtime.NumGoroutine()-goroutines)/a.Conns
			if each > maxMemoryPerConn || more > 10 {
				t.Errorf("a connection costs %d bytes and %d goroutines, want at most %d and 10", each, more, maxMemoryPerConn)
			}
			t.Logf("%d KiB and %d goroutines each, %d are left", each>>10, more, r.server.QUICConns()-1)
		})
	}
}

// Two thousand unauthenticated connections that hold as much as they can cost at most 256 MiB, and
// agents still connect.
func TestTwoThousandUnauthenticatedQUICConnections(t *testing.T) {
	var closed atomic.Int64
	r := newRig(t, "h3", func(r *rig) {
		r.server.OnLimit = func(l Limit, _ *Error, _ Peer) {
			if l == LimitUnauthenticated {
				closed.Add(1)
			}
		}
	})
	if _, err := r.dialer.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := inUse()
	over := make(chan struct{})
	var agents sync.WaitGroup
	agents.Go(func() {
		worst := time.Duration(0)
		n := 0
		for ; ; n++ {
			start := time.Now()
			d := &Dialer{URL: r.dialer.URL, TLS: r.dialer.TLS, Transport: TransportH3}
			_, err := d.Hello(t.Context())
			worst = max(worst, time.Since(start))
			d.Close()
			if err != nil {
				t.Errorf("an agent among unauthenticated peers: %v", err)
			}
			select {
			case <-over:
				t.Logf("%d agents had their hello, the slowest after %v", n+1, worst)
				return
			default:
			}
		}
	})
	attack{Addr: r.addr, Conns: 2000, Streams: 64, Bytes: 6, Frame: 1}.start(t)
	close(over)
	agents.Wait()
	all := inUse() - before
	if all > maxMemoryOfAll {
		t.Errorf("2,000 connections cost %d MiB, want at most %d", all>>20, maxMemoryOfAll>>20)
	}
	if n := r.server.QUICConns(); n > maxUnauthenticatedQUIC+10 {
		t.Errorf("%d connections are open, want about %d", n, maxUnauthenticatedQUIC)
	}
	if closed.Load() < 2000-maxUnauthenticatedQUIC-10 {
		t.Errorf("OnLimit was called for %d connections", closed.Load())
	}
	t.Logf("%d MiB for %d connections, %d turned away", all>>20, r.server.QUICConns(), closed.Load())
}

// dialUnauthenticated makes a QUIC connection and sends no request.
func dialUnauthenticated(t *testing.T, addr string) *quic.Conn {
	t.Helper()
	_, client := testTLS()
	cfg := &tls.Config{RootCAs: client.RootCAs, NextProtos: []string{http3.NextProtoH3}}
	c, err := quic.DialAddr(t.Context(), addr, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseWithError(0, "") })
	return c
}

func TestAnUnauthenticatedQUICConnectionIsClosedInTime(t *testing.T) {
	told := make(chan Peer, 1)
	r := newRig(t, "h3", func(r *rig) {
		r.server.timing = defaultTiming
		r.server.timing.unauthenticated = 50 * time.Millisecond
		r.server.OnLimit = func(l Limit, _ *Error, p Peer) {
			if l == LimitUnauthenticated {
				told <- p
			}
		}
	})
	c := dialUnauthenticated(t, r.addr)
	<-c.Context().Done()
	e, ok := errors.AsType[*quic.ApplicationError](context.Cause(c.Context()))
	if !ok || e.ErrorCode != quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad) || e.ErrorMessage != "no request has authenticated within 50ms" {
		t.Errorf("the connection was closed with %v", context.Cause(c.Context()))
	}
	if p := <-told; p.Addr != c.LocalAddr().String() && !strings.HasSuffix(p.Addr, port(c.LocalAddr())) || p.Transport != TransportH3 {
		t.Errorf("OnLimit was called with %+v, want %v", p, c.LocalAddr())
	}
}

// Whoever shows a wrong token is told so once, and so is the operator: not again when the connection
// ends.
func TestARefusedQUICConnectionIsReportedOnce(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) {
		r.server.timing = defaultTiming
		r.server.timing.unauthenticated = 50 * time.Millisecond
		r.server.Authenticate = func(*http.Request) (string, error) { return "", errors.New("unknown token") }
		r.server.OnLimit = func(l Limit, e *Error, _ Peer) { t.Errorf("OnLimit was called with %s: %v", l, e) }
	})
	c := dialUnauthenticated(t, r.addr)
	h := (&http3.Transport{}).NewClientConn(c)
	request, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+r.addr+Path, io.MultiReader()) // of unknown length
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", exchange.PostType)
	response, err := h.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		t.Fatalf("%v, %v", response, err)
	}
	<-c.Context().Done()
}

func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return ":" + port
}

func knowsAlice(r *http.Request) (string, error) {
	if r.Header.Get(headerAuthorization) != "Bearer alice" {
		return "", errors.New("no such token")
	}
	return "alice", nil
}

// A connection stays authenticated when its last stream has ended, and a spare is authenticated
// too.
func TestAgentsAuthenticateTheirQUICConnections(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) {
		r.server.Authenticate = knowsAlice
		r.dialer.Token = func() (string, error) { return "alice", nil }
	})
	r.dialer.SetSpares(3)
	p := r.h3()
	ready := func() bool { // one more may be dialled than are wanted, while the first hello ends
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.unused() >= 3 && p.unused() == len(p.list) && p.dialled == 0
	}
	for !ready() && t.Context().Err() == nil {
		runtime.Gosched()
	}
	if n := r.unauthenticated(); n != 0 {
		t.Errorf("%d spares are not authenticated", n)
	}
}

// unauthenticated returns how many unauthenticated QUIC connections the gateway has.
func (r *rig) unauthenticated() int {
	n, _ := r.countUnauthenticated()
	return n
}

// countUnauthenticated returns how many there are, and how many of them are half-open.
func (r *rig) countUnauthenticated() (all, halfOpen int) {
	s := r.server.h3Server().unauthenticated
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list), s.halfOpen()
}

// A refused request does not authenticate its connection.
func TestARefusedRequestLeavesItsConnectionUnauthenticated(t *testing.T) {
	r := newRig(t, "h3", func(r *rig) {
		r.server.Authenticate = knowsAlice
		r.dialer.Token = func() (string, error) { return "mallory", nil }
	})
	if _, err := r.dialer.Hello(t.Context()); err == nil {
		t.Fatal("mallory was accepted")
	}
	if n := r.unauthenticated(); n != 1 {
		t.Errorf("%d unauthenticated connections, want mallory's", n)
	}
}

// Their peers send nothing more, and quic-go does not hand out such connections, so they cannot be
// closed.
func TestHalfOpenConnectionsAreLimited(t *testing.T) {
	told := 0
	s := &unauthenticatedQUIC{timeout: time.Hour, onClose: func(net.Addr, error) { told++ }}
	ctx, cancel := context.WithCancel(t.Context())
	info := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{}}
	for i := range maxHalfOpen {
		if s.many() != (i >= maxHalfOpen/2) {
			t.Errorf("with %d half-open connections, addresses are verified: %t", i, s.many())
		}
		if _, err := s.arrive(ctx, info); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := s.arrive(ctx, info); err != errHalfOpen || told != 1 {
		t.Errorf("one more: %v, onClose was called %d times", err, told)
	}
	cancel()
	for s.many() && t.Context().Err() == nil { // waits for what context.AfterFunc has started
		runtime.Gosched()
	}
}

// A connection that waits for us, because many agents come at once, is not half-open.
func TestAWholeClientHelloIsNoticed(t *testing.T) {
	r := newRig(t, "h3")
	attack{Addr: r.addr, Conns: 5}.start(t)
	if all, halfOpen := r.countUnauthenticated(); halfOpen > 0 || all != 5 {
		t.Errorf("%d of %d connections are half-open", halfOpen, all)
	}
}

func TestAddressesAreVerifiedFromHalfTheLimitOn(t *testing.T) {
	s := &unauthenticatedQUIC{list: make([]*quicPeer, maxUnauthenticatedQUIC/2)}
	for i := range s.list {
		s.list[i] = &quicPeer{hello: true}
	}
	if !s.many() {
		t.Errorf("%d connections do not count as many", len(s.list))
	}
	s.list = s.list[1:]
	if s.many() {
		t.Errorf("%d connections count as many", len(s.list))
	}
}

// CRYPTO frames, which flow control does not count, are bounded for all unauthenticated connections
// together.
func TestHandshakeMessagesOfAllConnectionsAreBounded(t *testing.T) {
	r := newRig(t, "h3")
	if _, err := r.dialer.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := inUse()
	attack{Addr: r.addr, Conns: 700, Streams: 64, Bytes: 6, Frame: 1, Crypto: 1800}.start(t)
	all := inUse() - before
	if all > maxMemoryOfAll {
		t.Errorf("the connections hold %d MiB, want at most %d", all>>20, maxMemoryOfAll>>20)
	}
	t.Logf("%d MiB for %d connections of 700", all>>20, r.server.QUICConns()-1)
}
