package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// idleAfter is how long a direction keeps its buffer while nothing comes.
const idleAfter = time.Second

// source is a connection whose deadline stops a read only where the reader has
// asked for that. Elsewhere it is one left over from a wait, or from drain, and
// the read goes on without it: in the middle of a frame nobody is in a hurry.
//
// Its fields are the reader's: one goroutine may read while another writes.
type source struct {
	net.Conn
	timed   bool             // a deadline stops reads
	limited io.LimitedReader // what Splice reads from, for it not to allocate one
}

func (s *source) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		if n > 0 || s.timed || !isTimeout(err) {
			return n, err
		}
		s.SetReadDeadline(time.Time{})
	}
}

// limitReads has reads stop at a deadline, until unlimitReads.
func (s *source) limitReads(deadline time.Time) {
	s.timed = true
	s.SetReadDeadline(deadline)
}

func (s *source) unlimitReads() { s.timed = false }

// await waits for the first byte of a frame in f, which reads from s. While none
// comes for a while, f holds no buffer. It returns [errDraining] when no frames
// are to be read any more, which drained says: whoever changes that sets a
// deadline in the past, for await to ask.
func (s *source) await(f *protocol.Flow, drained func() bool) error {
	if f.Buffered() > 0 {
		return nil
	}
	defer s.unlimitReads()
	err := s.awaitUntil(time.Now().Add(idleAfter), f, drained)
	if isTimeout(err) {
		f.Release()
		err = s.awaitUntil(time.Time{}, f, drained)
	}
	return err
}

func (s *source) awaitUntil(deadline time.Time, f *protocol.Flow, drained func() bool) error {
	s.limitReads(deadline)
	if drained() { // asked behind limitReads, which may have replaced the deadline in the past
		return errDraining
	}
	_, err := f.Peek(1, 1)
	if isTimeout(err) && drained() {
		return errDraining
	}
	return err
}

// Splice implements what a [protocol.Flow] asks of its destination, where both
// are plain TCP and the kernel can do it: that is half of the work of a relay
// without a tunnel.
func (s *source) Splice(from io.Reader, n int64) int64 {
	dst, isTCP := s.Conn.(*net.TCPConn)
	src, ok := from.(*source)
	if !isTCP || !ok || runtime.GOOS != "linux" {
		return 0
	}
	tcp, isTCP := src.Conn.(*net.TCPConn)
	if !isTCP {
		return 0
	}
	src.limited = io.LimitedReader{R: tcp, N: n}
	n, _ = dst.ReadFrom(&src.limited)
	return n
}

// isTimeout reports whether err is a deadline that passed. ETIMEDOUT, which has
// a Timeout too, is the end of a TCP connection; the next read would find what
// looks like an end in good order.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
