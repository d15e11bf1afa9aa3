package tunnel

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxAcceptDelay bounds the wait after a failed accept: without file descriptors a listener tries again until some are free.
	maxAcceptDelay = time.Second

	// sayAcceptEvery is how often such a failure is said aloud.
	sayAcceptEvery = 10 * time.Second
)

// A porch accepts connections, whoever serves them: one HTTP server until the gateway drains, and then another one, which tells those who come
// anew. net/http would close the listener with the first.
type porch struct {
	ln     net.Listener
	log    *slog.Logger
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPorch(ln net.Listener, log *slog.Logger) *porch {
	return &porch{ln: ln, log: log, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// run accepts until the listener is closed.
func (p *porch) run() {
	defer p.close()
	delay := time.Duration(0)
	said := time.Time{}
	for {
		c, err := p.ln.Accept()
		if err == nil {
			delay = 0
			p.pass(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if time.Since(said) >= sayAcceptEvery {
			said = time.Now()
			p.log.Warn("accept failed, trying again", "listener", p.ln.Addr(), "err", err)
		}
		delay = min(max(5*time.Millisecond, 2*delay), maxAcceptDelay)
		select {
		case <-time.After(delay):
		case <-p.closed:
			return
		}
	}
}

func (p *porch) pass(c net.Conn) {
	select {
	case p.conns <- c:
	case <-p.closed:
		c.Close()
	}
}

func (p *porch) close() {
	p.once.Do(func() {
		close(p.closed)
		p.ln.Close()
	})
}

// door is the listener of one server. To close it closes nobody else's.
func (p *porch) door() net.Listener { return &door{porch: p, shut: make(chan struct{})} }

type door struct {
	*porch
	shut chan struct{}
	once sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.shut:
	case <-d.closed:
	}
	return nil, net.ErrClosed
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.shut) })
	return nil
}

func (d *door) Addr() net.Addr { return d.ln.Addr() }
