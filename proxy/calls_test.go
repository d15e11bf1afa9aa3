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
// for each. With buffers of 64 KiB it would be 16 of both for a MiB.
func TestALargeFrameTakesFewCallsAndNoMemory(t *testing.T) {
	if underRace {
		t.Skip("sync.Pool loses buffers under the race detector: run it without -race, as go run ./test/all does")
	}
	const size, most = 32 << 20, 5 * 32
	for _, scheme := range []string{"https", "http"} {
		in := &endless{}
		writes, stream := discarding(t, scheme)
		flow := protocol.NewFlow(&source{Conn: in}, &source{Conn: stream})
		relay := func() {
			if err := flow.PassThrough(size); err != nil {
				t.Fatal(err)
			}
		}
		relay() // fills the pools
		in.reads = 0
		writes.Store(0)
		relay()
		if in.reads > most || writes.Load() > most {
			t.Errorf("%s: %d reads and %d writes for 32 MiB, want %d at most", scheme, in.reads, writes.Load(), most)
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
}

func (e *endless) Read(p []byte) (int, error) {
	e.reads++
	return len(p), nil
}

// writeCounter counts the calls of Write.
type writeCounter struct {
	net.Conn
	writes *atomic.Int64
}

func (c writeCounter) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// discarding returns a stream over ws to a gateway that drops all that comes, and how often the
// agent's end has written to the network.
func discarding(t *testing.T, scheme string) (writes *atomic.Int64, stream *tunnel.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tunnel.Server{Serve: func(_ context.Context, c *tunnel.Conn, _ tunnel.Open, _ tunnel.Peer) {
		io.Copy(io.Discard, c)
		c.Close()
	}}
	dialer := &tunnel.Dialer{URL: &url.URL{Scheme: scheme, Host: ln.Addr().String()}, Transport: tunnel.TransportWS}
	if scheme == "https" {
		server.TLS, dialer.TLS = serverTLS(t), clientTLS(t)
	}
	writes = new(atomic.Int64)
	dialer.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return writeCounter{c, writes}, err
	}
	stop := run(t, func(ctx context.Context) error { return server.Run(ctx, ln, nil) })
	stream, err = dialer.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stream.Close()
		dialer.Close()
		stop()
		server.Shutdown(t.Context()) // which has ended
	})
	return writes, stream
}
