package tunnel

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// crawlingConn carries 100 kB/s, up or down, if it is a WebSocket's.
type crawlingConn struct {
	net.Conn
	slow func(up, ws bool) bool
	once sync.Once
	ws   bool
}

const slowRate = 100e3

func (c *crawlingConn) Write(p []byte) (int, error) {
	c.once.Do(func() { c.ws = bytes.HasPrefix(p, []byte("GET ")) })
	c.delay(true, len(p))
	return c.Conn.Write(p)
}

func (c *crawlingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 4<<10)])
	c.delay(false, n)
	return n, err
}

func (c *crawlingConn) delay(up bool, n int) {
	if c.slow(up, c.ws) {
		time.Sleep(time.Duration(float64(n) / slowRate * float64(time.Second)))
	}
}

type dialFunction = func(ctx context.Context, network, addr string) (net.Conn, error)

// crawling returns dial with connections that are slow.
func crawling(dial dialFunction, slow func(up, ws bool) bool) dialFunction {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &crawlingConn{Conn: c, slow: slow}, nil
	}
}

// newSlowRig returns a rig over memory, with auto, in which some connections are slow. It records
// faults and what is logged.
func newSlowRig(t *testing.T, slow func(up, ws bool) bool) (r *rig, faults *[]string, log *bytes.Buffer) {
	faults, log = new([]string), new(bytes.Buffer)
	r, _ = newMemRig(t, func(r *rig) {
		r.dialer.Transport = TransportAuto
		r.dialer.DialContext = crawling(r.dialer.DialContext, slow)
		r.dialer.OnFault = func(transport string, f Fault, o Outcome) {
			*faults = append(*faults, transport+" "+f.String()+" "+string(o))
		}
		r.dialer.Logger = slog.New(slog.NewTextHandler(log, nil))
	})
	return r, faults, log
}

// dials counts the dials of each transport.
type dials struct {
	mu sync.Mutex
	n  map[string]int
}

func newDials() *dials { return &dials{n: make(map[string]int)} }

func (d *dials) count(transport string, _ error, _ time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n[transport]++
}

func (d *dials) of(transport string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n[transport]
}

// upload writes without end, and download reads without end; both end with the stream.
func upload(c io.Writer)   { io.Copy(c, endless{}) }
func download(c io.Reader) { io.Copy(io.Discard, c) }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestAStreamThatCrawlsMovesNewStreamsToABetterTransport(t *testing.T) {
	for _, way := range []string{"up", "down"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, faults, log := newSlowRig(t, func(up, ws bool) bool { return ws && up == (way == "up") })
				c, s := r.dial()
				if c.Transport() != TransportWS {
					t.Fatalf("the first stream is over %s", c.Transport())
				}
				if way == "up" {
					go upload(c)
					go download(s)
				} else {
					go upload(s)
					go download(c)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				state := r.dialer.State()
				if state.Transport != TransportH2 || len(*faults) != 1 || (*faults)[0] != "ws slow demoted" {
					t.Errorf("faults %v, state %+v\n%s", *faults, state, log)
				}
				if !strings.Contains(log.String(), `msg="tunnel transport changed" gateway=gateway:80 from=ws to=h2 why="ws: it moves `) {
					t.Errorf("log:\n%s", log)
				}
				if c, _ := r.dial(); c.Transport() != TransportH2 {
					t.Errorf("a new stream is over %s", c.Transport())
				}
				r.stop()
				time.Sleep(time.Minute) // what is being sent gets through
			})
		})
	}
}

// A line on which everything is slow. Not in a bubble: net/http holds a mutex while it writes.
func TestASlowLineDemotesNothing(t *testing.T) {
	for _, way := range []string{"up", "down"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			dials := newDials()
			var faults, checks atomic.Int64
			r := newRig(t, "plain", func(r *rig) {
				r.dialer.Transport = TransportAuto
				r.dialer.timing = defaultTiming
				r.dialer.timing.slow, r.dialer.timing.rate = 300*time.Millisecond, 500*time.Millisecond
				r.dialer.DialContext = crawling(new(net.Dialer).DialContext, func(up, _ bool) bool { return up == (way == "up") })
				r.dialer.OnDial = dials.count
				r.dialer.OnFault = func(string, Fault, Outcome) { faults.Add(1) }
				r.dialer.OnState = func(State) { // also called at the end of a check
					if dials.of(TransportH2) > 0 {
						checks.Add(1)
					}
				}
			})
			c, s := r.dial()
			var both sync.WaitGroup
			defer both.Wait()
			if way == "up" {
				both.Go(func() { upload(c) })
				both.Go(func() { download(s) })
			} else {
				both.Go(func() { upload(s) })
				both.Go(func() { download(c) })
			}
			waitUntil(t, func() bool { return checks.Load() > 0 })
			if state := r.dialer.State(); state.Transport != TransportWS || faults.Load() != 0 {
				t.Errorf("%d faults, state %+v", faults.Load(), state)
			}
			r.stop()
		})
	}
}

// A broker that does not read, and a client that does not, hold a stream back over any transport.
func TestAPeerThatDoesNotReadDemotesNothing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		start  func(c, s net.Conn)
		checks int // a client that does not read is known to the agent
	}{
		{"broker", func(c, s net.Conn) { go upload(c) }, 1},
		{"client", func(c, s net.Conn) { go upload(s) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := newDials()
				r, faults, log := newSlowRig(t, func(bool, bool) bool { return false })
				r.dialer.OnDial = dials.count
				c, s := r.dial()
				before := dials.of(TransportWS)
				tt.start(c, s)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if n := dials.of(TransportWS) - before; n != tt.checks {
					t.Errorf("%d echoes over ws, want %d", n, tt.checks)
				}
				if state := r.dialer.State(); state.Transport != TransportWS || *faults != nil || dials.of(TransportH2) != 0 {
					t.Errorf("faults %v, dials %v, state %+v\n%s", *faults, dials.n, state, log)
				}
				r.stop()
				time.Sleep(time.Minute) // what is being sent gets through
			})
		})
	}
}

// Idle streams, and those that carry little, are not looked at.
func TestNobodyLooksAtStreamsThatCarryLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _ := newSlowRig(t, func(bool, bool) bool { return false })
		c, s := r.dial()
		go download(s)
		time.Sleep(time.Second) // the hello is over
		for range 1000 {
			c.Write(make([]byte, 1000))
			if r.dialer.flows.looking.Load() {
				t.Fatal("somebody looks at a stream that carries little")
			}
		}
		c.Write(make([]byte, 64<<10))
		if !r.dialer.flows.looking.Load() {
			t.Error("nobody looks at a stream that carries much")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if r.dialer.flows.looking.Load() {
			t.Error("somebody still looks when nothing waits")
		}
		r.stop()
		time.Sleep(time.Minute)
	})
}

// corkedConn holds back the last bytes of what is written, until there are more or 200 ms are over,
// as a kernel does that was told MSG_MORE.
type corkedConn struct {
	net.Conn
	corked func(ws bool) bool

	mu   sync.Mutex
	http string // the beginning
	held []byte
	wait *time.Timer
}

func (c *corkedConn) Write(p []byte) (int, error) {
	const segment = 64 << 10
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http == "" {
		c.http = string(p[:min(4, len(p))])
	}
	if !c.corked(c.http == "GET ") {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	if whole := len(c.held) / segment * segment; whole > 0 {
		if _, err := c.Conn.Write(c.held[:whole]); err != nil {
			return 0, err
		}
		c.held = c.held[whole:]
	}
	if c.wait == nil {
		c.wait = time.AfterFunc(200*time.Millisecond, c.flush)
	}
	c.wait.Reset(200 * time.Millisecond)
	return len(p), nil
}

func (c *corkedConn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Conn.Write(c.held)
	c.held = nil
}

func TestSmallMessagesThatComeLate(t *testing.T) {
	for _, tt := range []struct {
		name, transport string
		corked          func(ws bool) bool
		fault, then     string
		log             string
	}{
		{"ws alone is late", TransportAuto, func(ws bool) bool { return ws }, "ws late demoted", TransportH2,
			`msg="tunnel transport changed" from=ws to=h2 why="ws: small messages take 200ms over it and 0s over h2"`},
		{"all are late", TransportAuto, func(bool) bool { return true }, "ws late kept", TransportWS, `msg="tunnel transport delays small messages" transport=ws delay=200ms`},
		{"no other", TransportH2, func(bool) bool { return true }, "h2 late kept", TransportH2,
			`msg="tunnel transport delays small messages" hint="is HAProxy in front of the gateway? It needs option http-no-delay" transport=h2 delay=200ms`},
		{"none", TransportAuto, func(bool) bool { return false }, "", TransportWS, ""},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r *rig
				var faults []string
				var log bytes.Buffer
				r, _ = newMemRig(t, func(r *rig) {
					dial := r.dialer.DialContext
					r.dialer.Transport = tt.transport
					r.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						c, err := dial(ctx, network, addr)
						return &corkedConn{Conn: c, corked: tt.corked}, err
					}
					r.dialer.OnFault = func(transport string, f Fault, o Outcome) {
						faults = append(faults, transport+" "+f.String()+" "+string(o))
					}
					r.dialer.Logger = slog.New(slog.NewTextHandler(&log, nil))
				})
				for range 3 {
					c, _ := r.dial()
					c.Close()
					time.Sleep(10 * time.Second)
				}
				synctest.Wait()
				if got := strings.Join(faults, ", "); got != tt.fault || r.dialer.State().Transport != tt.then || !strings.Contains(strings.ReplaceAll(log.String(), " gateway=gateway:80", ""), tt.log) {
					t.Errorf("faults %q, state %+v, log:\n%s", got, r.dialer.State(), &log)
				}
				r.stop()
				time.Sleep(time.Minute)
			})
		})
	}
}
