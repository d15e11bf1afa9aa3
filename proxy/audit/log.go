package audit

import (
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

const (
	// maxQueued is how many bytes of lines wait for the file: some 8,000 lines.
	maxQueued = 4 << 20
	// closeTimeout bounds how long Close waits until the file has taken everything. A gateway must
	// end in time, and a disk may never answer.
	closeTimeout = time.Second
	// retryFirst and retryMost are the shortest and the longest wait after a write that failed.
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// rates bound the lines of an event that is cheap to cause, so that nobody fills the disk by being
// refused: these many in a second, after as many at once as of ten seconds. An event that is missing
// has no bound.
var rates = map[Event]float64{ConnectionRefused: 10, LoginRefused: 10, StreamRefused: 100}

// Counts are told what becomes of lines. They are called concurrently, and must not block.
type Counts struct {
	Written func()          // the file has taken a line
	Lost    func(lines int) // the file did not take lines in time
	Omitted func()          // a line was left out, because there were too many of its event
}

// A Log is an audit log. Make it with [Open]. Its methods may be called concurrently; of a nil Log
// they do nothing.
type Log struct {
	out    output
	counts Counts
	log    *slog.Logger

	more    chan struct{} // has an element if something was queued or closing was set
	closing chan struct{}
	done    chan struct{} // closed when nothing more is written
	failing bool          // owned by run: a write has failed since the queue was last empty

	mu     sync.Mutex
	queue  [][]byte
	bytes  int // in queue, and in the line that is being written
	lost   int // lines since the file last took everything
	closed bool
	rates  map[Event]*rate
}

// output is where lines go.
type output interface {
	// write writes a line as a whole. It may be called again with the same line after an error.
	write(line []byte) error
	close() error
}

// Open opens an audit log that appends to the file at path, or writes to stdout if path is "-". The
// error is of opening the file. The caller calls Close.
func Open(path string, counts Counts, log *slog.Logger) (*Log, error) {
	out, err := openOutput(path)
	if err != nil {
		return nil, err
	}
	return start(out, counts, log), nil
}

func start(out output, counts Counts, log *slog.Logger) *Log {
	l := &Log{
		out: out, counts: counts, log: log, rates: make(map[Event]*rate),
		more: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	for event, perSecond := range rates {
		l.rates[event] = &rate{perSecond: perSecond, burst: 10 * perSecond, tokens: 10 * perSecond, at: time.Now()}
	}
	go l.run()
	return l
}

// Add queues a line. It never blocks.
func (l *Log) Add(r Record) {
	if l == nil {
		return
	}
	r.Time = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit := l.rates[r.Event]; limit != nil {
		if !limit.take(r.Time) {
			l.counts.Omitted()
			return
		}
		r.Omitted, limit.omitted = limit.omitted, 0
	}
	line := r.line()
	if l.closed || l.bytes+len(line) > maxQueued {
		l.lose(1)
		return
	}
	l.queue = append(l.queue, line)
	l.bytes += len(line)
	l.wake()
}

// wake makes run look at the queue. The caller holds mu.
func (l *Log) wake() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// lose counts lines that will not be written, and logs the first ones. The caller holds mu.
func (l *Log) lose(lines int) {
	if lines == 0 {
		return
	}
	l.counts.Lost(lines)
	if l.lost += lines; l.lost == lines {
		l.log.Error("audit lines are lost: the audit log does not take them in time", "queued", len(l.queue), "hint", "is its disk full or slow, or does nobody read its pipe?")
	}
}

// run writes lines until Close.
func (l *Log) run() {
	defer close(l.done)
	for {
		line, ok := l.next()
		if !ok {
			return
		}
		l.write(line)
	}
}

// next waits for the next line. It returns false when the log is closed and everything is written.
func (l *Log) next() (line []byte, ok bool) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			line, l.queue = l.queue[0], l.queue[1:]
			l.mu.Unlock()
			return line, true
		}
		l.queue = nil // frees the array
		lost, closed := l.lost, l.closed
		l.lost = 0
		l.mu.Unlock()
		if l.failing || lost > 0 {
			l.failing = false
			l.log.Info("audit log takes lines again", "lost", lost)
		}
		if closed {
			return nil, false
		}
		<-l.more
	}
}

// write writes a line, and tries again until that works or the log is closed.
func (l *Log) write(line []byte) {
	defer l.free(len(line))
	for tries := 0; ; tries++ {
		err := l.out.write(line)
		if err == nil {
			l.counts.Written()
			return
		}
		if !l.failing {
			l.failing = true
			l.log.Error("audit log cannot be written, its lines wait", "err", err)
		}
		select {
		case <-time.After(backoff.Delay(tries, retryFirst, retryMost)):
		case <-l.closing:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lose(1)
			return
		}
	}
}

// free makes room for n bytes.
func (l *Log) free(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes -= n
}

// Close writes what is queued, for a second at most, and closes the file. Lines that are added later
// are lost.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	l.wake()
	l.mu.Unlock()
	late := time.NewTimer(closeTimeout)
	defer late.Stop()
	select {
	case <-l.done:
		return l.out.close()
	case <-late.C:
	}
	close(l.closing) // ends the waits between tries; a write that blocks is left alone
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose(len(l.queue))
	l.queue = nil
	return nil
}

// A rate bounds how often something may happen.
type rate struct {
	perSecond, burst, tokens float64
	at                       time.Time // of tokens
	omitted                  int       // how often it has not happened since it last did
}

// take reports whether it may happen now.
func (r *rate) take(now time.Time) bool {
	r.tokens = min(r.burst, r.tokens+r.perSecond*now.Sub(r.at).Seconds())
	r.at = now
	if r.tokens < 1 {
		r.omitted++
		return false
	}
	r.tokens--
	return true
}
