package tunnel

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// watchMemory is how often memory in use is compared with the limit. In that time, a peer sends
// some 6 MB over a network of 1 Gbit/s.
const watchMemory = 50 * time.Millisecond

// A memoryWatch closes QUIC connections while too much memory is in use, the one with the most
// unread bytes first. Flow-control windows are not enough for that: they count the payload of
// STREAM frames, and quic-go needs 160 bytes more for each frame that is out of order. A peer with
// credentials that sends frames of one byte, and holds back the first, makes us hold a hundred
// times what its window allows. No honest peer does.
type memoryWatch struct {
	limit  int64 // bytes in use; 0 means no limit
	memory *memory
	log    *slog.Logger

	mu    sync.Mutex
	conns map[*quic.Conn]*unread
	timer *time.Timer // runs while there are connections
}

// unread estimates what a connection has received and nobody has read.
type unread struct {
	read     *atomic.Uint64 // bytes read from its streams
	packets  uint64         // received at the last update
	received uint64         // bytes received at the last update
	taken    uint64         // value of read at the last update
	// Bytes; never below 0, so that packets without stream data, such as acknowledgements, earn no
	// allowance.
	held int64
}

// packetOverhead is what a packet contains besides stream data, in bytes: the headers of QUIC,
// frames and capsules, and 16 bytes of authentication tag. A packet with only an acknowledgement
// has about that size.
const packetOverhead = 48

// update counts what has been received and read since the last update.
func (a *unread) update(c *quic.Conn) {
	taken := a.read.Load() // before the statistics, so that held is not too small
	stats := c.ConnectionStats()
	came := int64(stats.BytesReceived-a.received) - packetOverhead*int64(stats.PacketsReceived-a.packets)
	a.held = max(0, a.held+came-int64(taken-a.taken))
	a.packets, a.received, a.taken = stats.PacketsReceived, stats.BytesReceived, taken
}

// add watches a connection until it ends. Whoever reads its streams adds to read.
func (w *memoryWatch) add(c *quic.Conn, read *atomic.Uint64) {
	if w.limit <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = make(map[*quic.Conn]*unread)
	}
	w.conns[c] = &unread{read: read}
	if w.timer == nil {
		w.timer = time.AfterFunc(watchMemory, w.look)
	}
}

// look runs every watchMemory.
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
	if w.memory.exceeds(w.limit) {
		w.closeWorst(w.memory.inUse() - w.limit)
	}
	w.timer = time.AfterFunc(watchMemory, w.look)
}

// closeWorst closes the connections with the most unread bytes, until that frees enough. The caller
// holds mu.
func (w *memoryWatch) closeWorst(excess int64) {
	for excess > 0 {
		var worst *quic.Conn
		most := int64(minUnread)
		for c, a := range w.conns {
			if a.held > most {
				worst, most = c, a.held
			}
		}
		if worst == nil {
			return // something other than QUIC holds the memory
		}
		delete(w.conns, worst)
		excess -= most
		w.log.Warn("QUIC connection closed: memory in use exceeds the limit", "peer_addr", worst.RemoteAddr(), "unread", most, "limit", w.limit)
		worst.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "the other end is short of memory for what it received")
	}
}

// minUnread is how many unread bytes a connection must have to be closed. If all have less,
// something other than QUIC holds the memory.
const minUnread = 64 << 10
