package tunnel

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"
)

// memory tells how much of it the process has in use. What nobody holds does not count: garbage,
// and buffers that wait in pools.
type memory struct {
	fake func() int64 // bytes in use, in tests; nil asks the runtime

	mu   sync.Mutex
	next time.Time // when a garbage collection may be forced again
}

// collectionShare bounds how much of the time is spent in collections that exceeds forces: one part
// in so many.
const collectionShare = 10

// exceeds reports whether more than limit bytes are in use; never if limit is 0. It forces garbage
// collections for an exact figure. Soon after such a collection, the figure is that of the last
// one.
func (m *memory) exceeds(limit int64) bool {
	if limit <= 0 || m.allocated() <= limit {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	start := time.Now()
	if start.Before(m.next) {
		return m.inUse() > limit
	}
	runtime.GC()
	if m.inUse() > limit {
		runtime.GC() // the first one leaves what is in pools
	}
	m.next = time.Now().Add(collectionShare * time.Since(start))
	return m.inUse() > limit
}

// inUse returns the bytes of live heap and of stacks, as of the last garbage collection. That
// includes what no counter of ours could see, such as bytes that a peer sent over QUIC and nobody
// has read.
func (m *memory) inUse() int64 { return m.read("/gc/heap/live:bytes") }

// allocated returns inUse and what has been allocated since, garbage included.
func (m *memory) allocated() int64 { return m.read("/memory/classes/heap/objects:bytes") }

func (m *memory) read(heap string) int64 {
	if m.fake != nil {
		return m.fake()
	}
	s := []metrics.Sample{{Name: heap}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() + s[1].Value.Uint64())
}
