package tunnel

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// An ingress may grant fewer streams per connection than we would share it among.
func TestAnIngressThatGrantsFewStreams(t *testing.T) {
	const streams = 20
	for granted := 1; granted <= 3; granted++ {
		for name, dial := range map[string]func(*rig){
			"one after the other": func(r *rig) {
				for range streams {
					r.dial()
				}
			},
			"at once": func(r *rig) {
				var dials sync.WaitGroup
				for range streams {
					dials.Go(func() { r.dial() })
				}
				dials.Wait()
			},
		} {
			for _, settings := range []struct {
				arrive string
				dial   dialFunc
			}{{"soon", nil}, {"late", lateSettings}} {
				t.Run(fmt.Sprintf("%d per connection, %s, SETTINGS arrive %s", granted, name, settings.arrive), func(t *testing.T) {
					r := newFrontDoorRig(t, &http.HTTP2Config{MaxConcurrentStreams: granted})
					r.dialer.DialContext = settings.dial
					r.settle()
					start := time.Now()
					dial(r)
					if took := time.Since(start); took > r.dialer.timing.handshake/2 {
						t.Errorf("%d streams took %v, although %d of them fit on each connection", streams, took, granted)
					}
					if conns, n := r.h2Count(); n < streams || conns < streams/granted {
						t.Errorf("%d connections with %d streams, want %d streams, and %d on each", conns, n, streams, granted)
					}
				})
			}
		}
	}
}

// lateSettings dials connections on which the peer's first bytes arrive late.
func lateSettings(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &lateConn{Conn: c}, err
}

type lateConn struct {
	net.Conn
	once sync.Once
}

func (c *lateConn) Read(p []byte) (int, error) {
	c.once.Do(func() { time.Sleep(100 * time.Millisecond) })
	return c.Conn.Read(p)
}

// The same over QUIC. A stream that has ended makes room for another one a round trip later.
func TestAQUICPeerThatGrantsFewStreams(t *testing.T) {
	const streams, granted = 20, 3
	r := newRig(t, "h3", func(r *rig) {
		r.server.windows = defaultWindows
		r.server.windows.streams = granted
		r.dialer.Carriers = 2
	})
	start := time.Now()
	for range 3 {
		var open []*Conn
		for range streams {
			c, s := r.dial()
			s.returned()
			open = append(open, c)
		}
		for _, c := range open {
			c.Close()
		}
	}
	if took := time.Since(start); took > r.dialer.timing.handshake/2 {
		t.Errorf("%d streams took %v, although %d of them fit on each connection", 3*streams, took, granted)
	}
	if n := len(r.h3().all()); n > streams {
		t.Errorf("%d carriers for %d streams", n, streams)
	}
}
