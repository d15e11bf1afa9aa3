package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/test/proc"
)

// impatient is how long a test waits for what must not come.
const impatient = 300 * time.Millisecond

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// echo starts a server for both protocols and returns its address.
func echo(t *testing.T, ns *Namespace) string {
	t.Helper()
	at := net.JoinHostPort(ServerIP, "7")
	ln, err := ns.Listen("tcp", at)
	must(t, err)
	udp, err := ns.ListenPacket("udp", at)
	must(t, err)
	t.Cleanup(func() { ln.Close(); udp.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	go func() {
		b := make([]byte, 9000)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo(b[:n], from)
		}
	}()
	return at
}

// peer is a client socket of an echo server.
type peer struct {
	net.Conn
	t *testing.T
}

func (n *Network) peer(t *testing.T, protocol, at string) peer {
	t.Helper()
	c, err := n.Client.Dial(t.Context(), protocol, at)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return peer{c, t}
}

// ask returns how long an answer took, or an error if none came in time.
func (p peer) ask(patience time.Duration) (time.Duration, error) {
	begin := time.Now()
	p.SetDeadline(begin.Add(patience))
	if _, err := p.Write([]byte("hello")); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(p, make([]byte, 5))
	return time.Since(begin), err
}

func (p peer) mustAnswer() time.Duration {
	p.t.Helper()
	took, err := p.ask(10 * time.Second)
	if err != nil {
		p.t.Fatalf("no answer over %s: %v", p.RemoteAddr().Network(), err)
	}
	return took
}

func (p peer) mustNotAnswer() {
	p.t.Helper()
	if _, err := p.ask(impatient); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("over %s: %v, want no answer", p.RemoteAddr().Network(), err)
	}
}

func TestProgramsAndSocketsRunInTheNamespace(t *testing.T) {
	n := Start(t, Link{})
	echo(t, n.Server)
	listening := func(cmd *exec.Cmd) bool {
		out, err := proc.Run(t.Context(), cmd)
		must(t, err)
		return strings.Contains(out, ServerIP+":7 ")
	}
	if !listening(n.Server.Enter(exec.Command("ss", "-Hltn"))) {
		t.Error("inside: nothing listens")
	}
	if listening(exec.Command("ss", "-Hltn")) {
		t.Error("outside: the server listens")
	}
}

// A program must have the pid that its parent knows, so that signals reach it. Namespaces must end
// with the processes in them.
func TestProgramKeepsItsPid(t *testing.T) {
	n := Start(t, Link{})
	p, err := proc.Start(n.Client.Enter(exec.Command("sleep", "60")))
	must(t, err)
	defer p.Kill()
	for begin := time.Now(); ; {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.Pid()))
		must(t, err)
		if string(name) == "sleep\n" {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("process %d is %s", p.Pid(), name)
		}
		time.Sleep(time.Millisecond)
	}
	if err := p.Terminate(5 * time.Second); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("Terminate = %v", err)
	}
}

func TestLinkDelays(t *testing.T) {
	n := Start(t, Link{Delay: 20 * time.Millisecond})
	at := echo(t, n.Server)
	for _, protocol := range []string{"tcp", "udp"} {
		if took := n.peer(t, protocol, at).mustAnswer(); took < 40*time.Millisecond {
			t.Errorf("%s: answer after %s, want 40 ms at least", protocol, took)
		}
	}
}

func TestLinkLoses(t *testing.T) {
	n := Start(t, Link{Loss: 0.25, Seed: 1})
	at := echo(t, n.Server)
	c := n.peer(t, "udp", at)
	const sent = 400
	go func() {
		for range sent {
			c.Write([]byte("hello"))
			time.Sleep(100 * time.Microsecond) // the sockets hold few
		}
	}()
	got := 0
	c.SetDeadline(time.Now().Add(time.Second))
	for ; got < sent; got++ {
		if _, err := c.Read(make([]byte, 9)); err != nil {
			break
		}
	}
	if want := sent * 9 / 16; got < want-60 || got > want+60 {
		t.Errorf("%d of %d answers came, want about %d", got, sent, want)
	}
	if lost, _ := n.Lost(); lost == 0 || lost > int64(sent-got) {
		t.Errorf("Lost = %d, of %d that did not come", lost, sent-got)
	}
	n.peer(t, "tcp", at).mustAnswer()
}

func TestLinkHasARate(t *testing.T) {
	n := Start(t, Link{Rate: 1 << 20})
	c := n.peer(t, "tcp", echo(t, n.Server))
	begin := time.Now()
	const size = 512 << 10
	go c.Write(make([]byte, size))
	_, err := io.ReadFull(c, make([]byte, size))
	must(t, err)
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("%d bytes took %s, want half a second", size, took)
	}
}

func TestFaults(t *testing.T) {
	n := Start(t, Link{})
	at := echo(t, n.Server)
	tcp := n.peer(t, "tcp", at)
	udp := n.peer(t, "udp", at)
	tcp.mustAnswer()
	udp.mustAnswer()
	inject := func(f Fault, check func()) {
		t.Run(f.String(), func(t *testing.T) {
			must(t, n.Inject(f))
			check()
			must(t, n.Lift(f))
			n.peer(t, "udp", at).mustAnswer()
			n.peer(t, "tcp", at).mustAnswer()
		})
	}
	inject(UDPDropped, func() {
		udp.mustNotAnswer()
		tcp.mustAnswer()
	})
	inject(UDPRejected, func() {
		if _, err := n.peer(t, "udp", at).ask(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over udp: %v, want the error of ICMP", err)
		}
		tcp.mustAnswer()
	})
	inject(UDPFirstLost, func() {
		c := n.peer(t, "udp", at)
		c.mustNotAnswer()
		c.mustAnswer()
		n.peer(t, "udp", at).mustAnswer()
	})
	inject(UDPStalls, func() {
		for range 2 {
			c := n.peer(t, "udp", at)
			for range 10 {
				c.mustAnswer()
			}
			c.mustNotAnswer()
		}
		tcp.mustAnswer()
	})
	inject(BlackHole, func() {
		udp.mustNotAnswer()
		n.peer(t, "udp", at).mustNotAnswer()
		ctx, cancel := context.WithTimeout(t.Context(), impatient)
		defer cancel()
		if c, err := n.Client.Dial(ctx, "tcp", at); err == nil {
			c.Close()
			t.Error("a TCP connection was established")
		}
	})
	tcp.mustAnswer()
}

func TestRebindChangesThePort(t *testing.T) {
	n := Start(t, Link{})
	at := echo(t, n.Server)
	must(t, n.Rebind())
	tcp := n.peer(t, "tcp", at)
	tcp.mustAnswer()
	n.peer(t, "udp", at).mustAnswer()
	server, err := n.Server.ListenPacket("udp", net.JoinHostPort(ServerIP, "9"))
	must(t, err)
	defer server.Close()
	server.SetDeadline(time.Now().Add(10 * time.Second))
	c := n.peer(t, "udp", net.JoinHostPort(ServerIP, "9"))
	source := func() string {
		c.Write([]byte("x"))
		_, from, err := server.ReadFrom(make([]byte, 9))
		must(t, err)
		return from.String()
	}
	before := source()
	if again := source(); again != before {
		t.Errorf("from %s, then from %s", before, again)
	}
	must(t, n.Rebind())
	if after := source(); after == before || !strings.HasPrefix(after, serverGateway) {
		t.Errorf("from %s as before", after)
	}
	if _, err := tcp.ask(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("over tcp: %v, want a reset", err)
	}
}

func TestMoveChangesTheAddress(t *testing.T) {
	for name, offline := range map[string]func(){"at once": nil, "offline between": func() {}} {
		t.Run(name, func(t *testing.T) {
			n := Start(t, Link{Delay: time.Millisecond})
			at := echo(t, n.Server)
			n.peer(t, "udp", at).mustAnswer()
			must(t, n.Move(offline))
			c := n.peer(t, "udp", at)
			c.mustAnswer()
			if got := c.LocalAddr().String(); strings.HasPrefix(got, ClientIP+":") {
				t.Errorf("client is still at %s", got)
			}
			n.peer(t, "tcp", at).mustAnswer()
			must(t, n.Move(nil))
			n.peer(t, "tcp", at).mustAnswer()
		})
	}
}

func TestMTU(t *testing.T) {
	n := Start(t, Link{})
	at := echo(t, n.Server)
	must(t, n.SetMTU(1280))
	c := n.peer(t, "tcp", at)
	const size = 1 << 20
	go c.Write(make([]byte, size))
	c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := io.ReadFull(c, make([]byte, size))
	must(t, err)
}

func TestKillSockets(t *testing.T) {
	n := Start(t, Link{})
	c := n.peer(t, "tcp", echo(t, n.Server))
	c.mustAnswer()
	must(t, n.Client.KillSockets("dst", ServerIP))
	if _, err := c.ask(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its socket was killed: %v", err)
	}
}

// BenchmarkLink measures the throughput of the link.
func BenchmarkLink(b *testing.B) {
	for _, flows := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("%d-flows", flows), func(b *testing.B) {
			n := Start(b, Link{Delay: 25 * time.Millisecond})
			ln, err := n.Server.Listen("tcp", net.JoinHostPort(ServerIP, "7"))
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			size := 256 << 20 / flows
			go serveZeros(ln, size)
			b.SetBytes(int64(size * flows))
			for b.Loop() {
				var all errgroup.Group
				for range flows {
					all.Go(func() error { return discard(b.Context(), n.Client, ln.Addr().String()) })
				}
				if err := all.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func serveZeros(ln net.Listener, size int) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			c.Write(make([]byte, size))
			c.Close()
		}()
	}
}

func discard(ctx context.Context, ns *Namespace, at string) error {
	c, err := ns.Dial(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(io.Discard, c)
	return err
}
