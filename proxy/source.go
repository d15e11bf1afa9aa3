package proxy

import (
	"errors"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// idleAfter is how long a direction keeps its buffer while nothing arrives. Most connections of
// Kafka clients are idle most of the time, and a gateway holds thousands.
const idleAfter = time.Second

// errWoken is returned by [source.await] when it is to stop.
var errWoken = errors.New("woken")

// source is a connection whose read deadline counts only while the reader asks for one, with
// limitReads. wake wakes up the reader by a deadline in the past, which can also hit a read in the
// middle of a frame. Such a read clears the deadline and goes on.
//
// The reader owns the fields. One goroutine may read while another one writes.
type source struct {
	net.Conn
	timed   bool             // reads stop at the deadline
	limited io.LimitedReader // for Splice, so that it need not allocate one
}

func (s *source) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		if n > 0 || s.timed || !tunnel.IsTimeout(err) {
			return n, err
		}
		s.SetReadDeadline(time.Time{})
	}
}

// limitReads makes reads stop at a deadline, until unlimitReads is called.
func (s *source) limitReads(deadline time.Time) {
	s.timed = true
	s.SetReadDeadline(deadline)
}

func (s *source) unlimitReads() { s.timed = false }

// wake interrupts await. It may be called from any goroutine.
func (s *source) wake() { s.SetReadDeadline(time.Now()) }

// await waits for the first byte of a frame in f, which reads from s. After idleAfter without one,
// f gives back its buffer. await returns errWoken when stop returns true. Whoever changes what stop
// returns must then call wake.
func (s *source) await(f *protocol.Flow, stop func() bool) error {
	if f.Buffered() > 0 {
		return nil
	}
	defer s.unlimitReads()
	for deadline := time.Now().Add(idleAfter); ; deadline = (time.Time{}) {
		s.limitReads(deadline)
		if stop() { // after limitReads, which may have replaced a deadline in the past
			return errWoken
		}
		if _, err := f.Peek(1, 1); !tunnel.IsTimeout(err) {
			return err
		}
		f.Release()
	}
}

// Splice copies up to n bytes in the fastest way that there is for both sides, and returns how
// many. A [protocol.Flow] calls it on its destination.
func (s *source) Splice(from io.Reader, n int64) (moved int64, err error) {
	src, ok := from.(*source)
	if !ok {
		return 0, nil
	}
	if dst, ok := s.Conn.(*net.TCPConn); ok && runtime.GOOS == "linux" {
		if tcp, ok := src.Conn.(*net.TCPConn); ok {
			return src.spliceTo(dst, tcp, n), nil
		}
	}
	return s.copyBulk(src, n)
}

// spliceTo copies inside the kernel. It halves the CPU time of relaying large frames without a
// tunnel. The next Read or Write returns the error, if there is one.
func (s *source) spliceTo(dst, src *net.TCPConn, n int64) int64 {
	s.limited = io.LimitedReader{R: src, N: n}
	n, _ = dst.ReadFrom(&s.limited)
	return n
}

// copyBulk copies through a larger buffer than a Flow has, into or out of a tunnel. Without one it
// copies nothing.
func (s *source) copyBulk(from *source, n int64) (moved int64, err error) {
	b, ok := tunnel.NewBulk()
	if !ok {
		return 0, nil
	}
	defer b.Release()
	for moved < n {
		k, err := from.Read(b.Bytes()[:min(n-moved, int64(len(b.Bytes())))])
		if k > 0 {
			if err := s.writeBulk(b, k); err != nil {
				return moved, &protocol.WriteError{Err: err}
			}
			moved += int64(k)
		}
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// writeBulk writes the first n bytes of b.
func (s *source) writeBulk(b tunnel.Bulk, n int) error {
	if t, ok := s.Conn.(*tunnel.Conn); ok {
		_, err := t.WriteBulk(b, n)
		return err
	}
	_, err := s.Write(b.Bytes()[:n])
	return err
}
