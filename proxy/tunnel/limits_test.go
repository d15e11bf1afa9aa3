package tunnel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// limited adapts a rig to limits. Each token is an identity. told collects the limits that were
// reported.
func limited(l Limits) (adapt func(*rig), told *[]Limit) {
	told = new([]Limit)
	return func(r *rig) {
		r.server.Limits = l
		r.server.Names = flagOf
		r.server.OnLimit = func(l Limit, _ *Error, _ Peer) { *told = append(*told, l) }
		r.server.Authenticate = func(req *http.Request) (string, error) { return req.Header.Get(headerAuthorization), nil }
		r.dialer.Token = func() (string, error) { return "alice", nil }
	}, told
}

func TestALimitThatIsReachedIsNamed(t *testing.T) {
	for _, tt := range []struct {
		limits Limits
		limit  Limit
		says   string
	}{
		{Limits{Streams: 2}, LimitStreams, "the gateway's limit of 2 streams is reached; --max-streams raises it"},
		{Limits{StreamsPerIdentity: 2}, LimitStreamsPerIdentity, `2 streams for identity "Bearer alice" is reached; --max-streams-per-identity raises it`},
		{Limits{Memory: 1}, LimitMemory, "1 bytes of memory in use is reached; --max-memory raises it"},
	} {
		t.Run(string(tt.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				adapt, told := limited(tt.limits)
				r, _ := newMemRig(t, adapt, func(r *rig) {
					r.server.limiter.memory.fake = func() int64 { return int64(r.server.limiter.streams) }
				})
				r.dial()
				r.dial()
				_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
				if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeLimit || !strings.Contains(e.Message, tt.says) {
					t.Errorf("the third stream: %v, want ERROR limit: %s", err, tt.says)
				}
				if len(*told) != 1 || (*told)[0] != tt.limit {
					t.Errorf("OnLimit was called with %v, want %s", *told, tt.limit)
				}
				if _, err := r.dialer.Hello(t.Context()); err != nil {
					t.Errorf("a hello was refused: %v", err)
				}
				r.stop()
			})
		})
	}
}

func TestAStreamThatEndsMakesRoom(t *testing.T) {
	for _, l := range []Limits{{Streams: 1}, {StreamsPerIdentity: 1}} {
		synctest.Test(t, func(t *testing.T) {
			adapt, _ := limited(l)
			r, _ := newMemRig(t, adapt)
			for range 3 {
				c, s := r.dial()
				if _, full := r.server.limiter.open("Bearer alice"); full == nil {
					t.Error("there is room for a second stream")
				}
				c.Close()
				s.returned()
				synctest.Wait()
			}
			if n := len(r.server.limiter.of); n != 0 {
				t.Errorf("%d identities that hold nothing are still counted", n)
			}
			r.stop()
		})
	}
}

func TestOneIdentityLeavesRoomForOthers(t *testing.T) {
	l := &limiter{Limits: Limits{StreamsPerIdentity: 1}}
	if _, full := l.open("alice"); full != nil {
		t.Fatal(full.err)
	}
	if _, full := l.open("bob"); full != nil {
		t.Errorf("bob was refused because of what alice holds: %v", full.err)
	}
}

// Of limits for each identity, the use is what the identity with the most has.
func TestTheUseOfLimits(t *testing.T) {
	s := &Server{Limits: Limits{Streams: 100, SparesPerIdentity: 20, Memory: 64 << 20}}
	s.init()
	s.limiter.memory.fake = func() int64 { return 5 << 20 }
	want := func(when string, want ...LimitUse) {
		t.Helper()
		if got := s.LimitUses(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	memory, unauthenticated := LimitUse{LimitMemory, 5 << 20, 64 << 20}, LimitUse{LimitUnauthenticated, 0, maxUnauthenticated}
	want("at first", LimitUse{LimitStreams, 0, 100}, LimitUse{LimitStreamsPerIdentity, 0, 0}, LimitUse{LimitSparesPerIdentity, 0, 20}, memory, unauthenticated)
	var leave []func()
	hold := func(take func(string) (func(), *limitReached), identity string, n int) {
		for range n {
			l, full := take(identity)
			if full != nil {
				t.Fatal(full.err)
			}
			leave = append(leave, l)
		}
	}
	hold(s.limiter.open, "alice", 3)
	hold(s.limiter.open, "bob", 5)
	hold(s.limiter.spare, "alice", 7)
	hold(s.limiter.spare, "bob", 2)
	want("with two identities", LimitUse{LimitStreams, 8, 100}, LimitUse{LimitStreamsPerIdentity, 5, 0}, LimitUse{LimitSparesPerIdentity, 7, 20}, memory, unauthenticated)
	for _, l := range leave {
		l()
	}
	tcp := s.unauthenticated.add(Peer{Addr: "192.0.2.1:1"}, func(error) {})
	defer s.unauthenticated.remove(tcp)
	unauthenticated.Used = 1
	want("at the end", LimitUse{LimitStreams, 0, 100}, LimitUse{LimitStreamsPerIdentity, 0, 0}, LimitUse{LimitSparesPerIdentity, 0, 20}, memory, unauthenticated)

	s.h3 = &h3Server{unauthenticated: &unauthenticatedQUIC{list: make([]*quicPeer, 400)}}
	if got, want := s.unauthenticatedUse(), (LimitUse{LimitUnauthenticated, 400, maxUnauthenticatedQUIC}); got != want {
		t.Errorf("with QUIC: %v, want %v, as that is nearer to its limit", got, want)
	}
}

func TestSparesHaveALimitOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		adapt, told := limited(Limits{SparesPerIdentity: 2})
		r, ln := newMemRig(t, adapt)
		var dials atomic.Int32
		r.dialer.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return ln.DialContext(ctx, network, address)
		}
		r.dialer.SetSpares(3)
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if has := r.server.limiter.of["Bearer alice"]; has != (holding{spares: 2}) {
			t.Errorf("the gateway holds %+v, want two spares", has)
		}
		if len(*told) != 1 || (*told)[0] != LimitSparesPerIdentity || dials.Load() > 4 {
			t.Errorf("OnLimit was called with %v after %d dials: an agent that was refused tries again at once", *told, dials.Load())
		}
		for n := range 5 { // spares become streams, and each frees its place
			r.dial()
			synctest.Wait()
			if has := r.server.limiter.of["Bearer alice"]; has.streams != n+1 || has.spares > 2 {
				t.Errorf("%d streams: the gateway holds %+v", n+1, has)
			}
		}
		r.stop()
	})
}
