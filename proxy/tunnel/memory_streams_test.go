package tunnel

import (
	"sync"
	"testing"
)

// Beyond the memory limit, HTTP/2 streams that nobody reads end until there is enough memory.
// Streams that make progress continue.
func TestWithoutMemoryStalledStreamsOfHTTP2End(t *testing.T) {
	const limit, opened = 24 << 20, 40
	most := Limits{Memory: limit}.mostMemory()
	much := make([]byte, 8<<20) // more than a stream's window, so that a write ends only with its stream
	base := inUse()
	r := newRig(t, "h2", func(r *rig) {
		r.server.Limits.Memory, r.server.limiter.memory.fake = limit, func() int64 { return inUse() - base }
		r.server.windows = defaultWindows // of which six fill the memory
		r.dialer.Carriers = 1
	})
	var streams []*Conn
	var ends []*served
	for range opened { // while there is memory
		c, s := r.dial()
		streams, ends = append(streams, c), append(ends, s)
	}
	good, goodEnd := r.dial()
	var writing sync.WaitGroup
	for _, c := range streams {
		writing.Go(func() { c.Write(much) })
	}
	ended := make(chan struct{}, opened)
	for _, c := range streams {
		writing.Go(func() {
			c.Read(make([]byte, 1))
			ended <- struct{}{}
		})
	}
	for inUse()-base > most || len(ended) == 0 {
		if t.Context().Err() != nil {
			t.Fatalf("%d MiB are held, the limit is %d, and %d streams have ended", (inUse()-base)>>20, most>>20, len(ended))
		}
		for _, s := range ends {
			if s.ending.over.Load() {
				s.returned() // as in a gateway, whose reads fail
			}
		}
	}
	if len(ended) == opened {
		t.Error("all streams have ended")
	}
	if _, err := good.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := goodEnd.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	for _, c := range streams {
		c.Close()
	}
	writing.Wait()
}
