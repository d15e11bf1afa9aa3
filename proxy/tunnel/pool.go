package tunnel

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// A pool makes the streams of one transport, and has some of what they need ready beforehand.
type pool interface {
	// take makes a stream; open is its OPEN capsule, which leaves with the first write. Unless fresh is wanted, it takes what is ready, and
	// says so: whether the gateway is still behind that is not known.
	take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error)
	// fill makes as much ready as n new streams need, and keeps no more of it for long.
	fill(ctx context.Context, n int) error
	// drop keeps new streams off all that is there now. Those that are open go on.
	drop()
	close() error
}

// wsPool has upgraded sockets, on which no OPEN was sent, as spares. Both ends send KEEPALIVEs on them.
type wsPool struct {
	d *Dialer

	mu     sync.Mutex
	spares []*spare
	full   time.Time // until then the gateway is not asked to hold more
	tasks  sync.WaitGroup
}

// whileFull is how long an agent whose spare the gateway refused for a limit makes no more: each costs a handshake, and streams go without.
const whileFull = time.Minute

// A spare is a stream without OPEN. Its goroutine reads until it is taken, so that it is known to be alive or gone.
type spare struct {
	*Conn
	over chan struct{} // closed when nothing reads any more
	err  error         // valid after over: why; a timeout if it was taken
}

func (p *wsPool) take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	for !fresh {
		s := p.pop()
		if s == nil {
			break
		}
		if s.use(open) {
			return s.Conn, true, nil
		}
		s.Close()
	}
	x, err := p.d.dialWS(ctx)
	if err != nil {
		return nil, false, err
	}
	c, err = p.d.newStream(x, open)
	return c, false, err
}

// pop takes the spare that was made last: the others are more likely to be dead.
func (p *wsPool) pop() *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.spares)
	if n == 0 {
		return nil
	}
	s := p.spares[n-1]
	p.spares = p.spares[:n-1]
	return s
}

func (p *wsPool) fill(ctx context.Context, n int) error {
	for range n { // and not until there are n: they may die as fast as they are made
		p.mu.Lock()
		enough := len(p.spares) >= n || time.Now().Before(p.full)
		p.mu.Unlock()
		if enough {
			return nil
		}
		c, err := p.d.dialFresh(ctx, TransportWS, nil)
		if err != nil {
			return err
		}
		p.add(c)
	}
	return nil
}

func (p *wsPool) add(c *Conn) {
	s := &spare{Conn: c, over: make(chan struct{})}
	p.mu.Lock()
	p.spares = append(p.spares, s)
	p.mu.Unlock()
	p.tasks.Go(func() { p.watch(s) })
}

// watch reads from a spare, for which only KEEPALIVEs can come, until it is taken or gone.
func (p *wsPool) watch(s *spare) {
	start := time.Now()
	s.err = s.keepReady()
	close(s.over)
	if isTimeout(s.err) {
		return
	}
	p.mu.Lock()
	p.spares = slices.DeleteFunc(p.spares, func(other *spare) bool { return other == s })
	if e, ok := errors.AsType[*Error](s.err); ok && e.Code == CodeLimit {
		p.full = time.Now().Add(whileFull)
	}
	p.mu.Unlock()
	s.Close()
	if time.Since(start) > p.d.t.spares {
		p.d.wantSpares()
	}
}

// use makes a stream of a spare, and reports whether it was alive.
func (s *spare) use(open []byte) bool {
	s.x.SetReadDeadline(aLongTimeAgo)
	<-s.over
	if !isTimeout(s.err) || s.silent() > s.t.stale || s.setOpen(open) != nil {
		return false
	}
	return s.SetReadDeadline(noDeadline) == nil
}

func (p *wsPool) drop() {
	p.mu.Lock()
	dropped := p.spares
	p.spares = nil
	p.mu.Unlock()
	for _, s := range dropped {
		s.Close()
	}
}

func (p *wsPool) close() error {
	p.drop()
	p.tasks.Wait()
	return nil
}

// errSpareAnswered says that something came on a spare that has no place there.
var errSpareAnswered = errors.New("an answer where nothing was asked")

// keepReady says with a KEEPALIVE that this stream's OPEN comes later, and then reads until something ends that: a timeout when the read
// deadline was set to the past.
func (c *Conn) keepReady() error {
	c.wlock <- struct{}{}
	_, err := c.writeCapsule(capsuleKeepalive, nil)
	c.unlockWrite()
	if err != nil {
		return err
	}
	c.rlock <- struct{}{}
	defer c.unlockRead()
	if err := c.readOpened(); err != nil {
		return err
	}
	return errSpareAnswered
}

// setOpen gives a spare its OPEN, which leaves with the first write.
func (c *Conn) setOpen(open []byte) error {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	if c.ended.Load() {
		return net.ErrClosed
	}
	c.openOut = open
	return nil
}
