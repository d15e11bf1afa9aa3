package tunnel

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// At either end, the connection with the most unread bytes is closed first, and the others stay.
func TestWithoutMemoryTheWorstConnectionIsClosed(t *testing.T) {
	for _, gateway := range []bool{true, false} {
		var used atomic.Int64
		r := newRig(t, "h3", func(r *rig) {
			m := &r.server.limiter.memory
			if r.server.Limits.Memory = 100; !gateway {
				r.server.Limits.Memory, r.dialer.Memory = 0, 100
				m = &r.dialer.memory
			}
			m.fake = used.Load
		})
		good, goodEnd := r.dial()
		r.unusedCarrier()
		bad, badEnd := r.dial()
		from, to := bad, badEnd.Conn
		if !gateway {
			from, to = badEnd.Conn, bad
		}
		conn := to.x.(*exchange.H3).Conn()
		go from.Write(make([]byte, 4*minUnread))
		for conn.ConnectionStats().BytesReceived < 3*minUnread && t.Context().Err() == nil {
			runtime.Gosched()
		}
		context.AfterFunc(conn.Context(), func() { used.Store(0) })
		used.Store(201)
		<-conn.Context().Done()
		if _, err := good.Write([]byte("x")); err != nil {
			t.Errorf("gateway %t: the other stream: %v", gateway, err)
		}
		if _, err := goodEnd.Read(make([]byte, 1)); err != nil {
			t.Errorf("gateway %t: the other stream: %v", gateway, err)
		}
		r.stop()
	}
}

// A gateway that withholds the first byte of unidirectional streams and sends the rest in frames of
// one byte cannot exceed the limit.
func TestAHostileGatewayDoesNotTakeAllMemory(t *testing.T) {
	const room = 64 << 20
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	sock := newMuzzle(udp)
	before := inUse()
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.URL.Host, r.dialer.Transport = udp.LocalAddr().String(), TransportH3
		r.dialer.Memory, r.dialer.windows = before+room, defaultWindows
	})
	var keys keyLog
	cfg := r.server.TLS.Clone()
	cfg.NextProtos, cfg.KeyLogWriter = []string{http3.NextProtoH3}, &keys
	tr := &quic.Transport{Conn: sock}
	ln, err := tr.Listen(cfg, &quic.Config{DisablePathMTUDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	defer func() {
		r.stop()
		tr.Close()
		udp.Close()
		tasks.Wait()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tasks.Go(func() { r.dialer.Dial(ctx, Open{Target: TargetBootstrap}, nil) })
	c, err := ln.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say(c, []byte{streamControl, frameSettings, 2, settingExtendedConnect, 1})
	if _, err := c.AcceptStream(t.Context()); err != nil { // so that the agent has registered the connection
		t.Fatal(err)
	}
	if err := sock.seize(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := newPuppet(sock, c.RemoteAddr(), keys.secret("SERVER_TRAFFIC_SECRET_0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{7, 11} { // 3 is the control stream
		for i := range firstWindow - 1 {
			p.add(streamFrame(id, uint64(1+i), []byte{0}))
		}
	}
	p.sync()
	if !p.gone {
		t.Error("the agent continues with a connection that uses all its memory")
	}
	// What is in use is known when garbage is collected, which may be when the heap has doubled.
	// Without a limit it is 322 MiB.
	if n := inUse() - before; n > 2*room {
		t.Errorf("the agent holds %d MiB, limit %d", n>>20, room>>20)
	}
}

// An agent that only downloads sends nothing but acknowledgements, and none of them is held.
func TestAcknowledgementsAreNotHeld(t *testing.T) {
	r := newRig(t, "h3")
	agent, gateway := r.dial()
	conn := gateway.Conn.x.(*exchange.H3).Conn()
	const size = 50 << 20
	var reading sync.WaitGroup
	reading.Go(func() { io.CopyN(io.Discard, agent, size) })
	for range size >> 20 {
		if _, err := gateway.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	reading.Wait()
	a := &unread{read: &quicPeerOf(conn.Context()).read}
	if a.update(conn); a.held > minUnread {
		t.Errorf("%d bytes count as held for an agent that has sent nothing", a.held)
	}
}
