package dialer_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
)

// pipe returns a connection through a gateway, and the broker's end of it.
func pipe(t *testing.T, transport string) (client, broker net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	g, err := startGateway("127.0.0.1:0", []string{ln.Addr().String()}, testlog.New(t, "gateway"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	return between(t, open(t, g.config(transport)), ln)
}

// between opens a connection to a broker that listens on ln. What the client sends first is not
// Kafka, so that the gateway relays everything as it is.
func between(t *testing.T, d *dialer.Dialer, ln net.Listener) (client, broker net.Conn) {
	t.Helper()
	const notKafka = "GET / HTTP/1.1\r\n"
	client, err := d.DialContext(t.Context(), "tcp", dialer.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, notKafka); err != nil {
		t.Fatal(err)
	}
	for { // the gateway asks the broker too, whether it is there
		if broker, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(notKafka))
		if _, err := io.ReadFull(broker, got); err == nil && string(got) == notKafka {
			return client, broker
		}
		broker.Close()
	}
}

func TestConnIsANetConn(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			g, err := startGateway("127.0.0.1:0", []string{ln.Addr().String()}, testlog.New(t, "gateway"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer g.stop()
			d := open(t, g.config(transport))
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = between(t, d, ln)
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

func TestHalfCloseLeavesTheAnswer(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			client, broker := pipe(t, transport)
			defer client.Close()
			defer broker.Close()
			io.WriteString(client, "question")
			if err := client.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(broker); err != nil || string(got) != "question" {
				t.Errorf("the broker read %q, %v", got, err)
			}
			io.WriteString(broker, "answer")
			broker.Close()
			if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
				t.Errorf("the client read %q, %v", got, err)
			}
		})
	}
}

// A producer that wants no acknowledgement closes its connection behind the last record.
func TestCloseDeliversWhatWasWritten(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			client, broker := pipe(t, transport)
			defer broker.Close()
			sent := bytes.Repeat([]byte("record "), 40_000)
			if _, err := client.Write(sent); err != nil {
				t.Fatal(err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(broker); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("the broker read %d of %d bytes, %v", len(got), len(sent), err)
			}
		})
	}
}

func TestCloseEndsCallsInProgress(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			client, broker := pipe(t, transport)
			defer broker.Close() // which reads nothing
			ended := make(chan error, 2)
			go func() {
				_, err := client.Read(make([]byte, 1))
				ended <- err
			}()
			go func() {
				for {
					if _, err := client.Write(make([]byte, 1<<20)); err != nil {
						ended <- err
						return
					}
				}
			}()
			time.Sleep(50 * time.Millisecond) // usually enough for both to wait; if not, they find it closed
			start := time.Now()
			client.Close()
			for range 2 {
				if err := <-ended; !errors.Is(err, net.ErrClosed) {
					t.Errorf("error is %v, want net.ErrClosed", err)
				}
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("the calls ended after %v", took)
			}
			if err := client.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("second Close: %v, want net.ErrClosed", err)
			}
			if err := client.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("SetDeadline: %v, want net.ErrClosed", err)
			}
		})
	}
}

// TLS between client and broker goes through a gateway that cannot look inside, to the name that
// the client has dialled.
func TestClientsMaySpeakTLSToBrokers(t *testing.T) {
	cert, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var echoes sync.WaitGroup
	defer echoes.Wait()
	defer ln.Close()
	echoes.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			echoes.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	g, err := startGateway("127.0.0.1:0", []string{"127.0.0.1:1"}, testlog.New(t, "gateway"), func(g *proxy.Gateway) {
		g.Brokers.Allow = []string{ln.Addr().String()}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	conn, err := open(t, g.config("ws")).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	secure := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	defer secure.Close()
	io.WriteString(secure, "hello")
	if got, err := io.ReadAll(io.LimitReader(secure, 5)); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	client, broker := pipe(t, "ws")
	defer client.Close()
	defer broker.Close()
	client.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := client.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v, want a timeout", err)
	}
	client.SetReadDeadline(time.Time{})
	io.WriteString(broker, "x")
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Errorf("read after a timeout: %v", err)
	}
}
