package exchange

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

func TestPipe(t *testing.T) {
	const long = 10 * time.Second
	t.Run("a write waits until it is taken", func(t *testing.T) {
		p := newPipe()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		b := make([]byte, 2)
		for _, want := range []string{"ab", "c"} {
			select {
			case err := <-done:
				t.Fatalf("write = %v before everything was read", err)
			default:
			}
			if n, err := p.read(b, true); string(b[:n]) != want || err != nil {
				t.Errorf("read %q, %v, want %q", b[:n], err, want)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("write = %v", err)
		}
	})
	t.Run("a write that timed out is taken nevertheless", func(t *testing.T) {
		p := newPipe()
		b := []byte("abc")
		p.setDeadline(&p.writer, time.Now().Add(time.Millisecond))
		if err := p.write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write = %v", err)
		}
		copy(b, "xyz") // as the next user of the buffer does
		if err := p.write([]byte("def")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write = %v", err)
		}
		p.finish(io.EOF)
		p.setDeadline(&p.writer, time.Now().Add(long))
		done := make(chan error, 1)
		go func() { done <- p.flush() }()
		got, err := io.ReadAll(postBody{p})
		if string(got) != "abcdef" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := <-done; err != nil {
			t.Errorf("flush = %v", err)
		}
	})
	t.Run("a read can be repeated", func(t *testing.T) {
		p := newPipe()
		b := make([]byte, 3)
		for _, deadline := range []time.Time{time.Unix(1, 0), time.Now().Add(time.Millisecond)} {
			p.setDeadline(&p.reader, deadline)
			if _, err := p.read(b, true); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read = %v", err)
			}
		}
		p.setDeadline(&p.reader, time.Time{})
		if _, err := p.read(b, false); err != error(ErrNoMore) {
			t.Errorf("read without waiting = %v", err)
		}
		go p.write([]byte("abc"))
		if n, err := p.read(b, true); string(b[:n]) != "abc" || err != nil {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
	t.Run("the first failure stays", func(t *testing.T) {
		p := newPipe()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		p.offered()
		p.fail(io.ErrClosedPipe)
		p.fail(io.ErrNoProgress)
		if err := <-done; err != io.ErrClosedPipe {
			t.Errorf("write = %v", err)
		}
		if _, err := p.read(make([]byte, 3), true); err != io.ErrClosedPipe {
			t.Errorf("read = %v", err)
		}
	})
	t.Run("who leaves does not say why", func(t *testing.T) {
		p := newPipe()
		postBody{p}.Close()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		if _, err := p.read(make([]byte, 3), true); err != net.ErrClosed {
			t.Errorf("read = %v", err)
		}
		p.fail(io.ErrNoProgress)
		if err := <-done; err != io.ErrNoProgress {
			t.Errorf("write = %v", err)
		}
	})
}

// The stream is the same whether a body arrives in pieces or at once, and a read that does not wait
// loses nothing.
func FuzzBodiesInPieces(f *testing.F) {
	f.Add([]byte("capsules"), uint16(3))
	f.Add(random(3*bulkRead), uint16(idleSize))       // a small read, then large ones
	f.Add(random(2*ChunkSize+1), uint16(ChunkSize-1)) // more than one buffer
	f.Add(random(idleSize+1), uint16(1))              // just beyond the small buffer
	f.Fuzz(func(t *testing.T, body []byte, size uint16) {
		bodies := []io.Reader{bytes.NewReader(body), iotest.DataErrReader(bytes.NewReader(body))}
		if len(body) <= 2*idleSize {
			bodies = append(bodies, iotest.OneByteReader(bytes.NewReader(body)))
		}
		for _, r := range bodies {
			x := NewPost(nil, nil, func(bool) {})
			go x.Receive(r)
			var got []byte
			buf := make([]byte, max(1, size))
			err := error(nil)
			for wait := true; err == nil || IsTimeout(err); wait = !wait || IsTimeout(err) {
				x.SetWait(wait)
				var n int
				n, err = x.Read(buf)
				got = append(got, buf[:n]...)
			}
			if err != io.EOF || !bytes.Equal(got, body) || !x.sawEnd.Load() {
				t.Errorf("read %d of %d bytes, %v", len(got), len(body), err)
			}
			x.Abort()
		}
	})
}

// random returns n bytes that are the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}
