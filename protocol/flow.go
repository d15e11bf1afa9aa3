package protocol

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// bufferSize is how much of a connection's one direction is in memory at a time.
	bufferSize = 64 << 10
	// smallSize is enough for most requests and responses other than Produce and Fetch.
	smallSize = 4 << 10
	// idleSize is the buffer of an idle direction, which waits for its next byte.
	idleSize = 512
)

// The pools lend buffers. A Flow that waits idle holds none.
var (
	bufferPool = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smallPool  = sync.Pool{New: func() any { return new([smallSize]byte) }}
)

// ErrHeld is returned by [Flow.Peek] for more bytes than the flow may hold.
var ErrHeld = errors.New("more bytes than may be held back")

// WriteError wraps an error of the destination, so that it can be told from one of the source.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// A splicer is a destination that can take bytes from a source in a faster way than through a
// Flow's buffer. Splice takes at most n, and returns how many it took. It may stop early without an
// error; then the Flow takes the next bytes. An error is of the source, or a [WriteError].
type splicer interface {
	Splice(src io.Reader, n int64) (moved int64, err error)
}

// Flow moves one direction of a connection from a reader to a writer and lets its user look at
// bytes before they are written.
//
// Bytes are peeked at and then passed or replaced. What has been passed is written before the flow
// blocks in a read, so nothing waits for bytes that have not arrived: a frame is never stored as a
// whole. The memory is one pooled buffer, of 4 KiB until a read fills it or a frame does not fit,
// and then of 64 KiB. Only a Peek of more makes it larger, as those bytes arrive and for as long as
// they are held back.
//
// A Flow is used by one goroutine at a time. It closes neither side.
type Flow struct {
	src io.Reader
	dst io.Writer

	small  *[smallSize]byte  // nil unless buf is it
	pooled *[bufferSize]byte // nil until it is needed
	buf    []byte            // nil while idle
	// buf[out:in] has been passed and is not yet written, buf[in:end] is held.
	out, in, end int

	idle [idleSize]byte
}

// NewFlow returns a flow from src to dst. Its user calls [Flow.Release] at the end.
func NewFlow(src io.Reader, dst io.Writer) *Flow {
	return &Flow{src: src, dst: dst}
}

// To changes the destination. What was passed before must have been written: see [Flow.Flush].
func (f *Flow) To(dst io.Writer) { f.dst = dst }

// Buffered returns how many bytes have been read and not yet passed.
func (f *Flow) Buffered() int { return f.end - f.in }

// Peek returns the next n bytes without passing them, reading as many more as that takes. The slice
// is on loan until the next call of any method; bytes changed in it are passed as changed. n beyond
// limit fails with [ErrHeld] before anything is read.
//
// It returns io.EOF when the source ended before the first of the n bytes and io.ErrUnexpectedEOF
// when it ended among them; a timeout of the source loses nothing and may be retried.
func (f *Flow) Peek(n, limit int) ([]byte, error) {
	if n > limit {
		return nil, fmt.Errorf("%d bytes: %w (limit %d)", n, ErrHeld, limit)
	}
	for f.end-f.in < n {
		if err := f.fill(n); err != nil {
			if f.end > f.in {
				err = early(err)
			}
			return nil, err
		}
	}
	return f.buf[f.in : f.in+n], nil
}

// Pass passes the next n bytes. They must have been peeked at.
func (f *Flow) Pass(n int) {
	if n < 0 || n > f.end-f.in {
		panic("protocol: pass of bytes that were not peeked at")
	}
	f.in += n
}

// PassThrough passes the next n bytes as they arrive; they need not have been peeked at. If the
// source ends before the last of them, it returns io.ErrUnexpectedEOF.
func (f *Flow) PassThrough(n int64) error {
	for {
		k := int(min(n, int64(f.end-f.in)))
		f.in += k
		if n -= int64(k); n == 0 {
			return nil
		}
		if s, ok := f.dst.(splicer); ok && n >= bufferSize {
			if err := f.Flush(); err != nil {
				return err
			}
			moved, err := s.Splice(f.src, n)
			if n -= moved; n == 0 {
				f.Release()
				return nil
			}
			if err != nil {
				return early(err)
			}
		}
		if err := f.fill(int(min(n, bufferSize))); err != nil { // at once a buffer that the rest fits into
			return early(err)
		}
	}
}

// early returns the error of a source that has ended too early, if it has ended.
func early(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// PassAll passes everything until the source ends, and then returns nil.
func (f *Flow) PassAll() error {
	for {
		f.in = f.end
		if err := f.fill(1); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Replace writes b in place of the next n bytes, which must have been peeked at. What was passed
// before is written first. b may be longer or shorter than n, and is not kept.
func (f *Flow) Replace(n int, b []byte) error {
	if err := f.Flush(); err != nil {
		return err
	}
	f.Pass(n)
	f.out = f.in
	if len(b) == 0 {
		return nil
	}
	return f.write(b)
}

// Flush writes what has been passed. It is needed only before its user waits for something other
// than the source.
func (f *Flow) Flush() error {
	if f.out == f.in {
		return nil
	}
	b := f.buf[f.out:f.in]
	f.out = f.in
	return f.write(b)
}

// Release returns the buffer to the pool if it holds no bytes, and reports whether it did. The next
// read then waits with a small one.
func (f *Flow) Release() bool {
	if f.end > f.out {
		return false
	}
	f.releaseSmall()
	if f.pooled != nil {
		bufferPool.Put(f.pooled)
	}
	f.pooled, f.buf = nil, nil
	f.out, f.in, f.end = 0, 0, 0
	return true
}

func (f *Flow) releaseSmall() {
	if f.small != nil {
		smallPool.Put(f.small)
		f.small = nil
	}
}

// fill writes what was passed and then reads once, making room for at least n held bytes.
func (f *Flow) fill(n int) error {
	if err := f.Flush(); err != nil {
		return err
	}
	if f.buf == nil {
		return f.wake()
	}
	f.makeRoom(n)
	k, err := f.src.Read(f.buf[f.end:])
	f.end += k
	if k > 0 {
		return nil // an error that came with bytes comes again without them
	}
	return noProgress(err)
}

// wake reads the first bytes into the idle buffer and only then takes another one.
func (f *Flow) wake() error {
	k, err := f.src.Read(f.idle[:])
	if k == 0 {
		return noProgress(err)
	}
	f.small = smallPool.Get().(*[smallSize]byte)
	f.buf = f.small[:]
	f.end = copy(f.buf, f.idle[:k])
	return nil
}

// noProgress returns the error of a read without bytes, also of one that had none.
func noProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// makeRoom makes room to read on until n bytes are held: behind the bytes held now, by moving them
// to the front, or in a larger buffer. Beyond the pooled ones, that is one of twice the size, taken
// only when the last one is full, so that a length that a peer claims costs no memory by itself. It
// is given up when the pooled one is enough.
func (f *Flow) makeRoom(n int) {
	held, to := f.end-f.in, f.buf
	switch {
	case f.small != nil && (f.end == smallSize || n > smallSize), len(f.buf) > bufferSize && n <= bufferSize:
		to = f.large()
	case held == len(f.buf):
		to = make([]byte, 2*held)
	case held > 0 && f.end < len(f.buf) && (f.in == 0 || len(f.buf)-f.in >= n):
		return // there is room behind
	}
	f.end = copy(to, f.buf[f.in:f.end])
	f.buf, f.in, f.out = to, 0, 0
	if len(to) > smallSize {
		f.releaseSmall()
	}
}

// large returns the pooled buffer of bufferSize.
func (f *Flow) large() []byte {
	if f.pooled == nil {
		f.pooled = bufferPool.Get().(*[bufferSize]byte)
	}
	return f.pooled[:]
}

func (f *Flow) write(b []byte) error {
	if _, err := f.dst.Write(b); err != nil {
		return &WriteError{err}
	}
	return nil
}
