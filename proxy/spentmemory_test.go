package proxy

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
)

// What a burst has left behind is given back once, when nothing follows it.
func TestSpentMemoryIsGivenBack(t *testing.T) {
	debug.FreeOSMemory() // of other tests
	allocated, _ := readHeap()
	m := spentMemory{looked: allocated, given: allocated}
	var pool sync.Pool
	for range 64 {
		b := make([]byte, 1<<20)
		clear(b)
		pool.Put(&b)
	}
	if m.look() {
		t.Error("a collection was forced during the burst")
	}
	_, before := readHeap()
	if !m.look() {
		t.Fatalf("nothing was given back after the burst, and %d bytes are held", before)
	}
	if _, held := readHeap(); held > before/2 {
		t.Errorf("the process held %d bytes and holds %d, want less than half", before, held)
	}
	if m.look() {
		t.Error("it was given back twice")
	}
	runtime.KeepAlive(&pool)
}

func TestBurstsThatAreOver(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		what               string
		burst, since, held uint64
		want               bool
	}{
		{"1,000 connections, a while ago", 80 * mib, mib, 60 * mib, true},
		{"they still come", 80 * mib, 20 * mib, 60 * mib, false},
		{"a small process", 7 * mib, 0, 12 * mib, false},
		{"little, in a large process", 20 * mib, 0, 300 * mib, false},
		{"a steady rate", 64 * mib, 8 * mib, 60 * mib, false},
		{"a steady rate for as long as the runtime waits", 128 * mib, 8 * mib, 60 * mib, true},
	} {
		if got := burstIsOver(test.burst, test.since, test.held); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}
