package tunnel

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// Memory that no counter of ours sees, such as QUIC's receive windows, is in the heap and is
// noticed there.
func TestMemoryInUseIsSeen(t *testing.T) {
	const limit = 64 << 20
	var m memory
	if m.exceeds(limit) {
		t.Fatalf("%d bytes in use before", m.inUse())
	}
	held := make([]byte, limit+1<<20)
	if !m.exceeds(limit) {
		t.Errorf("65 MiB are in use, and inUse says %d bytes", m.inUse())
	}
	runtime.KeepAlive(held)
	m.next = time.Time{}
	if m.exceeds(limit) {
		t.Errorf("nothing is in use any more, and inUse says %d bytes", m.inUse())
	}
}

// A burst of connections leaves buffers in pools, which survive one garbage collection. They used to
// count, so that the next connections were refused.
func TestBuffersThatNobodyHoldsAreNotInUse(t *testing.T) {
	const limit, size = 64 << 20, 64 << 10
	var pool sync.Pool
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the pool is to be full at the first collection
	for range limit/size + 100 {
		b := make([]byte, size)
		pool.Put(&b)
	}
	var m memory
	if m.exceeds(limit) {
		t.Errorf("nothing is in use, and inUse says %d bytes", m.inUse())
	}
	runtime.KeepAlive(&pool)
}

// An exact figure is not worth a collection at each call.
func TestCollectionsAreForcedRarely(t *testing.T) {
	forced := func() uint32 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.NumForcedGC
	}
	var m memory
	start := time.Now()
	m.exceeds(1)
	if rest := m.next.Sub(start); rest < collectionShare*100*time.Microsecond {
		t.Errorf("after a collection, the next one may come after %v", rest)
	}
	m.next = time.Now().Add(time.Hour)
	before := forced()
	if !m.exceeds(1) {
		t.Error("nothing is in use")
	}
	if n := forced() - before; n != 0 {
		t.Errorf("%d collections were forced soon after another one", n)
	}
}
