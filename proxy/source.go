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

// Splice copies up to n bytes inside the kernel, if both sides are plain TCP on Linux, and returns
// how many. A [protocol.Flow] calls it on its destination. It halves the CPU time of relaying large
// frames without a tunnel.
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
