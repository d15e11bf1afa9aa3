package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A udpRelay stands in front of a gateway like a NAT, for one agent.
type udpRelay struct {
	t     *testing.T
	front *net.UDPConn
	tasks sync.WaitGroup

	mu      sync.Mutex
	gateway net.Addr
	agent   net.Addr
	back    *net.UDPConn // whose port the gateway sees
	longest int          // of the packets with a long header, which are those of handshakes
	sent    int          // packets to the gateway
	replies int          // and from it
}

func newUDPRelay(t *testing.T, gateway net.Addr) *udpRelay {
	r := &udpRelay{t: t, front: listenUDP(t), gateway: gateway}
	r.tasks.Go(r.forth)
	r.rebind()
	t.Cleanup(func() {
		r.front.Close()
		r.mu.Lock()
		r.back.Close()
		r.mu.Unlock()
		r.tasks.Wait()
	})
	return r
}

func listenUDP(t *testing.T) *net.UDPConn {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rebind takes another port and closes the old one.
func (r *udpRelay) rebind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.back != nil {
		r.back.Close()
	}
	back := listenUDP(r.t)
	r.back = back
	r.tasks.Go(func() { r.andBack(back) })
}

// leadTo sends packets to another gateway from now on.
func (r *udpRelay) leadTo(gateway net.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gateway, r.sent, r.replies = gateway, 0, 0
}

func (r *udpRelay) forth() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := r.front.ReadFrom(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.agent = from
		r.note(buf[:n])
		r.back.WriteTo(buf[:n], r.gateway)
		r.sent++
		r.mu.Unlock()
	}
}

func (r *udpRelay) andBack(back *net.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := back.ReadFrom(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.replies++
		r.note(buf[:n])
		r.front.WriteTo(buf[:n], r.agent)
		r.mu.Unlock()
	}
}

// passed reports whether some packets have reached the gateway and, if it answers, some have come
// back.
func (r *udpRelay) passed(answers bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent >= 10 && (!answers || r.replies >= 3)
}

func (r *udpRelay) note(packet []byte) {
	if len(packet) > 0 && packet[0]&0x80 != 0 {
		r.longest = max(r.longest, len(packet))
	}
}

// newRelayedRig is newRig for h3 behind a relay.
func newRelayedRig(t *testing.T, adapt ...func(*rig)) (*rig, *udpRelay) {
	var relay *udpRelay
	r := newRig(t, "h3", slices.Concat(adapt, []func(*rig){func(r *rig) {
		gateway, err := net.ResolveUDPAddr("udp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		relay = newUDPRelay(t, gateway)
		r.dialer.URL = &url.URL{Scheme: "https", Host: relay.front.LocalAddr().String()}
	}})...)
	return r, relay
}

// A NAT drops a mapping and takes another port, or a laptop changes networks: streams continue.
func TestStreamsGoOnFromAnotherAddress(t *testing.T) {
	r, relay := newRelayedRig(t)
	c, s := r.dial()
	const pieces, piece = 64, 128 << 10
	want := random(pieces * piece)
	var both sync.WaitGroup
	for _, ends := range [][2]*Conn{{c, s.Conn}, {s.Conn, c}} {
		both.Go(func() {
			for p := range slices.Chunk(want, piece) {
				if _, err := ends[0].Write(p); err != nil {
					t.Errorf("Write: %v", err)
					return
				}
			}
		})
		both.Go(func() {
			got := make([]byte, len(want))
			for i := range pieces {
				if _, err := io.ReadFull(ends[1], got[i*piece:][:piece]); err != nil {
					t.Errorf("Read of piece %d: %v", i, err)
					return
				}
				if i == pieces/4 || i == pieces/2 {
					relay.rebind()
				}
			}
			if !bytes.Equal(got, want) {
				t.Error("read something else")
			}
		})
	}
	both.Wait()
}

// Some links carry no more than 1228 bytes of IP, such as PPP over IPsec over another tunnel.
func TestHandshakesNeedNoLargerPacketsThanTheLeast(t *testing.T) {
	r, relay := newRelayedRig(t)
	r.dial()
	relay.mu.Lock()
	defer relay.mu.Unlock()
	if relay.longest != packetSize {
		t.Errorf("the longest packet of a handshake has %d bytes, want %d", relay.longest, packetSize)
	}
}

// A gateway that does not know a connection ends it if it has the same reset key as the
// connection's gateway had.
func TestAgentsLearnOfARestart(t *testing.T) {
	key := []byte(strings.Repeat("k", MinResetKey))
	for _, tt := range []struct {
		name          string
		before, after []byte
		reset         bool
	}{
		{"same key", key, key, true},
		{"another key", key, []byte(strings.Repeat("K", MinResetKey)), false},
		{"no key", nil, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, relay := newRelayedRig(t, func(r *rig) {
				r.server.ResetKey = tt.before
				r.dialer.timing = defaultTiming
				r.dialer.timing.reset = 50 * time.Millisecond // nobody reads the end of the stream
			})
			restarted := newRig(t, "h3", func(r *rig) { r.server.ResetKey = tt.after })
			c, _ := r.dial()
			gateway, _ := net.ResolveUDPAddr("udp", restarted.addr)
			relay.leadTo(gateway)

			read := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				read <- err
			}()
			if tt.reset {
				c.Write(make([]byte, 1000))
				if err := <-read; !errors.Is(err, ErrCut) || !strings.Contains(err.Error(), "stateless reset") {
					t.Errorf("Read: %v, want a stateless reset", err)
				}
				return
			}
			for !relay.passed(tt.after != nil) {
				c.Write(make([]byte, 1000))
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-read:
				t.Errorf("Read: %v, want nothing", err)
			default:
			}
			c.Close()
			<-read
		})
	}
}

func TestAShortResetKeyIsRefused(t *testing.T) {
	server, _ := testTLS()
	s := &Server{TLS: server, ResetKey: []byte("short")}
	tcp, udp := listenOn(t, true)
	defer tcp.Close()
	defer udp.Close()
	if err := s.Run(t.Context(), tcp, udp); err == nil || !strings.Contains(err.Error(), "ResetKey has 5 bytes, want at least 32") {
		t.Errorf("Run: %v", err)
	}
}

func TestKeysForTwoUsesDiffer(t *testing.T) {
	key := []byte(strings.Repeat("k", MinResetKey))
	tr, err := quicTransport(nil, key)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(tr.StatelessResetKey[:], tr.TokenGeneratorKey[:]) || bytes.Contains(key, tr.StatelessResetKey[:]) {
		t.Error("one key has two uses")
	}
}

// Nobody listens on the gateway's UDP port, and ICMP says so; QUIC alone would wait for five
// seconds.
func TestAClosedUDPPortIsFoundAtOnce(t *testing.T) {
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.Transport = TransportH3
	})
	_, err := r.dialer.Dial(t.Context(), Open{}, nil)
	want := "dial gateway " + r.addr + " over h3: QUIC handshake: UDP does not get through: "
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Dial: %v, want %s…", err, want)
	}
}
