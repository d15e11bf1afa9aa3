package exchange

import (
	"runtime"
	"testing"
	"time"
)

// There are never more than maxBulk buffers, and those that are lost make room for others.
func TestBulkIsBounded(t *testing.T) {
	take := func() (all []Bulk) {
		for range 2 * maxBulk {
			if b, ok := NewBulk(); ok {
				all = append(all, b)
			}
		}
		return all
	}
	all := take()
	for begin := time.Now(); len(all) < maxBulk && time.Since(begin) < time.Minute; all = append(all, take()...) {
		runtime.GC() // what earlier tests lost
		time.Sleep(time.Millisecond)
	}
	if len(all) != maxBulk {
		t.Errorf("%d buffers, want %d", len(all), maxBulk)
	}
	if _, ok := NewBulk(); ok {
		t.Error("one more")
	}
	runtime.KeepAlive(all)
	all = nil
	for begin := time.Now(); len(all) == 0; all = take() {
		if time.Since(begin) > time.Minute {
			t.Fatal("buffers that nobody holds count for ever")
		}
		runtime.GC()
		time.Sleep(time.Millisecond) // cleanups run on their own goroutine
	}
	for _, b := range all {
		b.Release()
	}
}
