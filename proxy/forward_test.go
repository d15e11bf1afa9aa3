package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tunnelTransports are the transports of a tunnel. Without one there are no forwards.
var tunnelTransports = transports[:3]

// eachTunnel runs a test once for each of them.
func eachTunnel(t *testing.T, test func(t *testing.T, transport string)) {
	for _, transport := range tunnelTransports {
		t.Run(transport, func(t *testing.T) { test(t, transport) })
	}
}

// forwardTo starts both ends with a forward to target, and returns where clients reach it.
func forwardTo(t *testing.T, transport, target string, gateway func(*Gateway)) (address string, agent, gatewayEnd running) {
	t.Helper()
	g := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) {
		g.Forwards = []Forward{{"registry", target}}
		if gateway != nil {
			gateway(g)
		}
	})
	address = freeAddress(t)
	a := startAgent(t, tunnelTo(t, g.address, transport), func(a *Agent) { a.Forwards = []Forward{{"registry", address}} })
	return address, a, g
}

// serveTCP serves one connection after the other until the test ends, and returns its address.
func serveTCP(t *testing.T, serve func(c *net.TCPConn)) string {
	t.Helper()
	return fakeBroker(t, func(c net.Conn) { serve(c.(*net.TCPConn)) })
}

// Bytes arrive as they are in both directions, at the same time and in any amount, and a FIN of
// either side is passed on while the other direction goes on.
func TestForwardCarriesBytesAsTheyAre(t *testing.T) {
	eachTunnel(t, func(t *testing.T, transport string) {
		sent, answered := noise(t, 3<<20), noise(t, 5<<20)
		got := make(chan []byte, 1)
		address, _, _ := forwardTo(t, transport, serveTCP(t, func(c *net.TCPConn) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.Write(answered)
				c.CloseWrite() // and goes on reading
			}()
			b, _ := io.ReadAll(c)
			<-done
			if len(b) > 0 { // not the gateway, which looks whether the target is there
				got <- b
			}
		}), nil)
		c := dialAgent(t, address)
		b, err := io.ReadAll(c) // the target's FIN comes first
		if err != nil || !bytes.Equal(b, answered) {
			t.Fatalf("the client read %d bytes, %v, want %d", len(b), err, len(answered))
		}
		c.Write(sent)
		c.CloseWrite()
		if b := <-got; !bytes.Equal(b, sent) {
			t.Errorf("the target read %d bytes, want %d", len(b), len(sent))
		}
	})
}

// A client may end its side and still read the answer.
func TestForwardPassesOnTheFINOfAClient(t *testing.T) {
	eachTunnel(t, func(t *testing.T, transport string) {
		address, _, _ := forwardTo(t, transport, serveTCP(t, func(c *net.TCPConn) {
			b, _ := io.ReadAll(c)
			slices.Reverse(b)
			c.Write(b)
		}), nil)
		c := dialAgent(t, address)
		c.Write([]byte("abc"))
		c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "cba" {
			t.Errorf("the client read %q, %v, want cba", b, err)
		}
	})
}

// A reset is passed on as a reset, never as a FIN: what came before it may be incomplete.
func TestForwardPassesOnResets(t *testing.T) {
	eachTunnel(t, func(t *testing.T, transport string) {
		t.Run("of the target", func(t *testing.T) {
			address, _, _ := forwardTo(t, transport, serveTCP(t, func(c *net.TCPConn) {
				c.Write([]byte("half"))
				c.Read(make([]byte, 1))
				c.SetLinger(0)
			}), nil)
			c := dialAgent(t, address)
			io.ReadFull(c, make([]byte, 4))
			c.Write([]byte("x"))
			if b, err := io.ReadAll(c); err == nil || tunnel.IsTimeout(err) {
				t.Errorf("the client read %q, %v, want a reset", b, err)
			}
		})
		t.Run("of the client", func(t *testing.T) {
			end := make(chan error, 1)
			address, _, _ := forwardTo(t, transport, serveTCP(t, func(c *net.TCPConn) {
				if b, err := io.ReadAll(c); len(b) > 0 { // not the gateway, which looks whether the target is there
					end <- err
				}
			}), nil)
			c := dialAgent(t, address)
			c.Write([]byte("half"))
			c.SetLinger(0)
			c.Close()
			if err := <-end; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the target read %v, want a reset", err)
			}
		})
	})
}

// A gateway that drains ends an idle connection. A client that has yet to read the end of its answer
// reads it before the reset.
func TestADrainLetsAnAnswerThrough(t *testing.T) {
	eachTunnel(t, func(t *testing.T, transport string) {
		answer := noise(t, 512<<10)
		address, _, gateway := forwardTo(t, transport, serveTCP(t, func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1))
			c.Write(answer)
			io.Copy(io.Discard, c)
		}), func(g *Gateway) { g.DrainTimeout = time.Minute })
		c := dialAgent(t, address)
		c.SetReadBuffer(64 << 10)
		c.Write([]byte("?"))
		first := make([]byte, 1)
		io.ReadFull(c, first)
		gateway.stop()
		if b, err := io.ReadAll(c); !bytes.Equal(append(first, b...), answer) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %d bytes, %v, want %d and a reset", len(b), err, len(answer))
		}
	})
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte([]byte(strings.Repeat(t.Name(), 32)[:32])))
	r.Read(b)
	return b
}
