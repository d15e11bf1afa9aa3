package tunnel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// maxEcho is the most that the gateway echoes in one hello, in bytes.
const maxEcho = 1 << 20

// A streamServer serves the streams of a Server once their requests have authenticated, whatever
// their transport. The Server provides its functions.
type streamServer struct {
	registry *registry
	limiter  *limiter
	t        timing
	log      *slog.Logger

	serve   func(context.Context, *Conn, *Open, *Peer)
	judge   func() func(grant any) error
	opened  func() Opened
	tickets func() []Ticket
	onLimit func(Limit, *Error, Peer)
}

// begin serves the stream of x on a goroutine of its own. Over h3 and ws the goroutine of the
// request can then return, which frees its buffers.
func (s *streamServer) begin(x exchange.Exchange, p Peer) {
	if c := s.registry.newStream(x, p.Transport); c != nil {
		go s.serveStream(c, &p)
	}
}

// serveStream owns c: it waits for OPEN, applies the limits, answers, and then has the Server's
// Serve called, by another goroutine. A goroutine keeps the stack that its deepest call has needed
// for as long as it lives, and decoding and encoding JSON needs more than relaying bytes.
func (s *streamServer) serveStream(c *Conn, p *Peer) {
	s.registry.serving.Add(1)
	var leave func()
	defer func() {
		if leave == nil {
			s.over(c, p, recover())
		}
	}()
	if leave = s.open(c, p); leave != nil {
		go s.serveOpened(c, p, leave)
	}
}

// serveOpened serves a stream that has been admitted until it ends.
func (s *streamServer) serveOpened(c *Conn, p *Peer, leave func()) {
	defer func() {
		v := recover()
		leave()
		s.over(c, p, v)
	}()
	s.serve(s.registry.ctx, c, &c.openIn, p)
}

// over closes a stream that nothing serves any more. panicked is what recover has returned.
func (s *streamServer) over(c *Conn, p *Peer, panicked any) {
	defer s.registry.served.Done()
	defer s.registry.serving.Add(-1)
	defer c.Close()
	if panicked != nil {
		s.logger(p).Error("stream panicked", "err", panicked, "stack", string(debug.Stack()))
		c.Reset(&Error{Code: CodeInternal, Message: "the gateway hit a bug; its log has the details"})
	}
}

// logger returns the log with what is known about the agent.
func (s *streamServer) logger(p *Peer) *slog.Logger {
	return s.log.With("transport", p.Transport, "agent_addr", p.Addr, "identity", p.Identity)
}

// open waits for OPEN, applies the limits and answers. It answers a hello to its end. It returns nil
// if the stream needs nothing more; otherwise the caller calls leave when the stream ends.
func (s *streamServer) open(c *Conn, p *Peer) (leave func()) {
	if err := s.awaitOpen(c, *p); err != nil {
		s.logger(p).Debug("stream not opened", "err", err)
		return nil
	}
	free, err := s.admit(c, *p)
	if err != nil {
		s.logger(p).Debug("stream refused", "err", err)
		return nil
	}
	defer func() {
		if leave == nil { // after a panic too
			free()
		}
	}()
	if err := s.answer(c); err != nil {
		s.logger(p).Debug("OPEN not answered", "err", err)
		return nil
	}
	if c.openIn.Target == TargetHello {
		err := s.hello(c)
		s.logger(p).Debug("hello answered", "err", err)
		return nil
	}
	return free
}

// awaitOpen waits for OPEN, at most timing.open. If a KEEPALIVE comes first, the stream is a spare:
// it may wait for its OPEN without limit, as long as its agent sends KEEPALIVEs.
func (s *streamServer) awaitOpen(c *Conn, p Peer) error {
	arrived, full := s.limiter.wait(p.Identity)
	if full != nil {
		return s.refuseByLimit(c, full, p)
	}
	arrived = sync.OnceFunc(arrived)
	defer arrived()
	c.SetDeadline(time.Now().Add(s.t.open))
	var leave func()
	c.reading.lock <- struct{}{}
	err := c.awaitOpened(func() {
		if leave == nil {
			arrived()
			leave = s.keepSpare(c, p)
		}
	})
	c.unlockRead()
	if leave != nil {
		leave()
	}
	if exchange.IsTimeout(err) {
		c.Reset(exchange.ProtocolError("neither OPEN nor KEEPALIVE within %v", s.t.open))
	}
	return err
}

// keepSpare registers a stream that waits for its OPEN, or resets it if the identity has too many.
// The caller calls leave when the wait is over.
func (s *streamServer) keepSpare(c *Conn, p Peer) (leave func()) {
	c.SetDeadline(time.Time{})
	free, full := s.limiter.spare(p.Identity)
	if full != nil {
		s.refuseByLimit(c, full, p)
		return func() {}
	}
	s.registry.addSpare(c, p.Grant)
	return func() {
		s.registry.removeSpare(c)
		free()
	}
}

// admit decides whether a stream whose OPEN has arrived may be served, and resets it if not. The
// caller calls leave when the stream ends.
func (s *streamServer) admit(c *Conn, p Peer) (leave func(), err error) {
	if s.registry.isDraining() {
		c.Reset(errDraining)
		return nil, errDraining
	}
	if s.judge != nil && s.judge()(p.Grant) != nil {
		c.Reset(errRevoked)
		return nil, errRevoked
	}
	if c.openIn.Target == TargetHello {
		// No limit for hellos: an agent whose hello is refused would consider the transport broken.
		return func() {}, nil
	}
	leave, full := s.limiter.open(p.Identity)
	if full != nil {
		return nil, s.refuseByLimit(c, full, p)
	}
	return leave, nil
}

// refuseByLimit resets c, reports the limit to the Server's owner and returns the error.
func (s *streamServer) refuseByLimit(c *Conn, full *limitReached, p Peer) error {
	if s.onLimit != nil {
		s.onLimit(full.limit, full.err, p)
	}
	c.Reset(full.err)
	return full.err
}

// answer sends OPENED, and agrees to TIMES if the agent wants them.
func (s *streamServer) answer(c *Conn) error {
	c.SetDeadline(time.Now().Add(s.t.open))
	o := s.answerToOpen(c.openIn.Target)
	if c.times.wanted = slices.Contains(c.openIn.Features, FeatureTimes); c.times.wanted {
		o.Features = append(o.Features, FeatureTimes)
	}
	if err := c.writeJSON(capsuleOpened, o); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// answerToOpen returns the answer to OPEN, with our version of the wire format.
func (s *streamServer) answerToOpen(target string) Opened {
	var o Opened
	if s.opened != nil {
		o = s.opened()
	}
	if target != TargetHello && !strings.HasPrefix(target, TargetForward) {
		o.Forwards = nil // each Kafka connection would carry the list
	}
	o.Version = Version
	return o
}

// hello sends the tickets and then echoes until the peer has finished, at most maxEcho bytes.
func (s *streamServer) hello(c *Conn) error {
	c.SetDeadline(time.Now().Add(s.t.hello))
	if s.tickets != nil {
		for _, t := range s.tickets() {
			if err := c.SendTicket(t); err != nil {
				return err
			}
		}
	}
	n, err := io.Copy(c, io.LimitReader(struct{ io.Reader }{c}, maxEcho))
	if err != nil {
		return err
	}
	if n == maxEcho {
		return c.Reset(&Error{Code: CodeLimit, Message: fmt.Sprintf("a hello echoes %d bytes at most", maxEcho)})
	}
	return c.CloseWrite()
}
