package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

// A line is a network with an adjustable round trip, in a synctest bubble: each write arrives half
// a round trip later.
type line struct {
	*memnet.Listener
	mu    sync.Mutex
	delay time.Duration
	dials int
	hole  bool // swallows all bytes and keeps connections open
	kill  bool // ends connections after their handshake
}

func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.set(func() { l.dials++ })
	for l.isHole() { // SYNs get no answer
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	time.Sleep(l.roundTrip()) // SYN and its answer
	c, err := l.Listener.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	slow := &slowConn{Conn: c, line: l, queue: make(chan slowBytes, 1000)}
	go slow.deliver()
	return slow, nil
}

// A slowConn delays what it writes by a round trip; the other direction has no delay.
type slowConn struct {
	net.Conn
	line  *line
	reads int

	mu     sync.Mutex
	closed bool
	queue  chan slowBytes
}

type slowBytes struct {
	at time.Time
	b  []byte
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if !c.line.isHole() {
		c.queue <- slowBytes{time.Now().Add(c.line.roundTrip()), slices.Clone(p)}
	}
	return len(p), nil
}

func (c *slowConn) Read(p []byte) (int, error) {
	c.line.mu.Lock()
	kill := c.line.kill && c.reads > 0
	c.line.mu.Unlock()
	c.reads++
	if kill {
		return 0, io.EOF
	}
	return c.Conn.Read(p)
}

func (c *slowConn) deliver() {
	for s := range c.queue {
		time.Sleep(time.Until(s.at))
		c.Conn.Write(s.b)
	}
}

func (c *slowConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.queue)
	}
	return c.Conn.Close()
}

func (l *line) roundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delay
}

func (l *line) isHole() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hole
}

func (l *line) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// newLine starts a gateway behind a line, in a bubble. At the end of the test both ends stop, and
// the line delivers what is in flight.
func newLine(t *testing.T, delay time.Duration) (*rig, *line) {
	l := &line{delay: delay}
	r, ln := newMemRig(t, func(r *rig) { r.dialer.DialContext = l.dial })
	l.Listener = ln
	t.Cleanup(func() {
		r.stop()
		time.Sleep(10 * time.Second)
	})
	return r, l
}

// ready waits until n spares exist.
func (r *rig) ready(n int) {
	r.t.Helper()
	r.dialer.SetSpares(n)
	p := r.dialer.pools[TransportWS].(*wsPool)
	for range 6000 {
		p.mu.Lock()
		have := len(p.spares)
		p.mu.Unlock()
		if have == n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("no %d spares", n)
}

const question = "which versions?"

// answerOnce answers the first bytes of one stream.
func (r *rig) answerOnce(got func(string)) {
	s := <-r.served
	b := make([]byte, len(question))
	io.ReadFull(s, b)
	got(string(b))
	io.WriteString(s, "these")
}

// For comparison: a direct TCP connection needs two round trips until its first answer.
func TestTheFirstAnswerComesAfterOneRoundTripOverASpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 50 * time.Millisecond
		r, _ := newLine(t, rtt)
		ask := func() time.Duration {
			go r.answerOnce(func(string) {})
			start := time.Now()
			c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, []byte(question))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		r.dialer.Hello(t.Context())
		if took := ask(); took != 3*rtt {
			t.Errorf("without a spare: %v", took)
		}
		r.ready(2)
		if took := ask(); took != rtt {
			t.Errorf("over a spare: %v, want one round trip of %v", took, rtt)
		}
		time.Sleep(24 * time.Hour) // KEEPALIVEs keep it alive
		if took := ask(); took != rtt {
			t.Errorf("over a spare of yesterday: %v", took)
		}
	})
}

func TestSparesAreMadeAgainAndNoMoreThanWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 0)
		r.ready(3)
		dials := func() (n int) {
			l.set(func() { n = l.dials })
			return n
		}
		before := dials()
		for range 10 {
			c, _ := r.dial()
			r.ready(3)
			c.Close()
			time.Sleep(2 * defaultTiming.burst) // or more were wanted
		}
		if n := dials() - before; n != 10 {
			t.Errorf("%d dials for ten spares that were used", n)
		}
		time.Sleep(time.Hour)
		r.ready(3)
		if n := dials() - before; n != 10 {
			t.Errorf("%d dials an hour later", n)
		}
		r.dialer.SetSpares(0)
	})
}

// A laptop has woken up: its sockets still exist, but nothing arrives over them any more.
func TestWhatIsNotAnsweredOverASpareIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 10*time.Millisecond)
		r.ready(4)
		l.set(func() { l.hole = true })
		go func() {
			time.Sleep(900 * time.Millisecond)
			l.set(func() { l.hole = false })
		}()
		var got []string
		go r.answerOnce(func(s string) { got = append(got, s) })
		start := time.Now()
		c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, []byte(question))
		if err != nil {
			t.Fatalf("Dial = %v after %v", err, time.Since(start))
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Second || took > 1500*time.Millisecond {
			t.Errorf("took %v, want a second and a new dial", took)
		}
		if len(got) != 1 || got[0] != question {
			t.Errorf("arrived: %q", got)
		}
		c.Close()
	})
}

// Over a satellite an answer takes longer than the first wait.
func TestASlowNetworkIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newLine(t, 1500*time.Millisecond)
		r.ready(2)
		for range 5 {
			c, s := r.dial()
			c.Close()
			s.returned()
		}
	})
}

// The network becomes slow while everything is ready.
func TestANetworkThatBecomesSlowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 10*time.Millisecond)
		r.ready(2)
		l.set(func() { l.delay = 2 * time.Second })
		for range 3 {
			c, s := r.dial()
			c.Close()
			s.returned()
		}
	})
}

// Whatever accepts a socket and then ends it is not dialled again at once.
func TestSparesThatDieAtOnceAreNotReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 0)
		r.dialer.Hello(t.Context())
		l.set(func() { l.kill = true })
		before := l.dials
		r.dialer.SetSpares(4)
		time.Sleep(time.Minute)
		l.set(func() {
			if n := l.dials - before; n > 120 {
				t.Errorf("%d dials in a minute", n)
			}
		})
	})
}

func TestSparesThatAreDeadAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 0)
		r.ready(2)
		l.set(func() { l.hole = true })
		time.Sleep(time.Minute) // both ends have given up on them
		l.set(func() { l.hole = false })
		start := time.Now()
		c, _ := r.dial()
		if took := time.Since(start); took >= time.Second {
			t.Errorf("a stream was opened over a dead spare: %v", took)
		}
		c.Close()
	})
}

func TestADrainingGatewayEndsItsSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 0)
		r.ready(3)
		l.set(func() { l.hole = true }) // later spares get no answer
		start := time.Now()
		r.server.drain()
		p := r.dialer.pools[TransportWS].(*wsPool)
		for range 1000 {
			p.mu.Lock()
			n := len(p.spares)
			p.mu.Unlock()
			if n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("spares still exist after %v", took)
		}
		r.dialer.SetSpares(0)
		l.set(func() { l.hole = false })
	})
}

// The gateway is about to stop, and another one takes over its address.
func TestADrainingGatewayIsLeftBeforeTheCallerNotices(t *testing.T) {
	for _, kind := range []string{"ws", "plain", "h2"} {
		t.Run(kind, func(t *testing.T) {
			other := newRig(t, kind)
			var moved atomic.Bool
			r := newRig(t, kind, func(r *rig) {
				r.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if moved.Load() {
						addr = other.addr
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			})
			r.dialer.SetSpares(2)
			_, s := r.dial()
			moved.Store(true) // the balancer has noticed
			r.server.drain()
			c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, []byte(question))
			if err != nil {
				t.Fatalf("Dial = %v", err)
			}
			defer c.Close()
			there := <-other.served
			defer there.returned()
			defer s.returned()
			got := make([]byte, len(question))
			if _, err := io.ReadFull(there, got); string(got) != question || err != nil {
				t.Errorf("the other gateway read %q, %v", got, err)
			}
		})
	}
}

func TestARefusalIsReturnedToTheCaller(t *testing.T) {
	r := newRig(t, "ws", func(r *rig) {
		r.server.Authenticate = func(*http.Request) (string, error) { return "", nil }
	})
	r.dialer.init()
	_, err := r.dialer.Dial(t.Context(), Open{Target: strings.Repeat("x", maxJSON)}, nil)
	if err == nil {
		t.Error("an OPEN beyond the size limit was sent")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.dialer.Dial(ctx, Open{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with a canceled context: %v", err)
	}
	r.dialer.Close()
	if _, err := r.dialer.Dial(t.Context(), Open{}, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
}

// A single transport has verdicts too.
func TestOneTransportAloneHasVerdictsToo(t *testing.T) {
	u, _ := url.Parse("http://127.0.0.1:1")
	var dials atomic.Int32
	d := &Dialer{URL: u, Transport: TransportWS, OnDial: func(string, error, time.Duration) { dials.Add(1) }}
	defer d.Close()
	for range 100 {
		if _, err := d.Dial(t.Context(), Open{}, nil); err == nil || !strings.HasPrefix(err.Error(), "dial gateway 127.0.0.1:1 over ws: dial tcp") {
			t.Fatalf("Dial = %v", err)
		}
	}
	if n := dials.Load(); n > 20 {
		t.Errorf("%d dials for a hundred calls at once", n)
	}
}

// When fewer spares are wanted, fewer are kept.
func TestSparesThatAreNoLongerWantedAreClosed(t *testing.T) {
	for _, transport := range []string{TransportWS, TransportH3} {
		t.Run(transport, func(t *testing.T) {
			r := newRig(t, transport, func(r *rig) {
				r.dialer.timing.idle, r.dialer.timing.spares = time.Millisecond, 10*time.Millisecond
			})
			ready := func() int {
				if transport == TransportH3 {
					p := r.h3()
					p.mu.Lock()
					defer p.mu.Unlock()
					return p.unused()
				}
				p := r.dialer.pools[TransportWS].(*wsPool)
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.spares)
			}
			r.dialer.SetSpares(6)
			waitUntil(t, func() bool { return ready() == 6 })
			r.dialer.SetSpares(3)
			waitUntil(t, func() bool { return ready() == 3 })
			r.dialer.SetSpares(0)
			most := 0
			if transport == TransportH3 {
				most = maxIdle // kept for the next streams
			}
			waitUntil(t, func() bool { return ready() <= most })
		})
	}
}
