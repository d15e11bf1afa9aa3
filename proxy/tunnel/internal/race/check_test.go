package race

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A line has transports that all answer hellos, at different paces.
type line struct {
	*Race[struct{}]
	log bytes.Buffer

	mu       sync.Mutex
	pace     map[string]Pace
	measured []string
	fixed    string // the transport that Mend has changed
	mends    Pace   // and its pace then
	faults   []string
}

// newLine returns a line over which h3 is in use. Each measurement takes a second.
func newLine(t *testing.T, pace map[string]Pace, change ...func(*line)) *line {
	l := &line{pace: pace}
	names := all
	if len(pace) == 1 {
		names = []string{"h3"}
	}
	l.Race = newRace(names, func(context.Context, string) (struct{}, error) { return struct{}{}, nil })
	l.Log = slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	l.Measure = l.measure
	l.OnFault = func(transport string, f Fault, o Outcome) {
		l.faults = append(l.faults, fmt.Sprint(transport, " ", f, " ", o))
	}
	l.known["h3"].Unfixed = "look at UDP"
	l.known["h3"].Remedies = [faults]string{"set prefer_gro", "set http-no-delay"}
	for _, f := range change {
		f(l)
	}
	t.Cleanup(l.Close)
	wantChoice(t, l.Race, "h3")
	return l
}

func (l *line) measure(ctx context.Context, transport string, f Fault) (Pace, error) {
	if err := sleep(ctx, time.Second); err != nil {
		return Pace{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.measured = append(l.measured, transport)
	p, ok := l.pace[transport]
	if transport == l.fixed {
		p = l.mends
	}
	if !ok {
		return Pace{}, errors.New("not connected")
	}
	return p, nil
}

func (l *line) set(transport string, p Pace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pace[transport] = p
}

// measures returns the transports that were measured since the last call.
func (l *line) measures() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := strings.Join(l.measured, " ")
	l.measured = nil
	return m
}

// healable makes h3 have another way of use, with a pace of its own.
func healable(p Pace) func(*line) {
	return func(l *line) {
		l.mends = p
		l.Mend = func(transport string) (string, func() func()) {
			if transport != "h3" || l.fixed != "" {
				return "", nil
			}
			return "without GSO", func() func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.fixed = transport
				return func() {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.fixed = ""
				}
			}
		}
	}
}

// moves is the pace of a transport whose echo alone moves so many bytes a second.
func moves(echo float64) Pace { return Pace{Rate: echo, Echo: echo} }

// sharing is the pace of an echo beside other streams.
func sharing(echo, others float64) Pace { return Pace{Rate: echo + others, Echo: echo} }

// delays is the pace of a transport that delays small messages by d.
func delays(d time.Duration) Pace { return Pace{Last: 20*time.Millisecond + d, Delay: d} }

// works is the pace of a transport on a short path, over which echoes moved 8 MB, and all streams of
// the others what others says. A byte takes 4 ns over h3, and 1 over any other transport.
func works(transport string, others map[string]int64) Pace {
	w := Work{Transport: transport, Moved: map[string]int64{transport: 8e6}}
	for t, n := range others {
		w.Moved[t] += n
	}
	for t, n := range w.Moved {
		if t == "h3" {
			n *= 4
		}
		w.CPU += time.Duration(n)
	}
	return Pace{Last: time.Millisecond, Work: w}
}

// from is a pace from so far away.
func from(rtt time.Duration, p Pace) Pace {
	p.Last = rtt
	return p
}

// taking is a pace that takes so many times the CPU time.
func taking(times float64, p Pace) Pace {
	p.Work.CPU = time.Duration(float64(p.Work.CPU) * times)
	return p
}

func TestWhatDoubtsLeadTo(t *testing.T) {
	const held = 208 * time.Millisecond
	for _, tt := range []struct {
		name     string
		fault    Fault
		pace     map[string]Pace
		change   func(*line)
		measured string
		then     string // the transport in use
		faults   string
		log      string // the last line
	}{
		{
			name: "crawls", pace: map[string]Pace{"h3": moves(150e3), "ws": moves(60e6), "h2": moves(50e6)},
			measured: "h3 ws h3", then: "ws", faults: "[h3 slow demoted]",
			log: `level=WARN msg="tunnel transport changed" hint="set prefer_gro" from=h3 to=ws why="h3: it moves 150 kB/s where ws moves 60.0 MB/s"`,
		}, {
			name: "crawls with GSO", pace: map[string]Pace{"h3": moves(150e3), "ws": moves(60e6)}, change: healable(moves(20e6)),
			measured: "h3 h3 h3", then: "h3", faults: "[h3 slow fixed]",
			log: `level=WARN msg="tunnel transport was slow" hint="set prefer_gro" transport=h3 rate="150 kB/s" now="without GSO" rate_now="20.0 MB/s"`,
		}, {
			name: "crawls without GSO too", pace: map[string]Pace{"h3": moves(150e3), "ws": moves(60e6)}, change: healable(moves(200e3)),
			measured: "h3 h3 ws h3", then: "ws", faults: "[h3 slow demoted]",
			log: `level=WARN msg="tunnel transport changed" hint="look at UDP" from=h3 to=ws why="h3: it moves 150 kB/s where ws moves 60.0 MB/s"`,
		}, {
			name: "crawls and is alone with GSO", pace: map[string]Pace{"h3": moves(150e3)}, change: healable(moves(20e6)),
			measured: "h3 h3 h3", then: "h3", faults: "[h3 slow fixed]",
		},
		{name: "alone", pace: map[string]Pace{"h3": moves(150e3)}, measured: "", then: "h3"},
		{name: "the broker is slow", pace: map[string]Pace{"h3": moves(20e6), "ws": moves(200e6)}, measured: "h3", then: "h3"},
		{name: "the line is slow", pace: map[string]Pace{"h3": moves(200e3), "ws": moves(250e3)}, change: healable(moves(210e3)), measured: "h3 h3 ws", then: "h3"},
		{name: "others take most of a slow line", pace: map[string]Pace{"h3": sharing(10e3, 240e3), "ws": sharing(200e3, 50e3)}, measured: "h3 ws", then: "h3"},
		{
			name: "another way gets more of a slow line", pace: map[string]Pace{"h3": sharing(10e3, 240e3), "ws": sharing(200e3, 50e3)}, change: healable(sharing(100e3, 150e3)),
			measured: "h3 h3 ws", then: "h3",
		},
		{name: "not three times as slow", pace: map[string]Pace{"h3": moves(500e3), "ws": moves(1.4e6)}, measured: "h3 ws", then: "h3"},
		{name: "the next best does not work", pace: map[string]Pace{"h3": moves(150e3), "h2": moves(50e6)}, measured: "h3 ws h2 h3", then: "h2", faults: "[h3 slow demoted]"},
		{
			name: "late", fault: Late, pace: map[string]Pace{"h3": delays(held), "ws": delays(0)},
			measured: "h3 ws h3", then: "ws", faults: "[h3 late demoted]",
			log: `level=WARN msg="tunnel transport changed" hint="set http-no-delay" from=h3 to=ws why="h3: small messages take 228ms over it and 20ms over ws"`,
		}, {
			name: "late and alone", fault: Late, pace: map[string]Pace{"h3": delays(held)},
			measured: "h3", then: "h3", faults: "[h3 late kept]",
			log: `level=WARN msg="tunnel transport delays small messages" hint="set http-no-delay" transport=h3 delay=208ms`,
		},
		{name: "all late", fault: Late, pace: map[string]Pace{"h3": delays(held), "ws": delays(held)}, measured: "h3 ws", then: "h3", faults: "[h3 late kept]"},
		{name: "far away", fault: Late, pace: map[string]Pace{"h3": {Last: 600 * time.Millisecond, Delay: 5 * time.Millisecond}, "ws": delays(0)}, measured: "h3", then: "h3"},
		{
			name: "costly", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil), "ws": works("ws", nil)},
			measured: "h3 ws h3", then: "ws", faults: "[h3 costly demoted]",
			log: `level=INFO msg="tunnel transport changed for a cheaper one" from=h3 to=ws why="h3: each byte takes 4.0 times the CPU time that ws takes, and the gateway is near"`,
		}, {
			name: "costly beside streams", fault: Costly,
			pace: map[string]Pace{"h3": works("h3", map[string]int64{"h3": 20e6, "ws": 3e6}), "ws": works("ws", map[string]int64{"h3": 16e6})},
			then: "ws", measured: "h3 ws h3", faults: "[h3 costly demoted]",
		},
		{name: "hidden by streams", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil), "ws": works("ws", map[string]int64{"h3": 80e6})}, measured: "h3 ws", then: "h3"},
		{name: "hidden by streams over others", fault: Costly, pace: map[string]Pace{"h3": works("h3", map[string]int64{"h2": 80e6}), "ws": works("ws", nil)}, measured: "h3 ws", then: "h3"},
		{name: "not much costlier", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil), "ws": taking(3, works("ws", nil))}, measured: "h3 ws", then: "h3"},
		{name: "cheaper", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil), "ws": taking(5, works("ws", nil))}, measured: "h3 ws", then: "h3"},
		{name: "costly and alone", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil)}, measured: "", then: "h3"},
		{name: "costly and far away", fault: Costly, pace: map[string]Pace{"h3": from(ShortPath, works("h3", nil)), "ws": works("ws", nil)}, measured: "h3", then: "h3"},
		{name: "costly where ws is far away", fault: Costly, pace: map[string]Pace{"h3": works("h3", nil), "ws": from(ShortPath, works("ws", nil))}, measured: "h3 ws", then: "h3"},
		{name: "CPU time is not known", fault: Costly, pace: map[string]Pace{"h3": taking(0, works("h3", nil)), "ws": taking(0, works("ws", nil))}, measured: "h3", then: "h3"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var change []func(*line)
				if tt.change != nil {
					change = append(change, tt.change)
				}
				l := newLine(t, tt.pace, change...)
				for range 3 { // only the first starts a check
					l.Doubt("h3", tt.fault)
				}
				l.Doubt("ws", tt.fault)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				measured := strings.ReplaceAll(l.measures(), "  ", " ")
				if want := tt.measured; measured != want {
					t.Errorf("measured %q, want %q", measured, want)
				}
				if s := l.State(); s.Transport != tt.then {
					t.Errorf("%s is in use, want %s", s.Transport, tt.then)
				}
				if got, want := fmt.Sprint(l.faults), tt.faults; got != want && got+want != "[]" {
					t.Errorf("faults %s, want %s", got, want)
				}
				if lines := strings.Split(strings.TrimSpace(l.log.String()), "\n"); tt.log != "" && lines[len(lines)-1] != tt.log {
					t.Errorf("logged %s\nwant   %s", lines[len(lines)-1], tt.log)
				}
			})
		})
	}
}

// A check that found nothing is not repeated for each stream that waits for its broker.
func TestChecksInVainBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, map[string]Pace{"h3": moves(20e6), "ws": moves(20e6)})
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(3 * time.Second) {
			l.Doubt("h3", Slow)
		}
		if n := len(strings.Fields(l.measures())); n < 10 || n > 20 {
			t.Errorf("%d measurements in six hours", n)
		}
		if l.faults != nil {
			t.Errorf("faults: %v", l.faults)
		}
	})
}

// A slow transport still answers hellos. It must not be taken again for that.
func TestASlowTransportIsTakenAgainWhenItIsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, map[string]Pace{"h3": moves(150e3), "ws": moves(60e6)})
		l.Doubt("h3", Slow)
		time.Sleep(5 * time.Second)
		wantChoice(t, l.Race, "ws")
		l.measures()
		time.Sleep(2 * time.Hour)
		wantChoice(t, l.Race, "ws")
		if n := len(strings.Fields(l.measures())); n < 2*6 || n > 2*15 {
			t.Errorf("%d measurements in two hours of probes", n)
		}
		if s := l.State().Tried[0]; s.Error != "it moves 150 kB/s where ws moves 60.0 MB/s" || s.NextProbe.IsZero() {
			t.Errorf("what is known of h3: %+v", s)
		}
		l.set("h3", moves(30e6))
		time.Sleep(17 * time.Minute)
		wantChoice(t, l.Race, "h3")
		if s := l.State(); s.Tried[0].Error != "" || !strings.Contains(l.log.String(), `msg="tunnel transport changed for a better one" from=ws to=h3`) {
			t.Errorf("state %+v, log:\n%s", s, l.log.String())
		}
	})
}

// The network is bad for a moment, while the first transport is measured.
func TestOneBadMomentDemotesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, map[string]Pace{"h3": moves(150e3), "ws": moves(60e6)})
		l.Doubt("h3", Slow)
		time.Sleep(1500 * time.Millisecond)
		l.set("h3", moves(30e6))
		time.Sleep(5 * time.Second)
		wantChoice(t, l.Race, "h3")
		if got := l.measures(); got != "h3 ws h3" || l.faults != nil {
			t.Errorf("measured %s, faults %v", got, l.faults)
		}
	})
}

// Close ends a check.
func TestARaceIsClosedDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, map[string]Pace{"h3": moves(150e3), "ws": moves(60e6)})
		l.Doubt("h3", Slow)
		start := time.Now()
		l.Close()
		l.Doubt("h3", Slow)
		if took := time.Since(start); took != 0 || l.faults != nil {
			t.Errorf("Close took %v, faults %v", took, l.faults)
		}
	})
}

// Where h3 is costly it stays so. On another network, farther away, it is taken again.
func TestACostlyTransportIsTakenAgainFromFarAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, map[string]Pace{"h3": works("h3", nil), "ws": works("ws", nil)})
		l.Doubt("h3", Costly)
		time.Sleep(2 * time.Hour)
		wantChoice(t, l.Race, "ws")
		if n := strings.Count(l.log.String(), "tunnel transport changed"); n != 1 {
			t.Errorf("%d changes in two hours:\n%s", n, l.log.String())
		}
		l.set("h3", from(20*time.Millisecond, Pace{}))
		time.Sleep(17 * time.Minute)
		wantChoice(t, l.Race, "h3")
	})
}
