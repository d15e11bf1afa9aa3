package metrics

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

const (
	// sampleEvery is how often requests are counted, for the history.
	sampleEvery = time.Second
	// frameEvery is how often everything is read, with the buckets of the histograms, which cost most.
	frameEvery = 5
)

// window is what the collectors of the API keys have shown lately: rates, means and quantiles are
// differences between now and its beginning. It is bounded, because the keys are.
type window struct {
	mu      sync.Mutex
	frames  []frame                      // oldest first; at most a minute old, but for the last one
	history [protocol.MaxKey + 2]history // by key, as apiMetrics.resolved
}

// frame is what all collectors show at one time.
type frame struct {
	at       time.Time
	readings [protocol.MaxKey + 2]*reading // nil for keys that are not used
}

// history are the requests of the last seconds.
type history struct {
	total    float64 // requests since the start
	requests []float64
}

// Sample reads the collectors of the API keys that are used, once a second, until ctx is done. Call
// it once.
func (m *apiMetrics) Sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%frameEvery == 0 {
			m.window.add(m.frame())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.count()
	}
}

// frame reads all collectors.
func (m *apiMetrics) frame() frame {
	f := frame{at: time.Now()}
	for i := range m.resolved {
		if a := m.resolved[i].Load(); a != nil {
			f.readings[i] = a.read()
		}
	}
	return f
}

// count adds the requests of the last second to the history.
func (m *apiMetrics) count() {
	m.window.mu.Lock()
	defer m.window.mu.Unlock()
	for i := range m.resolved {
		if a := m.resolved[i].Load(); a != nil {
			m.window.history[i].add(valueOf(a.Requests))
		}
	}
}

// add adds the requests of one more second, of which total have come since the start.
func (h *history) add(total float64) {
	if len(h.requests) == document.MaxHistory {
		h.requests = append(h.requests[:0], h.requests[1:]...)
	}
	h.requests = append(h.requests, total-h.total)
	h.total = total
}

// add keeps a frame, and forgets those that are too old.
func (w *window) add(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := slices.IndexFunc(w.frames, func(old frame) bool { return f.at.Sub(old.at) <= document.MaxWindow })
	if first < 0 {
		first = len(w.frames)
	}
	w.frames = append(append(w.frames[:0], w.frames[first:]...), f)
}

// begin returns the frame with which the window up to now begins.
func (w *window) begin(now time.Time) frame {
	for _, f := range w.frames {
		if now.Sub(f.at) <= document.MaxWindow {
			return f
		}
	}
	if len(w.frames) > 0 { // the process was paused
		return w.frames[len(w.frames)-1]
	}
	return frame{at: now}
}

// APIs returns what has been measured for each API key that was used, by name, and for all of them
// but long polls. over is the window of the rates, means and quantiles.
func (m *apiMetrics) APIs() (over time.Duration, total document.API, apis []document.API) {
	now := m.frame()
	m.window.mu.Lock()
	defer m.window.mu.Unlock()
	then := m.window.begin(now.at)
	over = now.at.Sub(then.at)
	sum := &measured{}
	apis = []document.API{}
	for i, r := range now.readings {
		if r == nil {
			continue
		}
		key := protocol.APIKey(i)
		one := &measured{start: *r, window: r.minus(then.readings[i]), history: slices.Clone(m.window.history[i].requests), longPoll: key.LongPoll()}
		one.totals = m.resolved[i].Load().totals()
		a := one.document(key.String(), over)
		apis = append(apis, a)
		if !a.LongPoll {
			sum.add(one)
		}
	}
	slices.SortFunc(apis, func(a, b document.API) int { return strings.Compare(a.Name, b.Name) })
	return over, sum.document("total", over), apis
}
