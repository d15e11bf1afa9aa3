package tunnel

import (
	"sync"
	"time"
)

// maxBurst is the most streams that count as one burst. Each of them keeps a connection to the
// gateway.
const maxBurst = 32

// bursts remembers how many streams came together.
type bursts struct {
	window time.Duration // what comes within this comes together
	memory time.Duration // a burst is forgotten after this

	mu     sync.Mutex
	recent []time.Time // when streams came within the window, the last maxBurst at most
	list   []burst     // the largest, the largest that came later, and so on
}

type burst struct {
	at      time.Time
	streams int
}

// add counts a stream.
func (b *bursts) add(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.recent) == maxBurst || len(b.recent) > 0 && now.Sub(b.recent[0]) > b.window {
		b.recent = b.recent[1:]
	}
	b.recent = append(b.recent, now)
	n := len(b.recent)
	for len(b.list) > 0 && b.list[len(b.list)-1].streams <= n {
		b.list = b.list[:len(b.list)-1]
	}
	b.list = append(b.list, burst{now, n})
}

// largest returns how many streams the largest burst had that is not forgotten.
func (b *bursts) largest(now time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.list) > 0 && now.Sub(b.list[0].at) > b.memory {
		b.list = b.list[1:]
	}
	if len(b.list) == 0 {
		return 0
	}
	return b.list[0].streams
}

// forget forgets all bursts.
func (b *bursts) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent, b.list = nil, nil
}
