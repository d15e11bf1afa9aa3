package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// These limits are for QUIC connections on which no request has authenticated yet. quic-go needs
// 160 bytes more than the payload for each STREAM frame that arrives out of order, and 100 for each
// CRYPTO frame, and a frame can carry a single byte. So limits on buffered bytes are not enough:
// what bounds the memory of such a connection is how much its peer may send at all.
const (
	// unauthenticatedWindow is the flow-control credit of all streams of such a connection
	// together, in bytes. A token and OPEN fit; for longer requests more credit is granted as we
	// read.
	unauthenticatedWindow = 512

	// maxEarlyRequests is how many requests of such a connection are read at once. A stream that is
	// not accepted yet costs no goroutine.
	maxEarlyRequests = 1

	// maxUnauthenticatedQUIC is how many such connections may exist. The oldest makes room for the
	// next, since an agent has authenticated within two round trips.
	maxUnauthenticatedQUIC = 800

	// maxHalfOpen is how many of them may have sent an incomplete ClientHello. An agent needs two
	// packets for it. quic-go does not hand out such a connection, so it cannot be closed.
	maxHalfOpen = 64

	// maxHalfOpenHere is how many half-open connections one source may have whose address is
	// verified. It applies once there are so many that every new address is verified.
	maxHalfOpenHere = 16

	// maxEarlyBytes is how many bytes such a peer may send beyond what we read from its requests. A
	// handshake takes 4 KiB, each repetition of its first flight 2 KiB more, and QUIC's path MTU
	// discovery 6 KiB.
	maxEarlyBytes = 16 << 10

	// maxAllEarlyBytes is that limit for all such connections together. It keeps them to 256 MiB of
	// memory even if they send CRYPTO frames of one byte.
	maxAllEarlyBytes = maxUnauthenticatedQUIC * 8 << 10

	// watchEarlyBytes is how often the bytes are counted. QUIC has no hook for that.
	watchEarlyBytes = 25 * time.Millisecond
)

// unauthenticatedQUIC holds the unauthenticated QUIC connections of one listener.
type unauthenticatedQUIC struct {
	timeout time.Duration
	credit  int                   // flow-control credit of a connection once it has authenticated, in bytes
	onClose func(net.Addr, error) // called when a connection is refused or closed; must not block

	mu      sync.Mutex
	list    []*quicPeer // oldest first
	sources sources
	watch   *time.Timer // runs while list is not empty
}

// A quicPeer is the other end of a QUIC connection, from its first packet to its end. It leaves
// unauthenticatedQUIC.list when it authenticates.
type quicPeer struct {
	of       *unauthenticatedQUIC
	addr     net.Addr
	from     netip.Prefix
	verified bool          // addr cannot be spoofed
	known    chan struct{} // closed when a request has authenticated
	timer    *time.Timer
	read     atomic.Uint64 // bytes read from its request streams; counted also after it has authenticated

	// Guarded by unauthenticatedQUIC.mu.
	hello bool       // its ClientHello has arrived completely
	told  bool       // a request on it was refused, which has been reported
	conn  *quic.Conn // nil until quic-go hands the connection out
	late  bool       // the timeout passed while conn was nil
}

type quicPeerKey struct{}

// quicPeerOf returns the peer of the QUIC connection that ctx belongs to, or nil if it belongs to
// none.
func quicPeerOf(ctx context.Context) *quicPeer {
	p, _ := ctx.Value(quicPeerKey{}).(*quicPeer)
	return p
}

// unauthenticatedConfig returns c with the windows of a connection that has not authenticated.
// quic-go may enlarge them only afterwards.
func unauthenticatedConfig(c *quic.Config) *quic.Config {
	c.InitialConnectionReceiveWindow = min(unauthenticatedWindow, c.InitialConnectionReceiveWindow)
	c.AllowConnectionWindowIncrease = func(conn *quic.Conn, _ uint64) bool {
		return quicPeerOf(conn.Context()).isKnown()
	}
	return c
}

// isKnown reports whether a request has authenticated.
func (p *quicPeer) isKnown() bool {
	select {
	case <-p.known:
		return true
	default:
		return false
	}
}

var (
	errHalfOpen    = fmt.Errorf("the gateway's limit of %d connections without a complete ClientHello is reached", maxHalfOpen)
	errOldest      = fmt.Errorf("the gateway's limit of %d unauthenticated connections is reached, and this was the oldest", maxUnauthenticatedQUIC)
	errTooMuchSent = errors.New("too many bytes came before a request authenticated")
)

// arrive is quic.Transport.ConnContext. It refuses a connection if too many are half-open, and
// closes the oldest one if there are too many in all. The context that it returns ends with the
// connection.
func (s *unauthenticatedQUIC) arrive(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &quicPeer{of: s, addr: info.RemoteAddr, from: sourceOf(info.RemoteAddr.String()), verified: info.AddrVerified, known: make(chan struct{})}
	if n := s.halfOpen(); n >= maxHalfOpen || n >= maxHalfOpen/2 && s.halfOpenAt(p.from) >= maxHalfOpenHere {
		s.onClose(info.RemoteAddr, errHalfOpen)
		return nil, errHalfOpen
	}
	if len(s.list) >= maxUnauthenticatedQUIC {
		s.close(s.oldest(), errOldest)
	}
	p.timer = time.AfterFunc(s.timeout, func() { s.expire(p) })
	s.list = append(s.list, p)
	if s.sources == nil {
		s.sources = make(sources)
	}
	s.sources[p.from]++
	context.AfterFunc(ctx, func() { s.leave(p) })
	if s.watch == nil {
		s.watch = time.AfterFunc(watchEarlyBytes, s.look)
	}
	return context.WithValue(ctx, quicPeerKey{}, p), nil
}

// closable reports whether quic-go has handed the connection out. The caller holds mu.
func (p *quicPeer) closable() bool { return p.conn != nil }

// halfOpen returns how many peers have not sent a complete ClientHello. The caller holds mu.
func (s *unauthenticatedQUIC) halfOpen() (n int) {
	for _, p := range s.list {
		if !p.hello {
			n++
		}
	}
	return n
}

// helloCame is called when a complete ClientHello has arrived; ctx belongs to the connection. From
// then on the connection waits for us and not for its peer, so it no longer counts as half-open:
// many agents may come at once.
func (s *unauthenticatedQUIC) helloCame(ctx context.Context) {
	if p := quicPeerOf(ctx); p != nil {
		s.mu.Lock()
		p.hello = true
		s.mu.Unlock()
	}
}

// halfOpenAt returns how many half-open connections with a verified address there are from this
// source. The caller holds mu.
func (s *unauthenticatedQUIC) halfOpenAt(place netip.Prefix) (n int) {
	for _, p := range s.list {
		if p.verified && p.from == place && !p.hello {
			n++
		}
	}
	return n
}

// oldest returns the oldest connection of the most frequent source that can be closed, or of any
// source if none of those can. The caller holds mu, and there is one.
func (s *unauthenticatedQUIC) oldest() *quicPeer {
	most := s.sources.most()
	i := slices.IndexFunc(s.list, func(p *quicPeer) bool { return p.closable() && s.sources[p.from] == most })
	if i < 0 {
		i = slices.IndexFunc(s.list, (*quicPeer).closable)
	}
	return s.list[i]
}

// len returns the number of connections.
func (s *unauthenticatedQUIC) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list)
}

// many reports whether there are so many connections that new ones must prove their address with a
// Retry (RFC 9000 §8.1). Below that, agents save the round trip.
func (s *unauthenticatedQUIC) many() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list) >= maxUnauthenticatedQUIC/2 || s.halfOpen() >= maxHalfOpen/2
}

// accepted is called when quic-go hands out a connection. It returns a channel that is closed when
// a request on it authenticates.
func (s *unauthenticatedQUIC) accepted(conn *quic.Conn) (known <-chan struct{}) {
	p := quicPeerOf(conn.Context())
	s.mu.Lock()
	defer s.mu.Unlock()
	p.conn = conn
	if p.late {
		s.close(p, s.tooLate())
	}
	return p.known
}

// authenticated is called when a request has authenticated, or needs no credentials. ctx is that of
// the request. Over TCP it does nothing.
func authenticated(ctx context.Context) {
	p := quicPeerOf(ctx)
	if p == nil {
		return
	}
	p.of.mu.Lock()
	first := p.of.remove(p)
	if first {
		close(p.known)
	}
	p.of.mu.Unlock()
	if first {
		giveCredit(p.conn, p.of.credit)
	}
}

// refused is called when a request was refused for its credentials, and the caller has reported that.
// ctx is that of the request. That nothing else comes is then not worth another report.
func refused(ctx context.Context) {
	if p := quicPeerOf(ctx); p != nil {
		p.of.mu.Lock()
		p.told = true
		p.of.mu.Unlock()
	}
}

// leave removes a connection that has ended.
func (s *unauthenticatedQUIC) leave(p *quicPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(p)
}

// remove takes p off the list and reports whether it was on it. The caller holds mu.
func (s *unauthenticatedQUIC) remove(p *quicPeer) bool {
	i := slices.Index(s.list, p)
	if i < 0 {
		return false
	}
	p.timer.Stop()
	s.sources.leave(p.from)
	s.list = slices.Delete(s.list, i, i+1)
	return true
}

// close closes the connection of p and removes it. The caller holds mu.
func (s *unauthenticatedQUIC) close(p *quicPeer, why error) {
	if !s.remove(p) {
		return
	}
	if !p.told {
		s.onClose(p.addr, why)
	}
	// On a goroutine, because it blocks.
	go p.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), why.Error())
}

// tooLate returns the reason for closing a connection whose time is over; the peer reads it in the
// CONNECTION_CLOSE.
func (s *unauthenticatedQUIC) tooLate() error {
	return fmt.Errorf("no request has authenticated within %v", s.timeout)
}

// expire closes p when its time is over, or lets accepted do so if quic-go has not handed it out
// yet.
func (s *unauthenticatedQUIC) expire(p *quicPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.late = p.conn == nil; !p.late {
		s.close(p, s.tooLate())
	}
}

// look closes connections that have sent too much. If all together have, it begins with those that
// sent most.
func (s *unauthenticatedQUIC) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	type sender struct {
		*quicPeer
		sent uint64
	}
	var senders []sender
	all := uint64(0)
	for _, p := range s.list {
		if p.conn != nil {
			read := p.read.Load() // before BytesReceived, so that the difference is never negative
			n := p.conn.ConnectionStats().BytesReceived - read
			senders = append(senders, sender{p, n})
			all += n
		}
	}
	slices.SortFunc(senders, func(a, b sender) int { return cmp.Compare(b.sent, a.sent) })
	for _, p := range senders {
		if p.sent <= maxEarlyBytes && all <= maxAllEarlyBytes {
			break
		}
		all -= p.sent
		s.close(p.quicPeer, errTooMuchSent)
	}
	s.watch = nil
	if len(s.list) > 0 {
		s.watch = time.AfterFunc(watchEarlyBytes, s.look)
	}
}
