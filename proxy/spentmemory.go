package proxy

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// lookAtMemory is how often spentMemory looks.
	lookAtMemory = 10 * time.Second

	// A burst has allocated at least burstLeast bytes, and one part in burstShare of what the
	// process holds.
	burstLeast = 8 << 20
	burstShare = 4

	// burstOver is how little of that was allocated since the last look if the burst is over: one
	// part in so many. So one burst causes one collection. At a steady rate it takes as many looks,
	// and the runtime itself collects as often.
	burstOver = 16
)

// spentMemory gives memory back to the system that connections have needed to begin, or to be busy,
// when that is over. The runtime alone collects garbage when the heap has doubled, or after two
// minutes, and keeps most of what it frees for a heap of that size.
type spentMemory struct {
	looked uint64 // what had been allocated in all, when it looked last
	given  uint64 // and when it gave something back last
}

// run looks until ctx is done.
func (m *spentMemory) run(ctx context.Context) {
	for sleep(ctx, lookAtMemory) {
		m.look()
	}
}

// look gives back what is spent, and reports whether it did.
func (m *spentMemory) look() bool {
	allocated, held := readHeap()
	burst, since := allocated-m.given, allocated-m.looked
	m.looked = allocated
	if !burstIsOver(burst, since, held) {
		return false
	}
	runtime.GC() // buffers that wait in pools survive one collection
	debug.FreeOSMemory()
	m.given = allocated
	return true
}

// burstIsOver reports whether a collection now is worth it: burst is what was allocated since the
// last one that spentMemory caused, since is what of that came after the last look, and held is what
// the process holds.
func burstIsOver(burst, since, held uint64) bool {
	return burst >= max(burstLeast, held/burstShare) && since <= burst/burstOver
}

// readHeap returns how many bytes have been allocated in all, and how many the heap and the stacks
// hold from the system.
func readHeap() (allocated, held uint64) {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
	}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()
}
