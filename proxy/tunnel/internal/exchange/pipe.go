package exchange

import (
	"bytes"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A pipe connects a stream, whose calls have deadlines and can be repeated, to an HTTP body, whose
// calls have neither. An io.Pipe would do for the bodies, but knows no deadlines. The reader takes
// bytes directly from the writer's buffer, so that an idle pipe holds no memory; only what a writer
// leaves behind when it times out is copied. There is one reading goroutine and one writing
// goroutine.
type pipe struct {
	mu             sync.Mutex
	change         sync.Cond
	data           []byte // written and not yet read; owned by the writer, unless it has timed out
	finished       error  // the reader's error after data
	failed         error  // the error of both ends, at once
	left           bool   // the reader has gone; the writer waits to learn why
	reader, writer deadline

	since atomic.Int64 // Clock when a writer began to wait, or 0
}

// waitingSince returns the Clock when the writer began to wait for the reader, or 0.
func (p *pipe) waitingSince() int64 { return p.since.Load() }

// A deadline is the read or the write deadline of a pipe. pipe.mu guards it.
type deadline struct {
	passed bool
	timer  *time.Timer
}

func newPipe() *pipe {
	p := new(pipe)
	p.change.L = &p.mu
	return p
}

// read returns bytes of the writer. Without wait it returns ErrNoMore if there are none.
func (p *pipe) read(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.awaitData(wait); err != nil {
		return 0, err
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	if len(p.data) == 0 {
		p.change.Broadcast()
	}
	return n, nil
}

// offered blocks until there is something to read, and returns how much. It takes nothing, so that
// the caller can get a buffer of the right size first.
func (p *pipe) offered() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.awaitData(true)
	return len(p.data), err
}

// awaitData blocks until there is data. It returns the reader's error if there will be none. The
// caller holds mu.
func (p *pipe) awaitData(wait bool) error {
	for {
		switch {
		case p.failed != nil:
			return p.failed
		case p.left:
			return net.ErrClosed
		case p.reader.passed:
			return os.ErrDeadlineExceeded
		case len(p.data) > 0:
			return nil
		case p.finished != nil:
			return p.finished
		case !wait:
			return ErrNoMore
		}
		p.change.Wait()
	}
}

// write blocks until the reader has taken b. If the deadline passes first, the pipe keeps a copy of
// the rest, which will still be read.
func (p *pipe) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.awaitTaken(); err != nil {
		if IsTimeout(err) {
			p.data = append(p.data, b...)
		}
		return err
	}
	p.data = b
	p.change.Broadcast()
	p.since.Store(Clock())
	err := p.awaitTaken()
	p.since.Store(0)
	switch {
	case IsTimeout(err):
		p.data = bytes.Clone(p.data)
	case err != nil:
		p.data = nil
	}
	return err
}

// flush blocks until the reader has taken everything.
func (p *pipe) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awaitTaken()
}

// awaitTaken blocks until the reader has taken all data. The caller holds mu.
func (p *pipe) awaitTaken() error {
	for {
		switch {
		case len(p.data) == 0:
			return nil
		case p.failed != nil:
			return p.failed
		case p.writer.passed:
			return os.ErrDeadlineExceeded
		}
		p.change.Wait()
	}
}

// finish sets the error that the reader gets after everything that was written. The writer calls
// it.
func (p *pipe) finish(err error) {
	p.set(func() { p.finished = err })
}

// leave says that nobody reads any more. It does not say why, so a writer waits until fail gives
// the reason.
func (p *pipe) leave() {
	p.set(func() { p.left = true })
}

// fail ends both directions at once. Only the first error counts.
func (p *pipe) fail(err error) {
	p.set(func() {
		if p.failed == nil {
			p.failed = err
		}
		p.reader.stop()
		p.writer.stop()
	})
}

// set makes a change and wakes both ends.
func (p *pipe) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.change.Broadcast()
}

// setDeadline sets d to t; the zero time means no deadline.
func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.stop()
	d.passed = false
	wait := time.Until(t)
	switch {
	case t.IsZero() || p.failed != nil:
	case wait <= 0:
		d.passed = true
		p.change.Broadcast()
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			p.set(func() { d.passed = d.passed || d.timer == timer })
		})
		d.timer = timer
	}
}

// stop stops the timer. The caller holds pipe.mu.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
