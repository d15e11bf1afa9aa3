package tunnel

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// watchMemory is how often memory in use is looked at while there are QUIC connections.
const watchMemory = 250 * time.Millisecond

// A memoryWatch closes QUIC connections while more memory is in use than may be: first the one of which most has come and was not read. The windows
// do not bound that. They count the bytes that STREAM frames carry, and quic-go keeps 160 bytes more for each that is out of order: a peer with
// credentials that sends frames of one byte, and holds back the first, has us hold a hundred times what its window allows. No honest peer does.
type memoryWatch struct {
	limit   int64 // bytes in use; 0 is none
	limiter *limiter
	log     *slog.Logger

	mu    sync.Mutex
	conns map[*quic.Conn]*arrears
	timer *time.Timer // while there are any
}

// arrears are what has come over a connection and was not read.
type arrears struct {
	read     *atomic.Uint64 // bytes of its streams
	packets  uint64         // that had come when we looked last
	received uint64         // bytes of them
	taken    uint64         // what read was
	held     int64          // never below 0: what is no stream's, as acknowledgements, earns nothing
}

// packetOverhead is what a packet has beside bytes of streams: headers of QUIC, of frames and of capsules, and 16 bytes that authenticate it. An
// acknowledgement by itself is about as large.
const packetOverhead = 48

// update takes in what has come and was read since we looked last.
func (a *arrears) update(c *quic.Conn) {
	taken := a.read.Load() // before what has come, which is more
	stats := c.ConnectionStats()
	came := int64(stats.BytesReceived-a.received) - packetOverhead*int64(stats.PacketsReceived-a.packets)
	a.held = max(0, a.held+came-int64(taken-a.taken))
	a.packets, a.received, a.taken = stats.PacketsReceived, stats.BytesReceived, taken
}

// add watches a connection, until it ends; read is counted by whoever reads its streams.
func (w *memoryWatch) add(c *quic.Conn, read *atomic.Uint64) {
	if w.limit <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = make(map[*quic.Conn]*arrears)
	}
	w.conns[c] = &arrears{read: read}
	if w.timer == nil {
		w.timer = time.AfterFunc(watchMemory, w.look)
	}
}

func (w *memoryWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if c.Context().Err() != nil {
			delete(w.conns, c)
		}
	}
	w.timer = nil
	if len(w.conns) == 0 {
		return
	}
	for c, a := range w.conns {
		a.update(c)
	}
	if w.limiter.inUse() > w.limit {
		w.relieve()
	}
	w.timer = time.AfterFunc(watchMemory, w.look)
}

// relieve closes the worst connection, if there is still too little memory when what nobody needs is collected. The caller holds mu.
func (w *memoryWatch) relieve() {
	runtime.GC()
	if w.limiter.inUse() <= w.limit {
		return
	}
	var worst *quic.Conn
	most := int64(leastArrears)
	for c, a := range w.conns {
		if a.held > most {
			worst, most = c, a.held
		}
	}
	if worst == nil {
		return // it is not QUIC that holds it
	}
	delete(w.conns, worst)
	w.log.Warn("QUIC connection closed, too much memory is in use", "peer_addr", worst.RemoteAddr(), "unread", most, "limit", w.limit)
	worst.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "the other end has too little memory for what it was sent")
}

// leastArrears is what a connection must hold for it to be closed: where it is less, something else has the memory.
const leastArrears = 64 << 10
