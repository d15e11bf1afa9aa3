package main

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// maxUnwritten is how many bytes wait for stderr, some 4000 lines of a log. What comes beyond
	// that is dropped.
	maxUnwritten = 1 << 20
	// flushTimeout bounds how long the end of the process waits until stderr has taken everything.
	flushTimeout = time.Second
)

// queuedWriter makes nobody wait for w: whoever logs usually carries a connection, and a terminal, a
// pipe or a disk may stop taking lines at any time. Writes are queued, and a goroutine
// writes them to w in order. Those that w does not take are dropped and counted.
type queuedWriter struct {
	w io.Writer

	mu        sync.Mutex
	onDropped func(lines int) // writes to w how many lines are missing; nil: nothing does
	beside    func(func())    // has a line written beside something else on the same terminal; nil: there is nothing
	queue     []queuedLine
	bytes     int           // in queue, and in the line that w is being given
	dropped   int           // lines since the last one in queue
	idle      chan struct{} // closed when the queue is empty; nil: it is

	// Owned by writeAll.
	failing bool // w did not take the last line
	missing int  // lines that onDropped has not been told of
}

type queuedLine struct {
	text          []byte // nil: there is none behind those that were dropped
	droppedBefore int
}

// Write queues a copy of line. It never blocks and never fails.
func (q *queuedWriter) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(line) > maxUnwritten {
		q.dropped++
		return len(line), nil
	}
	q.queue = append(q.queue, queuedLine{bytes.Clone(line), q.dropped})
	q.bytes += len(line)
	q.dropped = 0
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.writeAll(q.idle)
	}
	return len(line), nil
}

// writeAll writes until the queue is empty, and then closes idle.
func (q *queuedWriter) writeAll(idle chan<- struct{}) {
	defer close(idle)
	for {
		line, ok := q.next()
		if !ok {
			return
		}
		q.missing += line.droppedBefore
		q.reportMissing()
		if line.text == nil {
			continue
		}
		err := q.write(line.text)
		if q.failing = err != nil; q.failing {
			q.missing++
		}
		q.reportMissing()
		q.free(len(line.text))
	}
}

// write writes a line to w.
func (q *queuedWriter) write(line []byte) (err error) {
	q.mu.Lock()
	beside := q.beside
	q.mu.Unlock()
	if beside == nil {
		_, err = q.w.Write(line)
		return err
	}
	beside(func() { _, err = q.w.Write(line) })
	return err
}

// next takes the first line off the queue. If there is none, this writeAll is over.
func (q *queuedWriter) next() (line queuedLine, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.queue) > 0:
		line, q.queue = q.queue[0], q.queue[1:]
		return line, true
	case q.dropped > 0:
		line.droppedBefore, q.dropped = q.dropped, 0
		return line, true
	}
	q.queue, q.idle = nil, nil
	return line, false
}

// reportMissing reports the missing lines once w takes lines again.
func (q *queuedWriter) reportMissing() {
	if q.failing || q.missing == 0 {
		return
	}
	q.mu.Lock()
	report := q.onDropped
	q.mu.Unlock()
	if report != nil {
		report(q.missing)
		q.missing = 0
	}
}

// free makes room for n bytes.
func (q *queuedWriter) free(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= n
}

// reportDropped sets what writes the number of missing lines to w.
func (q *queuedWriter) reportDropped(report func(lines int)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.onDropped = report
}

// shareTerminal sets what has a line written beside something else on the same terminal.
func (q *queuedWriter) shareTerminal(beside func(write func())) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.beside = beside
}

// flush waits until everything has been written, at most for flushTimeout.
func (q *queuedWriter) flush() {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(flushTimeout):
	}
}
