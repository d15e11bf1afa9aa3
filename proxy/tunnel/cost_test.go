package tunnel

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// newCostRig returns a rig with auto for which h3 takes three times the CPU time of any other
// transport.
func newCostRig(t *testing.T, adapt ...func(*rig)) *rig {
	return newRig(t, TransportAuto, append(adapt, func(r *rig) {
		r.dialer.cpu = func() (sum time.Duration) {
			for transport, n := range r.dialer.flows.movedBy() {
				if transport == TransportH3 {
					n *= 3
				}
				sum += time.Duration(n)
			}
			return sum
		}
	})...)
}

func TestWorkIsMeasured(t *testing.T) {
	r := newCostRig(t)
	r.dialer.init()
	for transport, times := range map[string]int64{TransportH3: 3, TransportWS: 1, TransportH2: 1} {
		var p race.Pace
		if !eventually(func() bool {
			var err error
			if p, err = r.dialer.measure(t.Context(), transport, race.Costly); err != nil {
				t.Fatal(err)
			}
			return p.Last < race.ShortPath // a busy machine looks like a long path
		}) {
			t.Fatalf("%s: the path over loopback is %v long", transport, p.Last)
		}
		const moved = 2 * workEchoes * rateEcho
		w := p.Work
		if w.Transport != transport || w.Moved[transport] != moved || w.CPU != time.Duration(times*moved) {
			t.Errorf("%+v, want %d bytes and %d times as many ns", w, moved, times)
		}
	}
}

// Streams that move much over h3, where it costs more, make new streams take ws.
func TestNewStreamsLeaveH3WhereItCostsMore(t *testing.T) {
	var faults atomic.Pointer[string]
	var log bytes.Buffer
	r := newCostRig(t, func(r *rig) {
		r.dialer.timing.busy = time.Second
		r.dialer.timing.race.Check = time.Millisecond
		r.dialer.timing.h3HeadStart = time.Minute
		r.dialer.Logger = slog.New(slog.NewTextHandler(&log, nil))
		r.dialer.OnFault = func(transport string, f Fault, o Outcome) {
			said := transport + " " + f.String() + " " + string(o)
			faults.Store(&said)
		}
	})
	c, s := r.dial()
	if c.Transport() != TransportH3 {
		t.Fatalf("the first stream is over %s", c.Transport())
	}
	go io.Copy(io.Discard, s)
	for begin := time.Now(); faults.Load() == nil && time.Since(begin) < 2*time.Minute; {
		r.dialer.flows.moved[TransportH3].Add(muchMoved) // as if by others, and not during a whole check
		for end := time.Now().Add(2 * time.Second); faults.Load() == nil && time.Now().Before(end); {
			if _, err := c.Write(make([]byte, bulk)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if got := faults.Load(); got == nil || *got != "h3 costly demoted" {
		t.Fatalf("faults %v", got)
	}
	if c, _ := r.dial(); c.Transport() != TransportWS {
		t.Errorf("a new stream is over %s", c.Transport())
	}
	r.stop()
	if !strings.Contains(log.String(), `level=INFO msg="tunnel transport changed for a cheaper one"`) {
		t.Errorf("log:\n%s", &log)
	}
}

func TestABusyTransportIsNoticed(t *testing.T) {
	const within = 10 * time.Second
	for name, tt := range map[string]struct {
		after time.Duration
		moved int64
		want  bool
	}{
		"much":            {within, muchMoved, true},
		"little":          {within, muchMoved - 1, false},
		"not yet":         {within - 1, muchMoved, false},
		"not all at once": {2 * within, muchMoved, false},
	} {
		t.Run(name, func(t *testing.T) {
			var l load
			if l.busy(1, 5, within) {
				t.Error("busy at the first look")
			}
			if got := l.busy(1+int64(tt.after), 5+tt.moved, within); got != tt.want {
				t.Errorf("busy is %t", got)
			}
		})
	}
}

func TestCPUTimeGrows(t *testing.T) {
	before := cpuTime()
	if !eventually(func() bool { return cpuTime() > before }) {
		t.Error("it stands still")
	}
}
