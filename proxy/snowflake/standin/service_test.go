package standin

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

func tlsTo(t *testing.T, r *rig) net.Conn {
	t.Helper()
	c := tls.Client(dialRig(t, r), trusting(r.Ingress))
	t.Cleanup(func() { c.Close() })
	return c
}

// eventually waits for what is to become so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestOnlyWhoIsReadyIsAsked restarts two instances one after the other.
func TestOnlyWhoIsReadyIsAsked(t *testing.T) {
	var ready [2]atomic.Bool
	var instances []Instance
	for n := range ready {
		i := instance(t, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte{byte('0' + n)}) })
		probed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" || !ready[n].Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(probed.Close)
		i.Ready = probed.URL + "/readyz"
		instances = append(instances, i)
	}
	var resumed atomic.Int32
	service := &Service{Hosts: []string{endpoint}, Roles: []string{role}, Instances: instances, Resume: func() { resumed.Add(1) }}
	r := start(t, &Ingress{Services: []*Service{service}, ProbeEvery: 5 * time.Millisecond})
	// answers is who has answered a number of requests.
	answers := func() map[string]bool {
		all := make(map[string]bool)
		for range 40 {
			response, body := r.get(t)
			if response.StatusCode != 200 {
				body = response.Status
			}
			all[body] = true
		}
		return all
	}
	only := func(want ...string) func() bool {
		return func() bool {
			got := answers()
			for _, w := range want {
				if !got[w] {
					return false
				}
			}
			return len(got) == len(want)
		}
	}
	const none = "503 Service Unavailable"
	eventually(t, "nobody answers", only(none))
	if n := resumed.Load(); n != 1 {
		t.Errorf("resumed %d times", n)
	}
	ready[0].Store(true)
	eventually(t, "0 answers", only("0"))
	ready[1].Store(true)
	eventually(t, "both answer", only("0", "1"))
	ready[0].Store(false)
	eventually(t, "1 answers", only("1"))
	ready[1].Store(false)
	eventually(t, "nobody answers", only(none))
	if n := resumed.Load(); n != 2 {
		t.Errorf("resumed %d times", n)
	}
}

// TestAProbeMayFail has two probes of three fail, which is one too few.
func TestAProbeMayFail(t *testing.T) {
	i := instance(t, mirror)
	var probes atomic.Int32
	probed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if probes.Add(1)%failureThreshold != 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(probed.Close)
	i.Ready = probed.URL
	service := &Service{Hosts: []string{endpoint}, Roles: []string{role}, Instances: []Instance{i}}
	r := start(t, &Ingress{Services: []*Service{service}, ProbeEvery: 5 * time.Millisecond})
	eventually(t, "it is ready", func() bool { return service.Ready() == 1 })
	for probes.Load() < 30 {
		if response, _ := r.get(t); response.StatusCode != http.StatusOK {
			t.Fatalf("answered %s after %d probes", response.Status, probes.Load())
		}
	}
}

func TestAnInstanceThatIsGoneIs503(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(mirror))
	address := server.Listener.Addr().String()
	server.Close()
	r := start(t, &Ingress{}, Instance{Address: address})
	if response, _ := r.get(t); response.StatusCode != 503 {
		t.Errorf("answered %s", response.Status)
	}
}

// inMemory runs a test in a bubble, with an ingress before an instance that echoes, and a WebSocket
// through it.
func inMemory(t *testing.T, in *Ingress, test func(t *testing.T, r *rig, c net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		in.Account, in.Certificate = newAccount(), certificate(t)
		in.Services = []*Service{{Hosts: []string{endpoint}, Roles: []string{role}, Instances: []Instance{{Address: "instance:80"}}}}
		in.once.Do(in.init)
		inside, outside := memnet.Listen("instance:80"), memnet.Listen("ingress:443")
		in.transport.DialContext = inside.DialContext
		server := &http.Server{Handler: http.HandlerFunc(echo)}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { server.Serve(inside) })
		running.Go(func() {
			if err := in.Serve(ctx, outside); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			server.Close()
			running.Wait()
		}()
		r := &rig{Ingress: in, pat: in.Account.NewPAT("ALICE", role, time.Hour)}
		raw, err := outside.DialContext(t.Context(), "tcp", "ingress:443")
		if err != nil {
			t.Fatal(err)
		}
		test(t, r, r.webSocket(t, raw))
	})
}

// untilCut returns how long it took until a connection ended.
func untilCut(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	n, err := c.Read(make([]byte, 1))
	if n > 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read %d, %v", n, err)
	}
	return time.Since(begin)
}

func TestAnIdleConnectionIsCut(t *testing.T) {
	inMemory(t, &Ingress{}, func(t *testing.T, r *rig, c net.Conn) {
		for range 10 { // it lives as long as something moves
			time.Sleep(89 * time.Second)
			if err := say(c, "still here"); err != nil {
				t.Fatal(err)
			}
		}
		if took := untilCut(t, c); took != 90*time.Second {
			t.Errorf("cut after %s", took)
		}
		if s := r.Stats(); s.IdleCuts != 1 || s.LifeCuts != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnOldConnectionIsCut(t *testing.T) {
	inMemory(t, &Ingress{Lifetime: 30 * time.Second}, func(t *testing.T, r *rig, c net.Conn) {
		begin := time.Now()
		for range 29 {
			time.Sleep(time.Second)
			if err := say(c, "still here"); err != nil {
				t.Fatal(err)
			}
		}
		untilCut(t, c)
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("cut after %s", took)
		}
		if s := r.Stats(); s.IdleCuts != 0 || s.LifeCuts != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestAHalfClosedWebSocketGoesOn has either end close its direction first.
func TestAHalfClosedWebSocketGoesOn(t *testing.T) {
	const words = "last words"
	heard := make(chan string, 1)
	r := start(t, &Ingress{}, instance(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if r.URL.Query().Has("first") {
			c.(*net.TCPConn).CloseWrite()
		}
		all, _ := io.ReadAll(rw)
		heard <- string(all)
		c.Write(all)
	}))
	for _, path := range []string{"/", "/?first"} {
		c := r.webSocketAt(t, dialRig(t, r), path).(*tls.Conn)
		if path == "/?first" {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("read %v, want an end", err)
			}
		}
		if _, err := io.WriteString(c, words); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != words {
			t.Errorf("the instance heard %q", got)
		}
		if path == "/" {
			if got, err := io.ReadAll(c); string(got) != words {
				t.Errorf("heard %q, %v", got, err)
			}
		}
	}
}
