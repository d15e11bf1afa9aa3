package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Streams opens streams to brokers for Kafka clients in this process, which dial brokers by their
// advertised addresses. Nothing is rewritten: what a client reads in a response is what it dials.
// Make one with [NewStreams]. Its methods may be called concurrently.
type Streams struct {
	upstream   Upstream
	tickets    tickets
	once       sync.Once // of start
	background sync.WaitGroup
	stop       context.CancelFunc // ends what is in the background; nil if nothing is

	asking  chan struct{} // holds a token while somebody asks
	askFrom atomic.Int64  // Unix nanoseconds until which the cluster is not asked again
}

// askAgain is how long the cluster is not asked for its brokers again after it was asked in vain for
// an address: for one that no broker has, each try of a client would otherwise cost a request.
const askAgain = 10 * time.Second

// NewStreams returns Streams through one or more gateways, as [NewTunnel] uses them. It owns the
// dialers. The caller calls Close.
func NewStreams(dialers ...*tunnel.Dialer) *Streams {
	return &Streams{upstream: NewTunnel(dialers...), asking: make(chan struct{}, 1)}
}

// start has the upstream do in the background what is due, until Close.
func (s *Streams) start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.background.Go(func() { s.upstream.run(ctx, func(func(*agentConn)) {}) })
}

// CheckAddress returns why nothing can be dialled at an address, which must be HOST:PORT, or nil.
func CheckAddress(address string) error {
	_, err := parseTarget(address)
	return err
}

// Dial opens a stream to a broker by its advertised address, or to a bootstrap broker of the gateway
// if address is empty. It returns when a gateway has answered, which is before the gateway dials:
// why it does not, or fails, is the error of the first Read. The caller closes the stream.
func (s *Streams) Dial(ctx context.Context, address string) (*Stream, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	to := destination{address: address, onTicket: s.addTicket}
	if address != "" {
		if err := CheckAddress(address); err != nil {
			return nil, err
		}
		to.ticket = s.ticket(ctx, address)
	}
	return s.open(ctx, to)
}

// DialForward opens a stream to what the gateway calls name, beside Kafka. An error may be
// [NotOffered].
func (s *Streams) DialForward(ctx context.Context, name string) (*Stream, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.open(ctx, destination{forward: name})
}

// NotOffered reports whether err says that no gateway offers a forward.
func NotOffered(err error) bool { return isNotOffered(err) }

// bound bounds a dial, and starts what is due with the first.
func (s *Streams) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	s.once.Do(func() { s.start(ctx) })
	return context.WithTimeoutCause(ctx, dialTimeout, errSlowDial)
}

func (s *Streams) open(ctx context.Context, to destination) (*Stream, error) {
	c, _, err := s.upstream.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	s.upstream.spare(min(s.tickets.nodes()+1, maxSpares))
	return &Stream{c.(*tunnel.Conn), s, to.ticket}, nil
}

// errSlowDial wraps context.DeadlineExceeded, so that it is a timeout to those who ask.
var errSlowDial = fmt.Errorf("no answer of a gateway within %s: %w", dialTimeout, context.DeadlineExceeded)

// ticket returns the ticket for an address. If there is none, it asks a bootstrap broker which
// brokers there are: the answer comes with the tickets for them. It returns nil if there is none
// then. A setting of the gateway may allow the address all the same.
func (s *Streams) ticket(ctx context.Context, address string) *tunnel.Ticket {
	if t := s.tickets.find(address, time.Now()); t != nil {
		return t
	}
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-s.asking }()
	t := s.tickets.find(address, time.Now())
	if t != nil || time.Now().UnixNano() < s.askFrom.Load() {
		return t
	}
	err := s.ask(ctx)
	if t = s.tickets.find(address, time.Now()); t == nil && (err == nil || ctx.Err() == nil) {
		s.askFrom.Store(time.Now().Add(askAgain).UnixNano())
	}
	return t
}

// ask requests metadata from a bootstrap broker. It sends no credentials: a broker that requires
// some closes the connection, and the tickets come once a client has logged in there.
func (s *Streams) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request := brokersRequest(ownClientID)
	c, sent, err := s.upstream.dial(ctx, destination{onTicket: s.addTicket, first: request, probe: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := askForBrokers(ctx, c, request[sent:]); err != nil {
		return err
	}
	closeWrite(c)
	return nil
}

// addTicket is called while a stream is read.
func (s *Streams) addTicket(t tunnel.Ticket) {
	if checkTicket(t) == nil {
		s.tickets.add(t, time.Now())
	}
}

// Close cuts the streams that are open, and waits for those that were closed in good order.
func (s *Streams) Close() error {
	s.once.Do(func() {})
	if s.stop != nil {
		s.stop()
	}
	err := s.upstream.close()
	s.background.Wait()
	if err != nil {
		return fmt.Errorf("close tunnel: %w", err)
	}
	return nil
}

// Stream is a stream that [Streams] has opened.
type Stream struct {
	*tunnel.Conn
	of     *Streams
	ticket *tunnel.Ticket // with which it was opened, or nil
}

// Failed is told with which error the stream has ended, if it did not end in good order. A gateway
// that refuses a ticket has another key now, so that no ticket is any good.
func (s *Stream) Failed(err error) {
	e, ok := errors.AsType[*tunnel.Error](err)
	switch {
	case !ok:
	case e.Code == tunnel.CodeTicket && s.ticket != nil:
		s.of.tickets.refused(*s.ticket)
	case e.Code == tunnel.CodeDial:
		s.of.upstream.doubt(s.Conn)
	}
}
