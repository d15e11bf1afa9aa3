package exchange

import (
	"bytes"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A pipe stands between a stream, whose calls have deadlines and can be repeated, and an HTTP body, whose calls have neither. The writer's
// bytes are taken straight out of its buffer, so that an idle pipe holds no memory; only what a writer leaves behind that timed out is kept.
// One goroutine reads and one writes.
type pipe struct {
	mu             sync.Mutex
	change         sync.Cond
	data           []byte // offered and not yet taken: on loan from the writer, unless that timed out
	finished       error  // what the reader gets behind data
	failed         error  // what both get at once
	left           bool   // the reader is gone; the writer waits to be told why
	reader, writer deadline

	since atomic.Int64 // the clock when a writer began to wait, or 0
}

// waits is since when a writer waits for its bytes to be taken, by the clock, or 0.
func (p *pipe) waits() int64 { return p.since.Load() }

type deadline struct {
	passed bool
	timer  *time.Timer
}

func newPipe() *pipe {
	p := new(pipe)
	p.change.L = &p.mu
	return p
}

// read takes what is offered. Without wait it says ErrNoMore when there is nothing.
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

// offered waits until there is something to read, and says how much.
func (p *pipe) offered() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.awaitData(true)
	return len(p.data), err
}

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

// write returns when b is taken. When its deadline passes before, it keeps the rest, which will be taken nevertheless.
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

// flush waits until all that was written is taken.
func (p *pipe) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awaitTaken()
}

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

// finish makes err what the reader gets behind all that was written, and is for the writer to call.
func (p *pipe) finish(err error) {
	p.set(func() { p.finished = err })
}

// leave says that nobody reads any more. It does not say why, and a writer waits until fail does.
func (p *pipe) leave() {
	p.set(func() { p.left = true })
}

// fail ends both directions, at once. The first error stays.
func (p *pipe) fail(err error) {
	p.set(func() {
		if p.failed == nil {
			p.failed = err
		}
		p.reader.stop()
		p.writer.stop()
	})
}

func (p *pipe) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.change.Broadcast()
}

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

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
