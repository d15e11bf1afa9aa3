package proxy

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A large frame on its way into a tunnel takes one read and one write for 256 KiB, and no memory
// for each. With buffers of 64 KiB it would be 16 of both for a MiB. Without TLS its bytes are
// written from where they were read to.
func TestALargeFrameTakesFewCallsAndNoMemory(t *testing.T) {
	if underRace {
		t.Skip("sync.Pool loses buffers under the race detector: run it without -race, as go run ./test/all does")
	}
	const size, most = 32 << 20, 5 * 32
	for _, scheme := range []string{"https", "http"} {
		in, out := &endless{}, &written{}
		stream := discarding(t, scheme, out)
		flow := protocol.NewFlow(&source{Conn: in}, &source{Conn: stream})
		relay := func() {
			if err := flow.PassThrough(size); err != nil {
				t.Fatal(err)
			}
		}
		relay() // fills the pools
		in.reads = 0
		out.calls.Store(0)
		relay()
		if calls := out.calls.Load(); in.reads > most || calls > most {
			t.Errorf("%s: %d reads and %d writes for 32 MiB, want %d at most", scheme, in.reads, calls, most)
		}
		if scheme == "http" && out.last.Load() != in.last {
			t.Error("the bytes were copied in between")
		}
		// Beyond what crypto/tls allocates for each record that the gateway reads.
		if n := testing.AllocsPerRun(3, relay); scheme == "http" && n > 10 {
			t.Errorf("%v allocations for 32 MiB", n)
		}
	}
}

// endless is a connection that always has as many bytes as are wanted.
type endless struct {
	net.Conn
	reads int
	last  *byte // the one that was read last
}

func (e *endless) Read(p []byte) (int, error) {
	e.reads++
	e.last = &p[len(p)-1]
	return len(p), nil
}

// written is what a connection has written.
type written struct {
	calls atomic.Int64
	last  atomic.Pointer[byte]
}

// writer is a connection that notes what it has written.
type writer struct {
	net.Conn
	*written
}

func (w writer) Write(p []byte) (int, error) {
	w.calls.Add(1)
	w.last.Store(&p[len(p)-1])
	return w.Conn.Write(p)
}

// discarding returns a stream over ws to a gateway that drops all that comes. to notes what the
// agent's end has written to the network.
func discarding(t *testing.T, scheme string, to *written) *tunnel.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tunnel.Server{Serve: func(_ context.Context, c *tunnel.Conn, _ *tunnel.Open, _ *tunnel.Peer) {
		io.Copy(io.Discard, c)
		c.Close()
	}}
	dialer := &tunnel.Dialer{URL: &url.URL{Scheme: scheme, Host: ln.Addr().String()}, Transport: tunnel.TransportWS}
	if scheme == "https" {
		server.TLS, dialer.TLS = serverTLS(t), clientTLS(t)
	}
	dialer.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return writer{c, to}, err
	}
	stop := run(t, func(ctx context.Context) error { return server.Run(ctx, ln, nil) })
	stream, err := dialer.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stream.Close()
		dialer.Close()
		stop()
		server.Shutdown(t.Context()) // which has ended
	})
	return stream
}
