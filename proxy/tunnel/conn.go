package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// chunkSize is the most that one capsule of ours carries. Larger chunks gain nothing and cost memory per blocked writer.
	chunkSize = 64 << 10

	// headroom is what an exchange may use for its own header in front of the capsules: a WebSocket frame's, or an HTTP/3 frame's.
	headroom = 14

	// frameSize is a chunk with its headers.
	frameSize = headroom + maxCapsuleHeader + chunkSize

	// smallSize is enough for what an idle stream sends, and for most requests.
	smallSize = 2 << 10
)

var (
	framePool = sync.Pool{New: func() any { b := make([]byte, frameSize); return &b }}
	smallPool = sync.Pool{New: func() any { b := make([]byte, smallSize); return &b }}
)

// An exchange is one HTTP exchange as capsules see it: bytes both ways. Read has one caller at a time, and so have Write, Flush and
// CloseWrite together; the rest may be called at any time.
type exchange interface {
	// Read reads bytes of capsules; small reads are cheap. After a timeout it can be called again and nothing is lost.
	Read(p []byte) (int, error)
	// SetWait(false) makes Read say errNoMore rather than wait. For the reader.
	SetWait(bool)
	// Write sends b[headroom:] and may overwrite all of b. After a timeout it has accepted all of it nevertheless, and keeps the rest for
	// the next Flush.
	Write(b []byte) error
	// Flush sends what Write kept, and what the exchange itself has to say (a pong).
	Flush() error
	// Dirty reports whether a Flush is due.
	Dirty() bool
	// OnDirty sets who is told, from within Read, that a Flush is due. To be set before the first Read.
	OnDirty(func())
	// CloseWrite says that no more will be written. It is no half-close, that is FINAL_DATA.
	CloseWrite() error
	// Abort ends both directions at once, also those of blocked calls. It may be called more than once.
	Abort()
	// LastByte is the clock when the last byte came.
	LastByte() int64

	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	Transport() string
}

// timing holds the durations of the wire format, for tests to shorten.
type timing struct {
	keepalive time.Duration // a direction that is idle this long carries a KEEPALIVE
	dead      time.Duration // a Read that waits this long without a byte gives up
	open      time.Duration // a new stream has this long for its OPEN
	reset     time.Duration // how long the peer may take to take the end of a stream
	hello     time.Duration // for all of a hello
	handshake time.Duration // for TCP, TLS and HTTP up to a working exchange
	stagger   time.Duration // auto: how long h3 is alone
	verdict   time.Duration // auto: how long a decision holds
	idle      time.Duration // how long a carrier without streams is kept
}

var defaultTiming = timing{
	keepalive: 15 * time.Second, // a third of the shortest idle limit that ingresses are known to have
	dead:      45 * time.Second,
	open:      10 * time.Second,
	reset:     5 * time.Second,
	hello:     10 * time.Second,
	handshake: 10 * time.Second,
	stagger:   300 * time.Millisecond,
	verdict:   5 * time.Minute,
	idle:      time.Minute,
}

// Conn is one stream, and both ends use it. It is a net.Conn whose methods may be called concurrently, with these particulars:
//
//   - Read returns io.EOF only after the peer's CloseWrite, an *[Error] after the peer's Reset, and [ErrCut] when the exchange ended without
//     either.
//   - A Write that times out has passed on the bytes that it counts, and only those: neither that nor a Read that timed out harms the stream.
//   - Close after CloseWrite leaves the exchange open in the background until the peer has taken everything, for a few seconds. Close
//     without CloseWrite or Reset cuts the stream, and so says the peer's Read.
//   - KEEPALIVEs are sent by themselves. A Read that waited 45 seconds without a byte from the peer, not even a KEEPALIVE, ends the stream.
//     While nobody reads nothing is concluded.
//
// Whoever holds a Conn must Close it, however it ended.
type Conn struct {
	x        exchange
	t        timing
	dialling bool

	rlock    chan struct{} // holds a token while somebody reads; a channel, for it is held across I/O
	dec      decoder       // owned by rlock
	readErr  error         // owned by rlock: what Read says from now on
	onTicket func(Ticket)
	waiting  atomic.Int64 // the clock when Read began to wait, or 0

	opened chan struct{} // closed when OPEN or OPENED has come
	openIn Open          // gateway's end; set before opened is closed
	answer Opened        // dialling end; set before opened is closed

	wlock     chan struct{} // as rlock, for writing
	openOut   []byte        // owned by wlock: the OPEN capsule, until it is sent
	openSent  atomic.Bool
	finalSent atomic.Bool
	writeErr  error        // owned by wlock: what Write says from now on
	lastWrite atomic.Int64 // the clock
	writeBy   atomic.Int64 // write deadline in Unix nanoseconds, or 0

	ended atomic.Bool // cause is set
	once  sync.Once
	done  func() // called once, when the exchange is over

	mu           sync.Mutex
	cause        error // what calls return after the end, as far as this end knows better than the exchange
	closed       bool  // Close was called
	lingering    bool  // linger calls done
	readDeadline time.Time
	timer        *time.Timer // runs tick
}

var _ net.Conn = (*Conn)(nil)

var (
	errFinal       = errors.New("end of FINAL_DATA")
	errWriteClosed = errors.New("write after CloseWrite")
	aLongTimeAgo   = time.Unix(1, 0)
)

// newConn makes a stream of an exchange. At the dialling end open is the OPEN capsule. It calls done once, when the exchange is over, which
// may be after Close.
func newConn(x exchange, t timing, open []byte, done func()) *Conn {
	c := &Conn{
		x: x, t: t, dialling: open != nil, openOut: open, done: done,
		rlock: make(chan struct{}, 1), wlock: make(chan struct{}, 1), opened: make(chan struct{}),
	}
	c.openSent.Store(open == nil)
	c.lastWrite.Store(clock())
	x.OnDirty(c.tickNow)
	c.mu.Lock() // tick waits for the field
	c.timer = time.AfterFunc(t.keepalive, c.tick)
	c.mu.Unlock()
	return c
}

// Transport is "h3" or "ws".
func (c *Conn) Transport() string { return c.x.Transport() }

// LocalAddr is that of the carrier.
func (c *Conn) LocalAddr() net.Addr { return c.x.LocalAddr() }

// RemoteAddr is that of the carrier: the gateway's, the ingress's, or the agent's.
func (c *Conn) RemoteAddr() net.Addr { return c.x.RemoteAddr() }

// OnTicket sets who is told of tickets; each comes before the bytes that were written after it. Set it before the first Read, which calls it.
func (c *Conn) OnTicket(f func(Ticket)) { c.onTicket = f }

// Read waits for one byte, and takes what else is there. The dialling end's first Read sends OPEN, if no Write has.
func (c *Conn) Read(p []byte) (int, error) {
	c.rlock <- struct{}{}
	defer c.unlockRead()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.sendOpen(); err != nil {
		return 0, err
	}
	return c.read(p)
}

func (c *Conn) unlockRead() { <-c.rlock }

// read fills p from as many capsules as are there. It waits for the first byte only.
func (c *Conn) read(p []byte) (n int, err error) {
	if err := c.readable(); err != nil {
		return 0, err
	}
	c.waiting.Store(clock())
	for n < len(p) {
		k, err := c.step(p[n:])
		if n == 0 && k > 0 {
			c.waiting.Store(0)
			c.x.SetWait(false)
		}
		n += k
		if err == nil {
			continue
		}
		err = c.readFailed(err)
		if n > 0 {
			break
		}
		c.waiting.Store(0)
		return 0, err
	}
	c.x.SetWait(true)
	return n, nil
}

// readable reports why nothing can be read any more.
func (c *Conn) readable() error {
	if c.readErr == nil && c.ended.Load() {
		c.readErr = c.endCause()
	}
	return c.readErr
}

// step takes one step through the capsules: a header, or some DATA into p, or a whole JSON value. It uses p as scratch.
func (c *Conn) step(p []byte) (n int, err error) {
	if !c.dec.inValue {
		if err := c.dec.header(c.x); err != nil {
			return 0, err
		}
		if err := c.expect(c.dec.typ); err != nil {
			return 0, err
		}
	}
	switch c.dec.typ {
	case capsuleData:
		n, _, err := c.dec.some(c.x, p)
		return n, err
	case capsuleFinalData:
		n, done, err := c.dec.some(c.x, p)
		if done {
			err = errFinal
		}
		return n, err
	case capsuleOpen, capsuleOpened, capsuleError:
		return 0, c.stepJSON()
	case capsuleTicket:
		if c.dialling {
			return 0, c.stepJSON()
		}
	}
	_, _, err = c.dec.some(c.x, p) // skip
	return 0, err
}

// expect reports as an *Error that a capsule may not come here.
func (c *Conn) expect(t capsuleType) error {
	first := capsuleOpen
	if c.dialling {
		first = capsuleOpened
	}
	switch t {
	case capsuleKeepalive, capsuleError:
		return nil
	case capsuleOpen, capsuleOpened:
		if t != first || c.isOpened() {
			return protocolError("unexpected %s", t)
		}
		return nil
	case capsuleData, capsuleFinalData, capsuleTicket:
		if !c.isOpened() {
			return protocolError("%s before %s", t, first)
		}
		return nil
	}
	if t%2 == 0 {
		return nil
	}
	return protocolError("%s may not be ignored and is not known: this end speaks version %s of the tunnel, the other end %s", t, Version, c.theirVersion())
}

func protocolError(format string, a ...any) *Error {
	return &Error{CodeProtocol, fmt.Sprintf(format, a...)}
}

func (c *Conn) isOpened() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

func (c *Conn) theirVersion() string {
	switch {
	case !c.isOpened():
		return "unknown"
	case c.dialling:
		return c.answer.Version
	default:
		return c.openIn.Version
	}
}

// errRemote is the peer's ERROR, as distinct from an *Error that this end finds.
type errRemote struct{ err *Error }

func (e errRemote) Error() string { return e.err.Error() }

func (c *Conn) stepJSON() error {
	value, err := c.dec.whole(c.x)
	if err != nil {
		return err
	}
	switch t := c.dec.typ; t {
	case capsuleTicket:
		var v Ticket
		if err := decodeJSON(t, value, &v); err != nil {
			return err
		}
		if c.onTicket != nil {
			c.onTicket(v)
		}
		return nil
	case capsuleError:
		v := new(Error)
		if err := decodeJSON(t, value, v); err != nil {
			return err
		}
		return errRemote{v}
	case capsuleOpen:
		err = decodeJSON(t, value, &c.openIn)
	case capsuleOpened:
		err = decodeJSON(t, value, &c.answer)
	}
	if err != nil {
		return err
	}
	theirs := c.openIn.Version
	if c.dialling {
		theirs = c.answer.Version
	}
	if err := checkVersion(theirs); err != nil {
		return err
	}
	close(c.opened)
	return nil
}

func decodeJSON(t capsuleType, value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return protocolError("decode %s: %v", t, err)
	}
	return nil
}

// readFailed turns what ended a step into what Read returns, and draws the consequences for the stream.
func (c *Conn) readFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		c.readErr = cause
		return cause
	}
	if isTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	switch e := err.(type) {
	case errRemote:
		c.readErr = e.err
		c.end(e.err)
		c.x.Abort()
	case *Error:
		c.readErr = e
		c.reset(e, e)
	case *refused:
		c.readErr = e.err
		c.end(e.err)
		c.x.Abort()
	default:
		if err == errFinal {
			c.readErr = io.EOF
			break
		}
		c.readErr = cut(err)
	}
	return c.readErr
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Opened waits for the gateway's answer to OPEN, which it sends if no Write has. Read waits by itself; both may be used at the same time.
// The end of ctx does no harm to the stream.
func (c *Conn) Opened(ctx context.Context) (Opened, error) {
	if c.isOpened() {
		return c.answer, nil
	}
	if ctx.Err() != nil {
		return Opened{}, context.Cause(ctx)
	}
	select {
	case <-c.opened:
		return c.answer, nil
	case <-ctx.Done():
		return Opened{}, context.Cause(ctx)
	case c.rlock <- struct{}{}:
	}
	defer c.unlockRead()
	stop := context.AfterFunc(ctx, func() { c.x.SetReadDeadline(aLongTimeAgo) })
	err := c.sendOpen()
	if err == nil {
		err = c.readOpened()
	}
	if !stop() {
		c.SetReadDeadline(c.userReadDeadline())
	}
	switch {
	case err == nil:
		return c.answer, nil
	case ctx.Err() != nil && isTimeout(err):
		return Opened{}, context.Cause(ctx)
	}
	return Opened{}, err
}

// readOpened reads as far as OPEN or OPENED. The caller holds rlock.
func (c *Conn) readOpened() error {
	scratch := make([]byte, 256)
	c.waiting.Store(clock())
	defer c.waiting.Store(0)
	for !c.isOpened() {
		if err := c.readable(); err != nil {
			return err
		}
		if _, err := c.step(scratch); err != nil {
			return c.readFailed(err)
		}
	}
	return nil
}

// Write passes on p, and blocks as long as the peer does not read. The dialling end's first Write takes OPEN along.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	for n < len(p) {
		chunk := p[n:min(n+chunkSize, len(p))]
		accepted, err := c.writeCapsule(capsuleData, chunk)
		if accepted {
			n += len(chunk)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *Conn) unlockWrite() {
	<-c.wlock
	if c.x.Dirty() {
		c.tickNow()
	}
}

// CloseWrite sends FINAL_DATA: the peer reads io.EOF behind the bytes written so far. The other direction goes on.
func (c *Conn) CloseWrite() error {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	accepted, err := c.writeCapsule(capsuleFinalData, nil)
	if accepted {
		c.finalSent.Store(true)
	}
	return err
}

// SendTicket gives the dialling end a ticket, before what is written after it.
func (c *Conn) SendTicket(t Ticket) error { return c.writeJSON(capsuleTicket, t) }

func (c *Conn) writeJSON(t capsuleType, v any) error {
	value, err := encodeJSON(t, v)
	if err != nil {
		return err
	}
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	_, err = c.writeCapsule(t, value)
	return err
}

// sendOpen makes sure that OPEN is on its way.
func (c *Conn) sendOpen() error {
	if c.openSent.Load() {
		return nil
	}
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	if c.openSent.Load() {
		return nil
	}
	_, err := c.writeCapsule(noCapsule, nil)
	return err
}

// noCapsule makes writeCapsule send nothing but OPEN.
const noCapsule capsuleType = 0

// writeCapsule sends one capsule, with OPEN before it if that is due. The caller holds wlock. The capsule is accepted, and needs not be
// written again, even if err is a timeout that came while it was being sent.
func (c *Conn) writeCapsule(t capsuleType, value []byte) (accepted bool, err error) {
	if err := c.writable(); err != nil {
		return false, err
	}
	if err := c.x.Flush(); err != nil {
		return false, c.writeFailed(err)
	}
	if err := c.writeFrame(t, value); err != nil {
		return isTimeout(err), c.writeFailed(err)
	}
	return true, nil
}

// writable reports why nothing can be written any more, or just now.
func (c *Conn) writable() error {
	if c.ended.Load() {
		return c.endCause()
	}
	if c.writeErr != nil {
		return c.writeErr
	}
	if c.finalSent.Load() {
		return errWriteClosed
	}
	if by := c.writeBy.Load(); by != 0 && time.Now().UnixNano() >= by {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) writeFrame(t capsuleType, value []byte) error {
	pool := &framePool
	if headroom+len(c.openOut)+maxCapsuleHeader+len(value) <= smallSize {
		pool = &smallPool
	}
	f := pool.Get().(*[]byte)
	defer pool.Put(f)
	b := (*f)[:headroom]
	if c.openOut != nil {
		b = append(b, c.openOut...)
		c.openOut = nil
		c.openSent.Store(true)
	}
	if t != noCapsule {
		b = appendCapsule(b, t, value)
	}
	err := c.x.Write(b)
	c.lastWrite.Store(clock())
	return err
}

func (c *Conn) writeFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		return cause
	}
	if isTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	c.writeErr = cut(err)
	return c.writeErr
}

// Reset ends the stream with an ERROR, which the peer reads behind all bytes written so far. It takes some seconds at most; if the peer has
// not taken it by then, the exchange is aborted and the peer reads ErrCut.
func (c *Conn) Reset(e *Error) error { return c.reset(e, net.ErrClosed) }

// reset is Reset; cause is what calls of this end return from now on.
func (c *Conn) reset(e *Error, cause error) error {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return c.endCause()
	}
	c.endLocked(cause)
	c.lingering = true
	c.mu.Unlock()
	c.x.SetReadDeadline(aLongTimeAgo)
	c.x.SetWriteDeadline(time.Now().Add(c.t.reset))
	if err := c.writeError(e); err != nil {
		c.over()
		return fmt.Errorf("reset stream: %w", err)
	}
	go c.linger(c.t.reset, false)
	return nil
}

func (c *Conn) writeError(e *Error) error {
	value, err := encodeJSON(capsuleError, e)
	if err != nil {
		return err
	}
	outlast(c.wlock)
	if !c.openSent.Load() {
		return nil // the peer knows nothing of this stream
	}
	if err := c.x.Flush(); err != nil {
		return err
	}
	return c.writeFrame(capsuleError, value)
}

// Close frees what the stream holds. Behind a CloseWrite the peer still gets everything; otherwise the stream is cut.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	complete := c.cause == nil && c.finalSent.Load()
	c.endLocked(net.ErrClosed)
	lingering := c.lingering
	c.lingering = lingering || complete
	c.mu.Unlock()
	switch {
	case lingering:
	case complete:
		c.x.SetReadDeadline(aLongTimeAgo)
		c.x.SetWriteDeadline(time.Time{})
		go c.linger(c.t.dead, true)
	default:
		c.over()
	}
	return nil
}

// linger sees to it that the peer gets what was written last. To close a TCP connection while bytes of the peer come in, if only a KEEPALIVE,
// would make the kernel reset it, and the peer's kernel throw away what its process has not read. So the dialling end says that it is done,
// the gateway's end answers that it is done too, and both read, to discard, until they see it. They wait as long as the peer shows life: it
// may be a client that reads slowly. After a Reset they wait for timing.reset.
func (c *Conn) linger(patience time.Duration, renew bool) {
	defer c.over()
	if c.dialling && !c.lastWords() {
		return
	}
	c.discard(patience, renew)
	if !c.dialling {
		c.lastWords()
	}
}

func (c *Conn) discard(patience time.Duration, renew bool) {
	outlast(c.rlock)
	scratch := make([]byte, 1024)
	c.x.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, err := c.x.Read(scratch); err != nil {
			return
		}
		if renew {
			c.x.SetReadDeadline(time.Now().Add(patience))
		}
	}
}

func (c *Conn) lastWords() bool {
	outlast(c.wlock)
	return c.x.Flush() == nil && c.x.CloseWrite() == nil
}

// outlast waits until nobody is in a call that holds lock. After the end of the stream nobody gets further than to see that, so that the
// exchange is then the caller's; and nobody has to wait for the caller.
func outlast(lock chan struct{}) {
	lock <- struct{}{}
	<-lock
}

// over ends the exchange.
func (c *Conn) over() {
	c.x.Abort()
	c.once.Do(c.done)
}

// end settles why the stream is over, unless that is settled.
func (c *Conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(cause)
}

func (c *Conn) endLocked(cause error) {
	if c.cause == nil {
		c.cause = cause
		c.ended.Store(true)
		c.timer.Stop()
	}
}

func (c *Conn) endCause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds this and later Reads. A Read that timed out may be repeated.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return net.ErrClosed
	}
	c.readDeadline = t
	return c.x.SetReadDeadline(t)
}

func (c *Conn) userReadDeadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readDeadline
}

// SetWriteDeadline bounds this and later Writes. A Write that timed out may be repeated with the bytes it did not count.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return net.ErrClosed
	}
	by := int64(0)
	if !t.IsZero() {
		by = t.UnixNano()
	}
	c.writeBy.Store(by)
	err := c.x.SetWriteDeadline(t)
	if c.x.Dirty() {
		c.timer.Reset(0) // what an earlier deadline left unsent
	}
	return err
}
