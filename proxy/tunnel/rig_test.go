package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

func TestMain(m *testing.M) {
	if os.Getenv(attackersEnv) != "" {
		runAttackers()
		return
	}
	if spec := os.Getenv(attackEnv); spec != "" {
		if err := runAttack(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"} {
		os.Unsetenv(name)
	}
	goleak.VerifyTestMain(m)
}

// A rig is a gateway and a Dialer that reaches it.
type rig struct {
	t      testing.TB
	server *Server
	dialer *Dialer
	addr   string

	listener net.Listener   // for TCP
	udp      net.PacketConn // nil if there is none
	served   chan *served
	stop     func()
}

// served is the gateway's end of a stream. Its Serve returns when done is closed.
type served struct {
	*Conn
	open Open
	peer Peer
	done chan struct{}
	once sync.Once
}

// returned makes Serve return.
func (s *served) returned() { s.once.Do(func() { close(s.done) }) }

// finish closes the stream at the gateway's end.
func (s *served) finish() { s.Conn.Close() }

// newRig starts a gateway on loopback. The kinds "ws", "h2", "h3" and "auto" have TLS; "plain" and
// "h2c" are ws and h2 without TLS. "h3post" is h3 that opens streams with POST, "noudp" has TLS and
// a closed UDP port, and "silent" has TLS and a UDP port that answers nothing.
func newRig(t testing.TB, kind string, adapt ...func(*rig)) *rig {
	t.Helper()
	tcp, udp := listenOn(t, kind != "plain" && kind != "h2c" && kind != "noudp")
	if kind == "silent" {
		silent := udp
		t.Cleanup(func() { silent.Close() })
		udp = nil
	}
	r := &rig{t: t, addr: tcp.Addr().String(), served: make(chan *served, 100)}
	r.server = &Server{Serve: r.serve, Opened: func() Opened { return Opened{Gateway: "test", Reviewed: []int16{3}} }}
	r.dialer = &Dialer{URL: &url.URL{Scheme: "https", Host: r.addr}, Transport: kind, timing: defaultTiming}
	r.dialer.timing.answer = time.Minute // a slow machine must not cause a second dial
	r.dialer.timing.race.Check = 0       // no echoes but those that a test causes
	switch kind {
	case "plain":
		r.dialer.URL.Scheme, r.dialer.Transport = "http", TransportWS
	case "h2c":
		r.dialer.URL.Scheme, r.dialer.Transport = "http", TransportH2
	default:
		r.server.TLS, r.dialer.TLS = testTLS()
	}
	if kind == "h3post" {
		r.dialer.Transport = TransportH3
		adapt = append(adapt, func(r *rig) {
			r.dialer.init()
			r.h3().post.Store(true)
		})
	}
	r.start(tcp, udp, adapt)
	return r
}

// listenOn listens on one port of loopback, for UDP too if wantUDP is set. It retries, because a
// port that is free for TCP need not be free for UDP.
func listenOn(t testing.TB, wantUDP bool) (net.Listener, net.PacketConn) {
	t.Helper()
	for tries := 0; ; tries++ {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if !wantUDP {
			return tcp, nil
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		tcp.Close()
		if tries == 10 {
			t.Fatal(err)
		}
	}
}

// inBubbles runs a test over memory, in a synctest bubble for each TCP transport.
func inBubbles(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, transport := range []string{TransportWS, TransportH2} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := newMemRig(t, func(r *rig) { r.dialer.Transport = transport })
				f(t, r)
			})
		})
	}
}

// newMemRig is newRig for ws over memory, for use in bubbles.
func newMemRig(t testing.TB, adapt ...func(*rig)) (*rig, *memnet.Listener) {
	ln := memnet.Listen("gateway:80")
	r := &rig{t: t, addr: "gateway:80", served: make(chan *served, 100)}
	r.server = &Server{Serve: r.serve, Opened: func() Opened { return Opened{Gateway: "test"} }}
	r.dialer = &Dialer{URL: &url.URL{Scheme: "http", Host: "gateway"}, Transport: TransportWS, DialContext: ln.DialContext}
	r.start(ln, nil, adapt)
	return r, ln
}

func (r *rig) start(tcp net.Listener, udp net.PacketConn, adapt []func(*rig)) {
	if testing.Verbose() {
		r.server.Logger = slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r.listener, r.udp = tcp, udp
	for _, f := range adapt {
		f(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.server.Run(ctx, r.listener, udp); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		r.dialer.Close()
		cancel()
		wg.Wait()
		done, cancel := context.WithCancel(context.Background())
		cancel()
		r.server.Shutdown(done)
		if udp != nil {
			udp.Close()
		}
	})
	r.t.Cleanup(r.stop)
}

func (r *rig) serve(ctx context.Context, c *Conn, o *Open, p *Peer) {
	s := &served{Conn: c, open: *o, peer: *p, done: make(chan struct{})}
	r.served <- s
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

// dial opens a stream and returns both ends.
func (r *rig) dial() (*Conn, *served) {
	r.t.Helper()
	c, err := r.dialer.Dial(r.t.Context(), Open{Target: TargetBootstrap}, nil)
	if err != nil {
		r.t.Fatalf("Dial: %v", err)
	}
	s := <-r.served
	r.t.Cleanup(func() { c.Close(); s.returned() })
	return c, s
}

// unopened makes a stream whose OPEN has not been sent.
func (r *rig) unopened(o Open) *Conn {
	r.t.Helper()
	r.dialer.init()
	open, err := encodeOpen(o)
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := r.dialer.dialFresh(r.t.Context(), r.dialer.Transport, open)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

var testTLS = sync.OnceValues(func() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "culvert test"},
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"gateway"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, _ = x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
})

// countDials counts the connections that dial makes.
func (r *rig) countDials(dial dialFunc, n *int) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		*n++
		return dial(ctx, network, addr)
	}
}

// flagOf writes a setting as culvert's command line does.
func flagOf(s hints.Setting) string {
	return "--" + strings.ReplaceAll(strings.ToLower(string(s)), " ", "-")
}

// hintsOf returns the hints of an error, as culvert prints them.
func hintsOf(err error) string { return strings.Join(hints.Of(err, flagOf), "; ") }

// h3 and h2 return the Dialer's pools.
func (r *rig) h3() *h3Pool {
	r.dialer.init()
	return r.dialer.pools[TransportH3].(*h3Pool)
}

func (r *rig) h2() *h2Pool {
	r.dialer.init()
	return r.dialer.pools[TransportH2].(*h2Pool)
}
