package tunnel

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Conn is one stream; both ends use it. It is a net.Conn whose methods may be called concurrently,
// with these particulars:
//
//   - Read returns io.EOF only after the peer's CloseWrite, an *[Error] after the peer's Reset, and
//     [ErrCut] if the exchange ended with neither.
//   - A Write that times out has sent, or will send, exactly the bytes that it counts. Neither a
//     Write nor a Read that times out harms the stream.
//   - Close after CloseWrite keeps the exchange open in the background until the peer has read
//     everything, for some seconds. Close without CloseWrite or Reset cuts the stream, and the
//     peer's Read returns ErrCut.
//   - KEEPALIVEs are sent automatically. A Read that waits 45 seconds without a byte from the peer,
//     not even a KEEPALIVE, ends the stream. While nobody reads, silence has no consequences,
//     because back-pressure may be its reason.
//
// Whoever holds a Conn must Close it, however it ended.
type Conn struct {
	x         exchange.Exchange
	transport string
	t         *timing // of all streams
	dialling  bool    // true at the agent's end
	done      func()  // called once, when the exchange is over

	opened chan struct{} // closed when OPEN or OPENED has arrived
	openIn Open          // at the gateway's end; valid once opened is closed
	answer Opened        // at the agent's end; valid once opened is closed

	reading reading
	writing writing
	times   timesOut
	flow    flow
	ending  ending
}

// reading is the state of the direction that a Conn reads.
type reading struct {
	// Holds a token while somebody reads; a channel and not a mutex, because it is held across I/O.
	lock     chan struct{}
	dec      decoder // guarded by lock
	err      error   // guarded by lock: what every later Read returns
	notice   *Error  // guarded by lock: the last NOTICE; nil if there was none
	onTicket func(Ticket)
	onTimes  func(Times)

	waiting atomic.Int64 // exchange.Clock when Read began to wait, or 0
	bytes   atomic.Int64 // that Read has returned
	final   atomic.Bool  // FINAL_DATA has been read
}

// writing is the state of the direction that a Conn writes.
type writing struct {
	lock chan struct{} // like reading.lock
	open []byte        // guarded by lock: the OPEN capsule until it is sent
	err  error         // guarded by lock: what every later Write returns

	openSent atomic.Bool
	final    atomic.Bool  // FINAL_DATA has been sent
	bytes    atomic.Int64 // that Write has accepted
	last     atomic.Int64 // exchange.Clock of the last write
	by       atomic.Int64 // write deadline in Unix nanoseconds, or 0
}

// ending is how a Conn has ended, or is about to end.
type ending struct {
	gotError atomic.Bool // the peer sent ERROR
	cut      atomic.Bool // the exchange ended with neither FINAL_DATA nor ERROR
	over     atomic.Bool // cause is set; read without mu
	once     sync.Once   // of done

	mu           sync.Mutex
	cause        error // what calls return after the end, if this end knows it better than the exchange
	closed       bool  // Close was called
	lingering    bool  // linger will call done
	readDeadline time.Time
	timer        *time.Timer // runs tick
	wake         int64       // exchange.Clock when it does
}

var _ net.Conn = (*Conn)(nil)

var (
	errFinal       = errors.New("end of FINAL_DATA")
	errWriteClosed = errors.New("write after CloseWrite")
	aLongTimeAgo   = time.Unix(1, 0)
	noDeadline     time.Time
)

// newServed makes the gateway's end of a stream over x. done is called once, when the exchange is
// over, which may be after Close.
func newServed(x exchange.Exchange, transport string, t *timing, done func()) *Conn {
	c := makeConn(x, transport, t, done)
	c.writing.openSent.Store(true)
	c.start()
	return c
}

// newDialled makes the agent's end, like newServed. open is the OPEN capsule, nil for a spare.
// watch may be nil.
func newDialled(x exchange.Exchange, transport string, t *timing, open []byte, watch *flowWatch, done func()) *Conn {
	c := makeConn(x, transport, t, done)
	c.dialling, c.writing.open = true, open
	if watch != nil {
		c.flow.watch, c.flow.all = watch, watch.moved[transport]
	}
	c.start()
	return c
}

// makeConn returns a Conn that has not started.
func makeConn(x exchange.Exchange, transport string, t *timing, done func()) *Conn {
	return &Conn{
		x: x, transport: transport, t: t, done: done, opened: make(chan struct{}),
		reading: reading{lock: make(chan struct{}, 1)}, writing: writing{lock: make(chan struct{}, 1)},
	}
}

// start begins to send KEEPALIVEs. The Conn must be complete by then, because tick may run at once.
func (c *Conn) start() {
	c.writing.last.Store(exchange.Clock())
	c.times.last.Store(exchange.Clock())
	c.x.OnDirty(c.tickNow)
	c.ending.mu.Lock() // tick reads the timer field under mu
	c.ending.timer = time.AfterFunc(c.t.keepalive, c.tick)
	c.ending.wake = exchange.Clock() + int64(c.t.keepalive)
	c.ending.mu.Unlock()
}

// silent returns how long nothing has arrived.
func (c *Conn) silent() time.Duration { return time.Duration(exchange.Clock() - c.x.LastByte()) }

// Transport returns the name of the transport that carries the stream: see [Transports].
func (c *Conn) Transport() string { return c.transport }

// Instance returns which process of a gateway answered a stream that [Dialer.Dial] has opened, in
// its own words; "" if it does not say.
func (c *Conn) Instance() string {
	select {
	case <-c.opened:
		return c.answer.Instance
	default:
		return ""
	}
}

// LocalAddr returns the local address of the carrier.
func (c *Conn) LocalAddr() net.Addr { return c.x.LocalAddr() }

// RemoteAddr returns the remote address of the carrier. Behind an ingress that is the ingress and
// not the other end of the stream.
func (c *Conn) RemoteAddr() net.Addr { return c.x.RemoteAddr() }

// Moved returns how many bytes Read has returned and Write has accepted so far.
func (c *Conn) Moved() (read, written int64) { return c.reading.bytes.Load(), c.writing.bytes.Load() }

// OnTicket sets the function that Read calls for each ticket, before it returns any bytes written
// after the ticket. Call it before the first Read.
func (c *Conn) OnTicket(f func(Ticket)) { c.reading.onTicket = f }

// Notice returns what the gateway has said about the end that Read has met, or nil.
func (c *Conn) Notice() *Error {
	c.reading.lock <- struct{}{}
	defer c.unlockRead()
	return c.reading.notice
}

// SetDeadline sets the read and the write deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds current and later Reads. A Read that timed out may be repeated.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	if c.ending.cause != nil {
		return net.ErrClosed
	}
	c.ending.readDeadline = t
	return c.x.SetReadDeadline(t)
}

// userReadDeadline returns the deadline that the user of the Conn set, after Opened has set
// another.
func (c *Conn) userReadDeadline() time.Time {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	return c.ending.readDeadline
}

// SetWriteDeadline bounds current and later Writes. A Write that timed out may be repeated with the
// bytes that it did not count.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	if c.ending.cause != nil {
		return net.ErrClosed
	}
	by := int64(0)
	if !t.IsZero() {
		by = t.UnixNano()
	}
	c.writing.by.Store(by)
	err := c.x.SetWriteDeadline(t)
	if c.x.Dirty() {
		c.setTimerLocked(atOnce) // send what an earlier deadline left unsent
	}
	return err
}

// tickNow runs tick soon, on a goroutine of its own.
func (c *Conn) tickNow() {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	c.setTimerLocked(atOnce)
}

// tickBy has tick run at an exchange.Clock, unless it runs before.
func (c *Conn) tickBy(at int64) {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	if at < c.ending.wake {
		c.setTimerLocked(max(atOnce, time.Duration(at-exchange.Clock())))
	}
}

// setTimerLocked sets the time of the next tick, unless the stream has ended. The caller holds
// ending.mu.
func (c *Conn) setTimerLocked(d time.Duration) {
	if c.ending.cause == nil {
		c.ending.wake = exchange.Clock() + int64(d)
		c.ending.timer.Reset(d)
	}
}

// end sets the cause of the end, unless there is one already.
func (c *Conn) end(cause error) {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	c.endLocked(cause)
}

// endLocked is end; the caller holds ending.mu.
func (c *Conn) endLocked(cause error) {
	if c.ending.cause == nil {
		c.ending.cause = cause
		c.ending.over.Store(true)
		c.ending.timer.Stop()
	}
}

// endCause returns the cause of the end, or nil while the stream is in use.
func (c *Conn) endCause() error {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	return c.ending.cause
}
