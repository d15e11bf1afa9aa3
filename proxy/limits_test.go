package proxy

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A client that is one too many is reset, does not hang, and may come again when another has left.
func TestAnAgentRefusesConnectionsOverItsLimit(t *testing.T) {
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.MaxConnections = 1 })
	ask := func() (net.Conn, error) {
		c, err := net.Dial("tcp", path.address)
		if err != nil {
			return nil, err // the reset can be here already
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
		_, err = c.Read(make([]byte, 1))
		return c, err
	}
	first, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the second client: %v, want a reset", err)
	}
	if n := limited(t, path, metrics.LimitConnections); n != 1 {
		t.Errorf("%v refusals counted, want 1", n)
	}
	for _, name := range []string{"culvert_limit_used", "culvert_limit_max"} {
		if n := series(t, path, name, "connections"); n != 1 {
			t.Errorf("%s is %v, want 1", name, n)
		}
	}
	first.Close()
	for range 1000 {
		if _, err = ask(); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("a client behind the first: %v", err)
	}
}

// The gateway's refusal reaches the agent's log by name, its client as a reset, and the gateway's
// metrics.
func TestAGatewayRefusesByName(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
			gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.Limits = tunnel.Limits{Streams: 1, SparesPerIdentity: 500} })
			path := startAgent(t, tunnelTo(t, gateway.address, transport), nil)
			ask := func() error {
				c := dialAgent(t, path.address)
				c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
				_, err := c.Read(make([]byte, 1))
				return err
			}
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			if err := ask(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the second client: %v, want a reset", err)
			}
			if n := limited(t, gateway, metrics.LimitStreams); n == 0 {
				t.Error("no refusal counted")
			}
			// Over h3 a connection may begin at any moment, and then the limit shown is that of QUIC.
			waitFor(t, "no connection to be unauthenticated", func() bool {
				return series(t, gateway, "culvert_limit_max", "unauthenticated") == 1024
			})
			for metric, want := range map[string]map[string]float64{
				"culvert_limit_used": {"streams": 1, "streams_per_identity": 1},
				"culvert_limit_max":  {"streams": 1, "streams_per_identity": 0, "spares_per_identity": 500, "memory": 0},
			} {
				for limit, want := range want {
					if got := series(t, gateway, metric, limit); got != want {
						t.Errorf("%s of %s is %v, want %v", metric, limit, got, want)
					}
				}
			}
			if got := series(t, gateway, "culvert_limit_used", "memory"); got < 1<<20 {
				t.Errorf("%v bytes of memory in use, want a megabyte or more", got)
			}
		})
	}
}

func limited(t *testing.T, r running, l metrics.Limit) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "culvert_limit_refusals_total" {
			continue
		}
		for _, s := range f.GetMetric() {
			if s.GetLabel()[0].GetValue() == l.String() {
				return s.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no series for %s", l)
	return 0
}

// A gateway that cannot serve one of its listeners any more does not keep the address of the other,
// and waits for nobody.
func TestAGatewayThatCannotServeClosesBothListeners(t *testing.T) {
	for _, lost := range []string{"tcp", "udp"} {
		t.Run(lost, func(t *testing.T) {
			tcp, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			udp, err := net.ListenPacket("udp", tcp.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			g := &Gateway{
				Version: "test", TLS: serverTLS(t), DrainTimeout: time.Minute, Linger: time.Minute,
				Brokers: &Brokers{Bootstrap: []string{freeAddress(t)}},
				Metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test"), Logger: testlog.New(t, "gateway"),
			}
			ended := make(chan error, 1)
			go func() { ended <- g.Run(t.Context(), tcp, udp) }()
			if lost == "tcp" {
				tcp.Close()
			} else {
				udp.Close()
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("no error")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("still running")
			}
			if again, err := net.Listen("tcp", tcp.Addr().String()); err != nil {
				t.Errorf("the TCP address: %v", err)
			} else {
				again.Close()
			}
			if again, err := net.ListenPacket("udp", udp.LocalAddr().String()); err != nil {
				t.Errorf("the UDP address: %v", err)
			} else {
				again.Close()
			}
		})
	}
}
