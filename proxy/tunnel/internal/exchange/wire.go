package exchange

import (
	"net"
	"sync"
	"sync/atomic"
)

// A Wire is the network connection below TLS. It does two things that neither crypto/tls nor the
// kernel does.
//
// Writing: after Hold, what TLS writes is kept, and Flush passes it to the kernel: all records of
// one frame in one system call. So TLS never sees a write deadline, after which a tls.Conn is
// unusable. What a deadline leaves unsent stays here and leaves with the next Flush.
//
// Reading: while bytes arrive in bulk, it reads up to 256 KiB at once, where TLS would read 32 KiB.
// Fewer and larger reads save more, here and in the code above, than the extra copy costs.
// With noWait set, Read returns ErrNoMore instead of blocking, so that a reader that has something
// can take whatever else has arrived.
type Wire struct {
	net.Conn
	// The Wire that Conn writes to, if Conn is TLS to a proxy; a deadline may leave something
	// unsent there too.
	below    *Wire
	lastByte atomic.Int64 // Clock when the last byte arrived
	guard    atomic.Pointer[guard]

	// Owned by the reader.
	noWait bool
	last   int     // bytes that the last read from the kernel returned
	inBuf  *[]byte // from wirePool or bulk, or nil
	in     []byte  // read and not yet taken, within inBuf

	mu      sync.Mutex
	holding bool
	outBuf  *[]byte // from small, wirePool or bulk, or nil
	out     []byte  // to be sent, within outBuf unless that was too small
}

// bulkRead is how many bytes a read must return for us to expect more.
const bulkRead = 8 << 10

// NewWire returns the wire above c. If c is TLS to a proxy, below is the wire that c writes to;
// otherwise it is nil.
func NewWire(c net.Conn, below *Wire) *Wire { return &Wire{Conn: c, below: below} }

// A Guard bounds what a peer may send, and may make us send, before it has authenticated. Its
// methods may be called concurrently.
type Guard interface {
	// MayRead returns how many of n bytes may be read now, at least one. It blocks until there is
	// one.
	MayRead(n int) int
	// HasRead is called with the number of bytes read.
	HasRead(n int)
	// MayWrite is called before n bytes are written. An error makes the write fail.
	MayWrite(n int) error
	// Leave is called when the connection closes.
	Leave()
}

// guard is a Guard as a concrete type, for atomic.Pointer.
type guard struct{ Guard }

// SetGuard makes g decide about each read, and about each write until [Wire.Hold]. nil removes the
// guard.
func (w *Wire) SetGuard(g Guard) {
	if g == nil {
		w.guard.Store(nil)
		return
	}
	w.guard.Store(&guard{g})
}

// Guard returns what SetGuard has set, or nil.
func (w *Wire) Guard() Guard {
	if g := w.guard.Load(); g != nil {
		return g.Guard
	}
	return nil
}

// Read reads from the kernel, or from what an earlier read in bulk has left.
func (w *Wire) Read(p []byte) (int, error) {
	switch {
	case w.inBuf != nil:
		return w.take(p), nil
	case w.noWait:
		return 0, ErrNoMore
	case w.last < bulkRead || w.guard.Load() != nil:
		return w.read(p)
	}
	// A buffer is held while this blocks, but only until the next KEEPALIVE, which is small and
	// ends the bulk.
	w.inBuf = w.readBuffer()
	n, err := w.read(*w.inBuf)
	w.in = (*w.inBuf)[:n]
	return w.take(p), err
}

// readBuffer returns the buffer for the next read in bulk.
func (w *Wire) readBuffer() *[]byte {
	if w.last >= wireSize {
		if b := bulk.get(); b != nil {
			return b
		}
	}
	return wirePool.Get().(*[]byte)
}

// read reads from the connection, within the limits of the guard.
func (w *Wire) read(p []byte) (int, error) {
	g := w.guard.Load()
	if g != nil {
		p = p[:g.MayRead(len(p))]
	}
	n, err := w.Conn.Read(p)
	if g != nil {
		g.HasRead(n)
	}
	w.last = n
	if n > 0 {
		w.lastByte.Store(Clock())
	}
	return n, err
}

// take returns bytes that were read in bulk, and frees the buffer once it is empty.
func (w *Wire) take(p []byte) int {
	n := copy(p, w.in)
	w.in = w.in[n:]
	if len(w.in) == 0 {
		Release(w.inBuf)
		w.inBuf, w.in = nil, nil
	}
	return n
}

// Write sends p, or keeps it for Flush after Hold.
func (w *Wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holding {
		w.keep(p)
		return len(p), nil
	}
	if g := w.guard.Load(); g != nil {
		if err := g.MayWrite(len(p)); err != nil {
			return 0, err
		}
	}
	return w.Conn.Write(p)
}

// Close closes the connection and tells the guard.
func (w *Wire) Close() error {
	if g := w.guard.Load(); g != nil {
		g.Leave()
	}
	return w.Conn.Close()
}

// Hold is called after the handshake: from now on bytes leave with Flush.
func (w *Wire) Hold() {
	w.mu.Lock()
	w.holding = true
	w.mu.Unlock()
}

// makeRoom prepares for n bytes that TLS will write, and returns how many it may before a Flush.
func (w *Wire) makeRoom(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > bufferSize && w.outBuf == nil {
		if w.outBuf = bulk.get(); w.outBuf != nil {
			w.out = (*w.outBuf)[:0]
			return n
		}
	}
	return min(n, bufferSize)
}

// keep appends p to what Flush has to send. The caller holds mu.
func (w *Wire) keep(p []byte) {
	if w.outBuf == nil {
		pool := &wirePool
		if len(p) <= smallSize {
			pool = &small
		}
		w.outBuf = pool.Get().(*[]byte)
		w.out = (*w.outBuf)[:0]
	}
	w.out = append(w.out, p...)
}

// held reports whether there is something to flush.
func (w *Wire) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.out) > 0 || w.below != nil && w.below.held()
}

// Flush sends what is held. It has one caller at a time; Write may run meanwhile, because TLS
// answers some messages from within a Read.
func (w *Wire) Flush() error {
	for {
		w.mu.Lock()
		b := w.out
		w.mu.Unlock()
		if len(b) == 0 {
			return w.flushBelow()
		}
		n, err := w.Conn.Write(b)
		w.sent(n)
		if err != nil {
			return err
		}
	}
}

// flushBelow flushes the wire below TLS to a proxy.
func (w *Wire) flushBelow() error {
	if w.below == nil {
		return nil
	}
	return w.below.Flush()
}

// sent removes n bytes that the kernel has taken, and frees the buffer once it is empty.
func (w *Wire) sent(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = w.out[n:]
	if len(w.out) > 0 || w.outBuf == nil {
		return
	}
	Release(w.outBuf)
	w.outBuf, w.out = nil, nil
}

// send is Write and Flush for a wire without TLS. It copies only what a deadline leaves unsent.
func (w *Wire) send(b []byte) error {
	if err := w.Flush(); err != nil {
		return err
	}
	n, err := w.Conn.Write(b)
	if n < len(b) && IsTimeout(err) {
		w.mu.Lock()
		w.keep(b[n:])
		w.mu.Unlock()
	}
	return err
}
