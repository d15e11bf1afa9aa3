package tunnel

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
)

func BenchmarkWS(b *testing.B)    { benchmark(b, "ws") }
func BenchmarkPlain(b *testing.B) { benchmark(b, "plain") }
func BenchmarkH3(b *testing.B)    { benchmark(b, "h3") }
func BenchmarkH2(b *testing.B)    { benchmark(b, "h2") }
func BenchmarkH2C(b *testing.B)   { benchmark(b, "h2c") }

// benchmark moves bytes from the agent's end to the gateway's, in one process.
func benchmark(b *testing.B, kind string) {
	for _, size := range []int{1 << 10, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("up/%dKiB", size>>10), func(b *testing.B) {
			c, s := newRig(b, kind).dial()
			move(b, c, s, size)
		})
	}
	b.Run("down/64KiB", func(b *testing.B) {
		c, s := newRig(b, kind).dial()
		move(b, s, c, 64<<10)
	})
}

func move(b *testing.B, w io.Writer, r io.Reader, size int) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for left := b.N * size; left > 0; {
			n, err := r.Read(buf)
			if left -= n; err != nil {
				b.Errorf("Read: %v", err)
				return
			}
		}
	}()
	buf := make([]byte, size)
	b.ResetTimer()
	for range b.N {
		if _, err := w.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

// BenchmarkTCP and BenchmarkTLS are the baselines for BenchmarkWS.
func BenchmarkTCP(b *testing.B) { benchmarkDirect(b, nil, nil) }

func BenchmarkTLS(b *testing.B) {
	server, client := testTLS()
	benchmarkDirect(b, server, client)
}

func benchmarkDirect(b *testing.B, server, client *tls.Config) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil && server != nil {
			t := tls.Server(c, server)
			t.Handshake()
			c = t
		}
		accepted <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err == nil && client != nil {
		cfg := client.Clone()
		cfg.ServerName = "gateway"
		t := tls.Client(c, cfg)
		err = t.Handshake()
		c = t
	}
	if err != nil {
		b.Fatal(err)
	}
	s := <-accepted
	defer s.Close()
	defer c.Close()
	move(b, c, s, 64<<10)
}

// Steady traffic allocates nothing. crypto/tls itself allocates 24 bytes for each read from its
// connection, once or twice a record.
func TestWSMovesBytesWithoutAllocating(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates: run it without -race, as go run ./test/all does")
	}
	for kind, limit := range map[string]float64{"ws": 4 * 4 * 2, "plain": 0} {
		c, s := newRig(t, kind).dial()
		buf, in := make([]byte, 64<<10), make([]byte, 64<<10)
		n := testing.AllocsPerRun(200, func() {
			c.Write(buf)
			io.ReadFull(s, in)
			s.Write(buf)
			io.ReadFull(c, in)
		})
		if n > limit {
			t.Errorf("%s: %v allocations for four times 64 KiB, want %v at most", kind, n, limit)
		}
	}
}
