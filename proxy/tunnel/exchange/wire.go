package exchange

import (
	"net"
	"sync"
	"sync/atomic"
)

// A Wire is the network connection below TLS. It does two things that neither crypto/tls nor the kernel does for us.
//
// Writing: once Hold is called, what TLS writes is kept, and Flush hands it to the kernel: all records of one frame in one system call. TLS
// therefore never meets a write deadline, after which a tls.Conn cannot be used any more; what a deadline left unsent stays here and leaves
// with the next flush.
//
// Reading: while bytes come in bulk it takes up to 64 KiB from the kernel at once, where TLS would take half of that; fewer calls of larger
// pieces, here and behind us, are worth more than the copy. With noWait set, Read returns ErrNoMore instead of waiting, so that a reader that
// has got something can take what else is there.
type Wire struct {
	net.Conn
	below    *Wire        // what TLS to a proxy writes to, where Conn is such; a deadline may leave something there too
	lastByte atomic.Int64 // when the last byte came, see clock
	guard    atomic.Pointer[guard]

	// Owned by the reader.
	noWait bool
	bulk   bool    // the last read from the kernel was a large one
	inBuf  *[]byte // from wirePool, or nil
	in     []byte  // what was read and not yet taken, within inBuf

	mu      sync.Mutex
	holding bool
	outBuf  *[]byte // from wirePool or small, or nil
	out     []byte  // what is to be sent, within outBuf unless that was too small
}

const (
	// wireSize holds a frame of ChunkSize with all headers, cut into TLS records of 16 KiB at 22 bytes of overhead each, and some small frames.
	wireSize = bufferSize + 2<<10

	// bulkRead is how much the kernel had to give for us to expect more.
	bulkRead = 8 << 10
)

// NewWire returns the wire above c. below is the wire that c itself writes to, where c is TLS to a proxy, else nil.
func NewWire(c net.Conn, below *Wire) *Wire { return &Wire{Conn: c, below: below} }

var wirePool = sync.Pool{New: func() any { b := make([]byte, 0, wireSize); return &b }}

// A Guard bounds what a peer may send and have us say before it has authenticated. Its methods may be called concurrently.
type Guard interface {
	// MayRead returns how many of n bytes may be read now, which is at least one, and waits until it is.
	MayRead(n int) int
	// HasRead is told how many bytes were read.
	HasRead(n int)
	// MayWrite is asked before n bytes are written. An error ends the write.
	MayWrite(n int) error
	// Leave is told that the connection is closed.
	Leave()
}

type guard struct{ Guard }

// SetGuard has g asked about each read, and about each write until [Wire.Hold]. nil lifts the guard.
func (w *Wire) SetGuard(g Guard) {
	if g == nil {
		w.guard.Store(nil)
		return
	}
	w.guard.Store(&guard{g})
}

// Guard returns what SetGuard set, or nil.
func (w *Wire) Guard() Guard {
	if g := w.guard.Load(); g != nil {
		return g.Guard
	}
	return nil
}

func (w *Wire) Read(p []byte) (int, error) {
	switch {
	case w.inBuf != nil:
		return w.take(p), nil
	case w.noWait:
		return 0, ErrNoMore
	case !w.bulk:
		return w.read(p)
	}
	// A buffer is held while this waits, but no longer than the next KEEPALIVE, which is small.
	w.inBuf = wirePool.Get().(*[]byte)
	n, err := w.read((*w.inBuf)[:ChunkSize])
	w.in = (*w.inBuf)[:n]
	return w.take(p), err
}

func (w *Wire) read(p []byte) (int, error) {
	g := w.guard.Load()
	if g != nil {
		p = p[:g.MayRead(len(p))]
	}
	n, err := w.Conn.Read(p)
	if g != nil {
		g.HasRead(n)
	}
	w.bulk = n >= bulkRead && g == nil
	if n > 0 {
		w.lastByte.Store(Clock())
	}
	return n, err
}

func (w *Wire) take(p []byte) int {
	n := copy(p, w.in)
	w.in = w.in[n:]
	if len(w.in) == 0 {
		wirePool.Put(w.inBuf)
		w.inBuf, w.in = nil, nil
	}
	return n
}

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

// Close closes the connection.
func (w *Wire) Close() error {
	if g := w.guard.Load(); g != nil {
		g.Leave()
	}
	return w.Conn.Close()
}

// Hold ends the handshake's way of writing: from now on bytes leave with Flush.
func (w *Wire) Hold() {
	w.mu.Lock()
	w.holding = true
	w.mu.Unlock()
}

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

// held reports whether a Flush is due.
func (w *Wire) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.out) > 0 || w.below != nil && w.below.held()
}

// Flush sends what is held. One caller at a time; Write may go on meanwhile, for TLS answers some messages from within a Read.
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

func (w *Wire) flushBelow() error {
	if w.below == nil {
		return nil
	}
	return w.below.Flush()
}

func (w *Wire) sent(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = w.out[n:]
	if len(w.out) > 0 || w.outBuf == nil {
		return
	}
	if cap(*w.outBuf) == wireSize {
		wirePool.Put(w.outBuf)
	} else {
		small.Put(w.outBuf)
	}
	w.outBuf, w.out = nil, nil
}

// send is Write and Flush, without the copy unless a deadline leaves a rest: for a wire without TLS.
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
