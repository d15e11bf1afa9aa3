package proxy

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// runForward runs a connection of a forward in a bubble, until over is closed.
func runForward(t *testing.T) (client, target *memnet.Conn, c *forwardConn, over chan forwardEnd) {
	t.Helper()
	client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
	far, target := memnet.Pipe(memnet.Addr("far"), memnet.Addr("target"))
	c = newForwardConn(near, metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test").Forward("registry"))
	c.connect(far)
	over = make(chan forwardEnd, 1)
	go func() { over <- c.run(t.Context()) }()
	return client, target, c, over
}

// A drain ends a connection when it is idle: when the target has spoken last. It waits for an
// answer, and it never ends one with a FIN.
func TestADrainEndsForwardsThatAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, c, over := runForward(t)
		client.Write([]byte("request"))
		synctest.Wait()
		c.drain()
		time.Sleep(time.Minute) // the target takes its time
		if len(over) > 0 {
			t.Fatal("it ended before the answer")
		}
		target.Read(make([]byte, 7))
		target.Write([]byte("answer"))
		start := time.Now()
		b, err := io.ReadAll(client)
		if string(b) != "answer" || err == nil {
			t.Errorf("the client read %q, %v, want the answer and a reset", b, err)
		}
		if took := time.Since(start); took < forwardQuiet || took > 2*forwardQuiet {
			t.Errorf("it ended %v after the answer, want %v", took, forwardQuiet)
		}
		if end := <-over; end.cause != metrics.CloseDrain {
			t.Errorf("the cause is %v", end.cause)
		}
	})
}

// A connection that one side has closed does not stay for ever if the other is silent. While bytes
// move it stays.
func TestAForwardThatOneSideHasClosed(t *testing.T) {
	for _, first := range []string{"client", "target"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, target, _, over := runForward(t)
				closes, goesOn := client, target
				if first == "target" {
					closes, goesOn = target, client
				}
				closes.CloseWrite()
				go io.Copy(io.Discard, closes)
				for range 3 {
					time.Sleep(halfOpenTimeout - time.Second)
					if _, err := goesOn.Write([]byte("x")); err != nil {
						t.Fatalf("it ended although bytes move: %v", err)
					}
				}
				start := time.Now()
				<-over
				if took := time.Since(start); took < halfOpenTimeout-time.Second || took > halfOpenTimeout+time.Second {
					t.Errorf("it ended after %v, want %v", took, halfOpenTimeout)
				}
				goesOn.Close()
			})
		})
	}
}

// A client that reads slowly is not idle.
func TestADrainWaitsForAClientThatReadsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, c, over := runForward(t)
		const size = 4 << 20
		go func() {
			target.Write(make([]byte, size))
			target.CloseWrite()
		}()
		synctest.Wait() // what is between the two is full
		c.drain()
		time.Sleep(time.Minute)
		if len(over) > 0 {
			t.Fatal("it ended in the middle of the answer")
		}
		go io.Copy(io.Discard, target)
		if b, err := io.ReadAll(client); len(b) != size || err != nil {
			t.Errorf("the client read %d bytes, %v, want %d", len(b), err, size)
		}
		client.Close()
		<-over
	})
}

// A target that answers before it has read the whole request, and then closes, is heard.
func TestAnAnswerToAnUnfinishedRequestArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, _, over := runForward(t)
		target.Write([]byte("too large"))
		target.CloseWrite()
		synctest.Wait()
		target.Cut()
		for range 3 {
			client.Write([]byte("more"))
			synctest.Wait()
		}
		if b, err := io.ReadAll(client); string(b) != "too large" || err != nil {
			t.Errorf("the client read %q, %v, want the answer", b, err)
		}
		client.Close()
		<-over
	})
}

// The time that one side may be silent after the other has closed begins with the FIN, however long
// the connection was idle before.
func TestAForwardThatIsClosedAfterItWasIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, _, over := runForward(t)
		time.Sleep(halfOpenTimeout + time.Minute)
		client.CloseWrite()
		if _, err := io.ReadAll(target); err != nil {
			t.Errorf("the target read %v, want the FIN", err)
		}
		time.Sleep(time.Second)
		target.Write([]byte("answer"))
		target.CloseWrite()
		if b, err := io.ReadAll(client); string(b) != "answer" || err != nil {
			t.Errorf("the client read %q, %v, want the answer and a FIN", b, err)
		}
		if end := <-over; end.cause != metrics.CloseClientFIN {
			t.Errorf("the cause is %v", end.cause)
		}
		client.Close()
		target.Close()
	})
}

// What is written may still be in the system's buffer, which a reset drops.
func TestADrainWaitsForTheBufferOfTheSystem(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.(*net.TCPConn).SetReadBuffer(4 << 10)
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near.(*net.TCPConn).SetWriteBuffer(1 << 20)
	far, target := memnet.Pipe(memnet.Addr("far"), memnet.Addr("target"))
	defer target.Close()
	c := newForwardConn(near, metrics.New(prometheus.NewRegistry(), metrics.Agent, "test").Forward("registry"))
	c.connect(far)
	over := make(chan struct{})
	go func() {
		c.run(t.Context())
		close(over)
	}()
	answer := make([]byte, 512<<10)
	if _, err := target.Write(answer); err != nil {
		t.Fatal(err)
	}
	c.drain()
	time.Sleep(forwardQuiet + 5*forwardLook)
	if n, err := io.ReadFull(client, answer); err != nil {
		t.Errorf("the client read %d of %d bytes, %v", n, len(answer), err)
	}
	<-over
}
