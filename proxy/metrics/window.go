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
	apis = []document.API{}
	sum, sumThen, sumHistory := &reading{}, &reading{}, []float64(nil)
	for i, r := range now.readings {
		if r == nil {
			continue
		}
		before, key := then.readings[i], protocol.APIKey(i)
		if before == nil {
			before = &reading{}
		}
		a := r.since(before, over)
		a.Name, a.LongPoll = key.String(), key.LongPoll()
		a.History = slices.Clone(m.window.history[i].requests)
		apis = append(apis, a)
		if !a.LongPoll {
			sum.add(r)
			sumThen.add(before)
			sumHistory = addHistory(sumHistory, a.History)
		}
	}
	slices.SortFunc(apis, func(a, b document.API) int { return strings.Compare(a.Name, b.Name) })
	total = sum.since(sumThen, over)
	total.Name, total.History = "total", sumHistory
	return over, total, apis
}

// addHistory returns the sums of two histories, whose last values are of the same second.
func addHistory(sum, h []float64) []float64 {
	if len(sum) < len(h) {
		sum, h = slices.Clone(h), sum
	}
	for i, n := range h {
		sum[len(sum)-len(h)+i] += n
	}
	return sum
}
