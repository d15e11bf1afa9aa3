package tunnel

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/happyeyeballs"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// deadIP is an address of this machine on which nothing answers, except what a test puts there.
const deadIP = "127.0.0.2"

// A syncLog is a log that goroutines write and a test reads.
type syncLog struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// newNamedRig is newRig for a gateway whose name has two addresses. The first is deadIP.
func newNamedRig(t *testing.T, kind string, adapt ...func(*rig)) (*rig, *syncLog) {
	log := new(syncLog)
	return newRig(t, kind, append([]func(*rig){func(r *rig) {
		_, port, _ := net.SplitHostPort(r.addr)
		r.dialer.URL.Host = "gateway:" + port
		r.dialer.lookup = twoAddresses
		r.dialer.Logger = slog.New(slog.NewTextHandler(log, nil))
	}}, adapt...)...), log
}

func twoAddresses(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr(deadIP), netip.MustParseAddr("127.0.0.1")}, nil
}

// hole makes deadIP accept TCP on the port of addr, and receive UDP, and say nothing. It returns how
// many connections it has accepted.
func hole(t *testing.T, addr string) (accepted func() int) {
	_, port, _ := net.SplitHostPort(addr)
	tcp, err := net.Listen("tcp", net.JoinHostPort(deadIP, port))
	if err != nil {
		t.Skip(err) // not every system has all of 127.0.0.0/8
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { udp.Close() })
	var n atomic.Int32
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			accepting.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
	})
	t.Cleanup(func() { tcp.Close(); accepting.Wait() })
	return func() int { return int(n.Load()) }
}

// The address accepts TCP, or receives UDP, and its handshake never ends.
func TestADeadAddressOfTheGatewayDelaysOnce(t *testing.T) {
	for _, kind := range []string{"ws", "h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r, log := newNamedRig(t, kind)
			accepted := hole(t, r.addr)
			r.dialer.init()
			start := time.Now()
			for range 5 {
				c, err := r.dialer.dialFresh(t.Context(), kind, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			if took := time.Since(start); took < happyeyeballs.Delay {
				t.Errorf("the dead address was not dialled: 5 dials took %v", took)
			}
			if n := accepted(); n > 1 {
				t.Errorf("the dead address was dialled %d times", n)
			}
			for end := time.Now().Add(30 * time.Second); log.String() == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			}
			if got := log.String(); strings.Count(got, "WARN") != 1 || !strings.Contains(got, "address="+deadIP) {
				t.Errorf("log = %q, want one warning about %s", got, deadIP)
			}
		})
	}
}

// An HTTP proxy has a name, too.
func TestAProxyMayHaveADeadAddress(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to, err := net.Dial("tcp", req.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, _, _ := http.NewResponseController(w).Hijack()
		go func() { io.Copy(to, from); to.Close() }()
		io.Copy(from, to)
		from.Close()
	}))
	defer proxy.Close()
	u, _ := url.Parse(proxy.URL)
	u.Host = "proxy.example:" + u.Port()
	r := newRig(t, "ws", func(r *rig) {
		r.dialer.lookup = twoAddresses
		r.dialer.Proxy = func(*url.URL) (*url.URL, error) { return u, nil }
	})
	for range 2 { // nothing listens there, so the next address is dialled at once
		r.dial()
	}
}

// The gateway that an agent must leave still accepts connections.
func TestAnotherAddressIsDialledWhenTheGatewayDrains(t *testing.T) {
	for _, kind := range []string{"ws", "h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			draining, _ := newNamedRig(t, kind)
			draining.dial()
			_, port, _ := net.SplitHostPort(draining.addr)
			other, err := net.Listen("tcp", net.JoinHostPort(deadIP, port))
			if err != nil {
				t.Skip(err)
			}
			udp, err := net.ListenPacket("udp", other.Addr().String())
			if err != nil {
				t.Skip(err)
			}
			second := &rig{t: t, addr: other.Addr().String(), served: make(chan *served, 1), dialer: draining.dialer}
			second.server = &Server{Serve: second.serve, Opened: draining.server.Opened, TLS: draining.server.TLS}
			second.start(other, udp, nil)
			draining.server.drain()
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // as an agent does
				c, err := draining.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
				if err == nil {
					defer c.Close()
					break
				}
				if !race.Draining(err) || time.Now().After(end) {
					t.Fatal(err)
				}
			}
			(<-second.served).returned()
		})
	}
}
