package tunnel

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A wire is the network connection below TLS. It does two things that neither crypto/tls nor the kernel does for us.
//
// Writing: once hold is called, what TLS writes is kept, and flush hands it to the kernel: all records of one frame in one system call. TLS
// therefore never meets a write deadline, after which a tls.Conn cannot be used any more; what a deadline left unsent stays here and leaves
// with the next flush.
//
// Reading: while bytes come in bulk it takes up to 64 KiB from the kernel at once, where TLS would take half of that; fewer calls of larger
// pieces, here and behind us, are worth more than the copy. With noWait set, Read says errNoMore instead of waiting, so that a reader that
// has got something can take what else is there.
type wire struct {
	net.Conn
	below    *wire                 // what TLS to a proxy writes to, where Conn is such; a deadline may leave something there too
	lastByte atomic.Int64          // when the last byte came, see clock
	guard    atomic.Pointer[guard] // nil once a request has authenticated, and at the agent's end

	// Owned by the reader.
	noWait bool
	bulk   bool    // the last read from the kernel was a large one
	inBuf  *[]byte // from wirePool, or nil
	in     []byte  // what was read and not yet taken, within inBuf

	mu      sync.Mutex
	holding bool
	outBuf  *[]byte // from wirePool or smallPool, or nil
	out     []byte  // what is to be sent, within outBuf unless that was too small
}

const (
	// wireSize holds a frame of chunkSize with all headers, cut into TLS records of 16 KiB at 22 bytes of overhead each, and some small frames.
	wireSize = frameSize + 2<<10

	// bulkRead is how much the kernel had to give for us to expect more.
	bulkRead = 8 << 10
)

// newWire is the wire above a connection to the gateway.
func newWire(c net.Conn) *wire {
	w := &wire{Conn: c}
	if p, ok := c.(*proxyConn); ok {
		w.below = p.below
	}
	return w
}

var wirePool = sync.Pool{New: func() any { b := make([]byte, 0, wireSize); return &b }}

// errNoMore is a timeout, and temporary, because that is what crypto/tls takes as a reason to go on with the next Read.
var errNoMore net.Error = noMoreError{}

type noMoreError struct{}

func (noMoreError) Unwrap() error   { return os.ErrDeadlineExceeded }
func (noMoreError) Error() string   { return "nothing more without waiting" }
func (noMoreError) Timeout() bool   { return true }
func (noMoreError) Temporary() bool { return true }

func (w *wire) Read(p []byte) (int, error) {
	switch {
	case w.inBuf != nil:
		return w.take(p), nil
	case w.noWait:
		return 0, errNoMore
	case !w.bulk:
		return w.read(p)
	}
	// A buffer is held while this waits, but no longer than the next KEEPALIVE, which is small.
	w.inBuf = wirePool.Get().(*[]byte)
	n, err := w.read((*w.inBuf)[:chunkSize])
	w.in = (*w.inBuf)[:n]
	return w.take(p), err
}

func (w *wire) read(p []byte) (int, error) {
	g := w.guard.Load()
	if g != nil {
		p = p[:g.mayRead(len(p))]
	}
	n, err := w.Conn.Read(p)
	if g != nil {
		g.hasRead(n)
	}
	w.bulk = n >= bulkRead && g == nil
	if n > 0 {
		w.lastByte.Store(clock())
	}
	return n, err
}

func (w *wire) take(p []byte) int {
	n := copy(p, w.in)
	w.in = w.in[n:]
	if len(w.in) == 0 {
		wirePool.Put(w.inBuf)
		w.inBuf, w.in = nil, nil
	}
	return n
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holding {
		w.keep(p)
		return len(p), nil
	}
	if g := w.guard.Load(); g != nil {
		if err := g.mayWrite(len(p)); err != nil {
			return 0, err
		}
	}
	return w.Conn.Write(p)
}

// Close closes the connection.
func (w *wire) Close() error {
	if g := w.guard.Load(); g != nil {
		g.leave()
	}
	return w.Conn.Close()
}

// hold ends the handshake's way of writing: from now on bytes leave with flush.
func (w *wire) hold() {
	w.mu.Lock()
	w.holding = true
	w.mu.Unlock()
}

func (w *wire) keep(p []byte) {
	if w.outBuf == nil {
		pool := &wirePool
		if len(p) <= smallSize {
			pool = &smallPool
		}
		w.outBuf = pool.Get().(*[]byte)
		w.out = (*w.outBuf)[:0]
	}
	w.out = append(w.out, p...)
}

// held reports whether a flush is due.
func (w *wire) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.out) > 0 || w.below != nil && w.below.held()
}

// flush sends what is held. One caller at a time; Write may go on meanwhile, for TLS answers some messages from within a Read.
func (w *wire) flush() error {
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

func (w *wire) flushBelow() error {
	if w.below == nil {
		return nil
	}
	return w.below.flush()
}

func (w *wire) sent(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = w.out[n:]
	if len(w.out) > 0 || w.outBuf == nil {
		return
	}
	if cap(*w.outBuf) == wireSize {
		wirePool.Put(w.outBuf)
	} else {
		smallPool.Put(w.outBuf)
	}
	w.outBuf, w.out = nil, nil
}

// send is Write and flush, without the copy unless a deadline leaves a rest: for a wire without TLS.
func (w *wire) send(b []byte) error {
	if err := w.flush(); err != nil {
		return err
	}
	n, err := w.Conn.Write(b)
	if n < len(b) && isTimeout(err) {
		w.mu.Lock()
		w.keep(b[n:])
		w.mu.Unlock()
	}
	return err
}

var clockStart = time.Now()

// clock is monotonic, in nanoseconds, and never 0.
func clock() int64 { return int64(time.Since(clockStart)) + 1 }
