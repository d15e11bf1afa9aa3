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

// A stranger is a QUIC connection on which no request has authenticated yet. quic-go keeps each STREAM frame that comes out of order in 160
// bytes more than it carries, and each CRYPTO frame in 100, and a frame can carry a single byte. So what a stranger can make us hold is bounded
// by what it may send at all.
const (
	// unauthenticatedWindow is the credit of all its streams together. A token and OPEN fit; of what is larger we give the credit as we read.
	unauthenticatedWindow = 512

	// maxEarlyRequests is how many requests of a stranger are read at once. A stream that we have not accepted costs no goroutine.
	maxEarlyRequests = 1

	// maxUnauthenticatedQUIC is how many there may be. The oldest makes room for the next: an agent has its answer within two round trips.
	maxUnauthenticatedQUIC = 800

	// maxHalfOpen is how many of them may be without a whole ClientHello, which takes an agent two packets. They cannot be closed.
	maxHalfOpen = 64

	// maxHalfOpenHere is how many of those one place may have that has shown its address, once there are so many that all have to.
	maxHalfOpenHere = 16

	// maxEarlyBytes is what a stranger may send beside what we read of its requests. A handshake takes 4 KiB, and 2 KiB more each time that its
	// first flight is sent again; what QUIC sends to find out how large packets may be is 6 KiB.
	maxEarlyBytes = 16 << 10

	// maxAllEarlyBytes is that of all of them together, and keeps them to 256 MiB where they send CRYPTO frames of one byte.
	maxAllEarlyBytes = maxUnauthenticatedQUIC * 8 << 10

	// watchEarlyBytes is how often we look at how much strangers have sent.
	watchEarlyBytes = 25 * time.Millisecond
)

// unauthenticatedQUIC are those of one listener.
type unauthenticatedQUIC struct {
	timeout time.Duration
	credit  int                   // of a connection that has authenticated
	told    func(net.Addr, error) // a stranger that was turned away; must not block

	mu      sync.Mutex
	list    []*quicPeer // the oldest first
	sources sources
	watch   *time.Timer // while there are any
}

type quicPeer struct {
	of    *unauthenticatedQUIC
	addr  net.Addr
	from  netip.Prefix
	shown bool          // addr is its own for certain
	known chan struct{} // closed when a request has authenticated
	timer *time.Timer
	read  atomic.Uint64 // bytes of its request streams that we have read; counted also when it is no stranger any more

	// Guarded by unauthenticatedQUIC.mu.
	hello bool       // its ClientHello is here as a whole
	conn  *quic.Conn // nil until quic-go has shown it to us
	late  bool       // time was over before
}

type quicPeerKey struct{}

// quicPeerOf is who a QUIC connection of ours was, or is, of whose context ctx is one; nil if ctx is of none.
func quicPeerOf(ctx context.Context) *quicPeer {
	p, _ := ctx.Value(quicPeerKey{}).(*quicPeer)
	return p
}

// unauthenticatedConfig is a listener's configuration, with the windows that a connection begins with.
func unauthenticatedConfig(c *quic.Config) *quic.Config {
	c.InitialConnectionReceiveWindow = min(unauthenticatedWindow, c.InitialConnectionReceiveWindow)
	c.AllowConnectionWindowIncrease = func(conn *quic.Conn, _ uint64) bool {
		return quicPeerOf(conn.Context()).isKnown()
	}
	return c
}

func (p *quicPeer) isKnown() bool {
	select {
	case <-p.known:
		return true
	default:
		return false
	}
}

var (
	errHalfOpen = fmt.Errorf("the gateway's limit of %d connections without a whole ClientHello is reached", maxHalfOpen)
	errOldest   = fmt.Errorf("the gateway's limit of %d connections without credentials is reached, and this was the oldest", maxUnauthenticatedQUIC)
	errChatty   = errors.New("too many bytes came before a request with credentials")
)

// arrive is quic.Transport.ConnContext. The context that it returns ends with the connection.
func (s *unauthenticatedQUIC) arrive(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &quicPeer{of: s, addr: info.RemoteAddr, from: sourceOf(info.RemoteAddr.String()), shown: info.AddrVerified, known: make(chan struct{})}
	if n := s.halfOpen(); n >= maxHalfOpen || n >= maxHalfOpen/2 && s.halfOpenAt(p.from) >= maxHalfOpenHere {
		s.told(info.RemoteAddr, errHalfOpen)
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

// closable reports whether quic-go has shown us the connection. The caller holds mu.
func (p *quicPeer) closable() bool { return p.conn != nil }

// halfOpen is how many have sent no whole ClientHello. The caller holds mu.
func (s *unauthenticatedQUIC) halfOpen() (n int) {
	for _, p := range s.list {
		if !p.hello {
			n++
		}
	}
	return n
}

// helloCame is told that the ClientHello of a stranger is here, of whose context ctx is one. What waits for us from then on is no half-open
// connection: many agents may come at once.
func (s *unauthenticatedQUIC) helloCame(ctx context.Context) {
	if p := quicPeerOf(ctx); p != nil {
		s.mu.Lock()
		p.hello = true
		s.mu.Unlock()
	}
}

// halfOpenAt is how many of those there are at a place, as far as they have shown that they are there. The caller holds mu.
func (s *unauthenticatedQUIC) halfOpenAt(place netip.Prefix) (n int) {
	for _, p := range s.list {
		if p.shown && p.from == place && !p.hello {
			n++
		}
	}
	return n
}

// oldest is that of the place with most of them, as far as it can be closed. The caller holds mu, and there is one.
func (s *unauthenticatedQUIC) oldest() *quicPeer {
	most := s.sources.most()
	i := slices.IndexFunc(s.list, func(p *quicPeer) bool { return p.closable() && s.sources[p.from] == most })
	if i < 0 {
		i = slices.IndexFunc(s.list, (*quicPeer).closable)
	}
	return s.list[i]
}

// many reports whether there are so many that those who come have to show that their address is theirs.
func (s *unauthenticatedQUIC) many() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list) >= maxUnauthenticatedQUIC/2 || s.halfOpen() >= maxHalfOpen/2
}

// accepted is told the connection of a stranger, and returns what is closed when a request of it has authenticated.
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

// authenticated is to be called when a request has shown its credentials, or needs none. ctx is that of the request.
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

func (s *unauthenticatedQUIC) leave(p *quicPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(p)
}

// remove reports whether p was there. The caller holds mu.
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

// close ends a stranger's connection, and counts it no more. The caller holds mu.
func (s *unauthenticatedQUIC) close(p *quicPeer, why error) {
	if !s.remove(p) {
		return
	}
	s.told(p.addr, why)
	go p.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), why.Error()) // which waits
}

func (s *unauthenticatedQUIC) tooLate() error {
	return fmt.Errorf("no request with credentials came within %v", s.timeout)
}

func (s *unauthenticatedQUIC) expire(p *quicPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.late = p.conn == nil; !p.late {
		s.close(p, s.tooLate())
	}
}

// look closes those that have sent too much: the most first, where it is all together.
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
			read := p.read.Load() // before what has come
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
		s.close(p.quicPeer, errChatty)
	}
	s.watch = nil
	if len(s.list) > 0 {
		s.watch = time.AfterFunc(watchEarlyBytes, s.look)
	}
}
