package tunnel

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// expireAll does to all unauthenticated connections what their timeout does.
func (u *unauthenticatedTCP) expireAll() {
	u.mu.Lock()
	var all []*entry
	for p := u.list.Front(); p != nil; p = p.Next() {
		all = append(all, p.Value.(*entry))
	}
	u.mu.Unlock()
	for _, e := range all {
		u.expire(e)
	}
}

func TestAnUnauthenticatedConnectionCostsLittle(t *testing.T) {
	n := 20
	if underRace { // handshakes take ten times as long
		n = 5
	}
	for i, s := range tcpAttackers {
		t.Run(s.name, func(t *testing.T) {
			r := newUnauthenticatedRig(t, s.over)
			base := holdNow()
			one := startCrowd(t, strconv.Itoa(i), r.addr, 1) // for what is allocated once
			one.wait("done")
			before := settledHolding()
			many := startCrowd(t, strconv.Itoa(i), r.addr, n)
			many.wait("done")
			after := settledHolding()
			each := held{(after.bytes - before.bytes) / n, (after.goroutines - before.goroutines + n/2) / n}
			t.Logf("%d KiB and %d goroutines each", each.bytes>>10, each.goroutines)
			if each.bytes > maxMemoryPerConn || each.goroutines > 4 {
				t.Errorf("each of %d costs %d bytes and %d goroutines, want at most %d and 4", n, each.bytes, each.goroutines, maxMemoryPerConn)
			}
			r.server.unauthenticated.expireAll()
			for _, c := range []*crowd{one, many} {
				c.read()
				c.wait("closed")
			}
			// Each crowd has a goroutine in this process.
			waitUntil(t, func() bool { return holdNow().goroutines <= base.goroutines+2 })
			if left := r.server.unauthenticated.len(); left != 0 {
				t.Errorf("%d closed connections are still counted", left)
			}
		})
	}
}

// 2,000 attackers at once cost at most 256 MiB, and an agent still connects. Those with half a
// handshake cost the most of all that send no request.
func TestManyUnauthenticatedConnectionsLeaveRoomForAgents(t *testing.T) {
	n, most := 2000, 256<<20
	if underRace {
		n = 200
	}
	half := slices.IndexFunc(tcpAttackers, func(s tcpAttacker) bool { return s.name == "TLS, half a handshake" })
	for name, which := range map[string]string{"all kinds": "all", "half a handshake": strconv.Itoa(half)} {
		t.Run(name, func(t *testing.T) {
			r := newUnauthenticatedRig(t, "h2")
			before := settledHolding()
			crowd := startCrowd(t, which, r.addr, n)
			crowd.wait("done")
			during := settledHolding()
			counted := r.server.unauthenticated.len()
			t.Logf("%d attackers, %d of them still connected, hold %d MiB and %d goroutines", n, counted, (during.bytes-before.bytes)>>20, during.goroutines-before.goroutines)
			if used := during.bytes - before.bytes; used > most {
				t.Errorf("%d attackers cost %d bytes, want %d at most", n, used, most)
			}
			if counted > maxUnauthenticated {
				t.Errorf("%d unauthenticated connections are open, want %d at most", counted, maxUnauthenticated)
			}
			for _, transport := range []string{TransportWS, TransportH2} {
				d := &Dialer{URL: r.dialer.URL, TLS: r.dialer.TLS, Token: r.dialer.Token, Transport: transport}
				start := time.Now()
				if _, err := d.Hello(t.Context()); err != nil {
					t.Errorf("%s: an agent is not served: %v", transport, err)
				}
				t.Logf("%s: hello in %v", transport, time.Since(start))
				d.Close()
			}
			r.server.unauthenticated.expireAll()
			crowd.read()
			crowd.wait("closed")
			// The crowd has a goroutine in this process.
			waitUntil(t, func() bool { return holdNow().goroutines <= before.goroutines+1 })
		})
	}
}

// inTLSBubble runs f in a synctest bubble, over memory, with a gateway that has TLS or not.
func inTLSBubble(t *testing.T, withTLS bool, f func(t *testing.T, r *rig, ln *memnet.Listener), adapt ...func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r, ln := newMemRig(t, append(adapt, withToken, func(r *rig) {
			if withTLS {
				r.server.TLS, _ = testTLS()
			}
		})...)
		f(t, r, ln)
		r.stop()
	})
}

// dialOverMemory is dialOver in a bubble.
func dialOverMemory(t *testing.T, over string, ln *memnet.Listener) net.Conn {
	t.Helper()
	c, err := ln.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if over == "tcp" || over == "plain" {
		return c
	}
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{map[string]string{"h1": "http/1.1", "h2": "h2"}[over]}})
	if err := s.Handshake(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnUnauthenticatedConnectionIsClosedInTime(t *testing.T) {
	keepOn := func(say func(c net.Conn, i uint32) error) func(net.Conn) error {
		return func(c net.Conn) error {
			for i := range uint32(60) {
				if err := say(c, i); err != nil {
					return err
				}
				time.Sleep(500 * time.Millisecond)
			}
			return nil
		}
	}
	var h2 *h2Attacker
	cases := append(slices.Clone(tcpAttackers), []tcpAttacker{
		{"HTTP/1.1, a byte at a time", "h1", keepOn(func(c net.Conn, i uint32) error {
			_, err := c.Write([]byte("GET /culvert HTTP/1.1\r\nHost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")[i:][:1])
			return err
		})},
		{"HTTP/2, a ping at a time", "h2", keepOn(func(c net.Conn, i uint32) error {
			if i == 0 {
				h2 = newH2Attacker(c)
			}
			h2.WritePing(false, [8]byte{})
			return h2.out.Flush()
		})},
		{"HTTP/2, a refused request at a time", "plain", keepOn(func(c net.Conn, i uint32) error {
			if i == 0 {
				h2 = newH2Attacker(c)
			}
			h2.post(2*i + 1)
			return h2.out.Flush()
		})},
	}...)
	for _, s := range cases {
		t.Run(s.name, func(t *testing.T) {
			inTLSBubble(t, s.over != "plain", func(t *testing.T, r *rig, ln *memnet.Listener) {
				start := time.Now()
				c := dialOverMemory(t, s.over, ln)
				var doing sync.WaitGroup
				defer doing.Wait()
				defer c.Close()
				doing.Go(func() { s.do(c) })
				if !strings.Contains(s.name, "not read") {
					doing.Go(func() { io.Copy(io.Discard, c) })
				}
				synctest.Wait()
				for r.server.unauthenticated.len() > 0 && time.Since(start) <= time.Minute {
					time.Sleep(100 * time.Millisecond)
				}
				if took := time.Since(start); took > defaultTiming.handshake+100*time.Millisecond {
					t.Errorf("closed after %v, want %v at most", took, defaultTiming.handshake)
				}
			})
		})
	}
}

// A connection stays once a request on it has authenticated: an ingress may multiplex the streams
// of many agents, and requests of others, on it.
func TestAConnectionOfAnAgentStays(t *testing.T) {
	inTLSBubble(t, false, func(t *testing.T, r *rig, ln *memnet.Listener) {
		c := dialOverMemory(t, "plain", ln)
		h2 := newH2Attacker(c)
		answers := http2.NewFramer(nil, c)
		var asking sync.WaitGroup
		defer asking.Wait()
		defer c.Close()
		asking.Go(func() {
			h2.post(1, "culvert-authorization", "Bearer secret")
			for id := uint32(3); h2.out.Flush() == nil; id += 2 {
				time.Sleep(time.Second)
				h2.post(id)
			}
		})
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			f, err := answers.ReadFrame()
			if _, away := f.(*http2.GoAwayFrame); away || err != nil {
				t.Fatalf("after %v: %v, %v", time.Since(end.Add(-time.Minute)), f, err)
			}
		}
		if n := r.server.unauthenticated.len(); n != 0 {
			t.Errorf("%d authenticated connections are still counted", n)
		}
	})
}

func TestTheOldestUnauthenticatedConnectionMakesRoom(t *testing.T) {
	var told []Limit
	adapt := func(r *rig) {
		r.server.OnLimit = func(l Limit, e *Error, p Peer) {
			told = append(told, l)
			if p.Addr != "dialler" || !strings.Contains(e.Message, "limit of 3 unauthenticated connections") {
				t.Errorf("OnLimit was called with %+v: %v", p, e)
			}
		}
		r.server.unauthenticated.most = 3
	}
	inTLSBubble(t, false, func(t *testing.T, r *rig, ln *memnet.Listener) {
		var conns []net.Conn
		closed := make(chan int, 10)
		for i := range 4 {
			c := dialOverMemory(t, "plain", ln)
			defer c.Close()
			conns = append(conns, c)
			go func() {
				io.Copy(io.Discard, c)
				closed <- i
			}()
			synctest.Wait()
		}
		if i := <-closed; i != 0 {
			t.Errorf("number %d was closed, want the oldest", i)
		}
		r.dial() // an agent comes in, and the next oldest makes room
		if i := <-closed; i != 1 {
			t.Errorf("number %d was closed, want the next oldest", i)
		}
		conns[2].Close()
		synctest.Wait()
		if n := r.server.unauthenticated.len(); n != 1 {
			t.Errorf("%d connections are counted, want the one that is left", n)
		}
		if !slices.Equal(told, []Limit{LimitUnauthenticated, LimitUnauthenticated}) {
			t.Errorf("OnLimit was called with %v", told)
		}
	}, adapt)
}

// An agent may send as much as it likes after its first header, docs/tunnel.md §2. The gateway
// reads a little of that before it checks the token, and all of it afterwards, even if it refuses
// the token: otherwise the agent would not get the response.
func TestWhatComesTooEarlyWaits(t *testing.T) {
	inTLSBubble(t, false, func(t *testing.T, r *rig, ln *memnet.Listener) {
		var guarded *guard
		decide := make(chan struct{})
		authenticate := r.server.Authenticate
		r.server.Authenticate = func(req *http.Request) (string, error) {
			guarded = guardOf(req)
			<-decide
			return authenticate(req)
		}
		want := random(3 * maxGuardedRead)
		open, _ := encodeOpen(Open{Target: TargetBootstrap})
		body := appendCapsule(open, capsuleData, want)
		body = appendCapsule(body, capsuleFinalData, nil)
		for _, token := range []string{"secret", "wrong"} {
			c := dialOverMemory(t, "plain", ln)
			h2 := newH2Attacker(c)
			go io.Copy(io.Discard, c)
			sent := make(chan error, 1)
			go func() {
				h2.post(1, "culvert-authorization", "Bearer "+token)
				for part := range slices.Chunk(body, exchange.MaxRequestFrame) {
					h2.WriteData(1, false, part)
				}
				sent <- h2.out.Flush()
			}()
			synctest.Wait()
			if guarded.room != 0 || len(sent) > 0 {
				t.Errorf("%s: %d more bytes would be read before the token was checked", token, guarded.room)
			}
			decide <- struct{}{}
			if err := <-sent; err != nil {
				t.Errorf("%s: %v", token, err)
			}
			if token == "secret" {
				s := <-r.served
				if got, err := io.ReadAll(s); string(got) != string(want) || err != nil {
					t.Errorf("read %d of %d bytes, %v", len(got), len(want), err)
				}
				s.returned()
			}
			c.Close()
			synctest.Wait()
		}
	})
}

// A connection on which requests are sent and reset again and again is closed at once.
func TestAnUnauthenticatedPeerMayNotAskForever(t *testing.T) {
	inTLSBubble(t, false, func(t *testing.T, r *rig, ln *memnet.Listener) {
		looked := 0
		r.server.User = func(http.Header) string { looked++; return "" }
		start := time.Now()
		c := dialOverMemory(t, "plain", ln)
		defer c.Close()
		go io.Copy(io.Discard, c)
		h2 := newH2Attacker(c)
		for id := uint32(1); h2.out.Flush() == nil && id < 10_000; id += 2 {
			h2.post(id)
			h2.WriteRSTStream(id, http2.ErrCodeCancel)
			h2.out.Flush()
			synctest.Wait()
		}
		if looked > maxGuardedRequests+1 || time.Since(start) > 0 {
			t.Errorf("%d requests were handled within %v, want %d and the connection closed at once", looked, time.Since(start), maxGuardedRequests)
		}
	})
}

// The responses to an unauthenticated peer are bounded.
func TestAnUnauthenticatedPeerIsNotAnsweredForever(t *testing.T) {
	inTLSBubble(t, false, func(t *testing.T, r *rig, ln *memnet.Listener) {
		start := time.Now()
		c := dialOverMemory(t, "plain", ln)
		defer c.Close()
		go func() {
			h2 := newH2Attacker(c)
			h2.block()
		}()
		n, err := io.Copy(io.Discard, c)
		if n > maxGuardedWrite || exchange.IsTimeout(err) || time.Since(start) > 0 {
			t.Errorf("%d bytes of responses in %v, %v, want at most %d and the connection closed at once", n, time.Since(start), err, maxGuardedWrite)
		}
	})
}

// What an agent has ready for later streams is authenticated; otherwise the gateway would close it
// after a while.
func TestAgentsAuthenticateTheirTCPConnections(t *testing.T) {
	for _, kind := range []string{"ws", "h2"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, kind, func(r *rig) {
				r.server.Authenticate = knowsAlice
				r.dialer.Token = func() (string, error) { return "alice", nil }
			})
			const spares = 2*maxShared + 1 // on more than one HTTP/2 connection
			r.dialer.SetSpares(spares)
			for (ready(r.dialer) < spares || r.server.unauthenticated.len() > 0) && t.Context().Err() == nil {
				runtime.Gosched()
			}
		})
	}
}

// ready returns for how many streams there are sockets, or room on connections, over TCP.
func ready(d *Dialer) int {
	h2 := d.pools[TransportH2].(*h2Pool)
	h2.mu.Lock()
	n := 0
	if !slices.ContainsFunc(h2.list, func(c *h2Carrier) bool { return !c.isReady() }) {
		n = h2.roomToShare()
	}
	h2.mu.Unlock()
	ws := d.pools[TransportWS].(*wsPool)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return n + len(ws.spares)
}
