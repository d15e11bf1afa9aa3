package tunnel

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

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
	x         exchange.Exchange
	transport string
	t         timing
	dialling  bool   // this is the agent's end
	done      func() // called once, when the exchange is over

	opened chan struct{} // closed when OPEN or OPENED has come
	openIn Open          // at the gateway's end; set before opened is closed
	answer Opened        // at the agent's end; set before opened is closed

	reading reading
	writing writing
	ending  ending
}

// reading is what a Conn knows of the direction that it reads.
type reading struct {
	lock     chan struct{} // holds a token while somebody reads; a channel, for it is held across I/O
	dec      decoder       // guarded by lock
	err      error         // guarded by lock: what Read returns from now on
	onTicket func(Ticket)

	waiting atomic.Int64 // the clock when Read began to wait, or 0
	final   atomic.Bool  // the peer's FINAL_DATA was read
}

// writing is what a Conn knows of the direction that it writes.
type writing struct {
	lock chan struct{} // as reading.lock
	open []byte        // guarded by lock: the OPEN capsule, until it is sent
	err  error         // guarded by lock: what Write returns from now on

	openSent atomic.Bool
	final    atomic.Bool  // FINAL_DATA is sent
	last     atomic.Int64 // the clock of the last write
	by       atomic.Int64 // write deadline in Unix nanoseconds, or 0
}

// ending is how a Conn comes to its end.
type ending struct {
	told atomic.Bool // the peer has sent ERROR
	cut  atomic.Bool // the exchange ended without FINAL_DATA and without ERROR
	over atomic.Bool // cause is set
	once sync.Once   // of done

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
	noDeadline     time.Time
)

// newConn makes a stream of an exchange at the gateway's end. It calls done once, when the exchange is over, which may be after Close.
func newConn(x exchange.Exchange, transport string, t timing, done func()) *Conn {
	c := makeConn(x, transport, t, done)
	c.writing.openSent.Store(true)
	c.start()
	return c
}

// newDialled is newConn for the dialling end. open is the OPEN capsule, nil for a spare.
func newDialled(x exchange.Exchange, transport string, t timing, open []byte, done func()) *Conn {
	c := makeConn(x, transport, t, done)
	c.dialling, c.writing.open = true, open
	c.start()
	return c
}

func makeConn(x exchange.Exchange, transport string, t timing, done func()) *Conn {
	return &Conn{
		x: x, transport: transport, t: t, done: done, opened: make(chan struct{}),
		reading: reading{lock: make(chan struct{}, 1)}, writing: writing{lock: make(chan struct{}, 1)},
	}
}

func (c *Conn) start() {
	c.writing.last.Store(exchange.Clock())
	c.x.OnDirty(c.tickNow)
	c.ending.mu.Lock() // tick waits for the field
	c.ending.timer = time.AfterFunc(c.t.keepalive, c.tick)
	c.ending.mu.Unlock()
}

// silent is how long nothing has come.
func (c *Conn) silent() time.Duration { return time.Duration(exchange.Clock() - c.x.LastByte()) }

// Transport is "h3", "ws" or "h2".
func (c *Conn) Transport() string { return c.transport }

// LocalAddr is that of the carrier.
func (c *Conn) LocalAddr() net.Addr { return c.x.LocalAddr() }

// RemoteAddr is that of the carrier: the gateway's, the ingress's, or the agent's.
func (c *Conn) RemoteAddr() net.Addr { return c.x.RemoteAddr() }

// OnTicket sets who is told of tickets; each comes before the bytes that were written after it. Set it before the first Read, which calls it.
func (c *Conn) OnTicket(f func(Ticket)) { c.reading.onTicket = f }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds this and later Reads. A Read that timed out may be repeated.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	if c.ending.cause != nil {
		return net.ErrClosed
	}
	c.ending.readDeadline = t
	return c.x.SetReadDeadline(t)
}

func (c *Conn) userReadDeadline() time.Time {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	return c.ending.readDeadline
}

// SetWriteDeadline bounds this and later Writes. A Write that timed out may be repeated with the bytes it did not count.
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
		c.ending.timer.Reset(atOnce) // what an earlier deadline left unsent
	}
	return err
}
