package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeIngress gives out its credentials in turn, the next one after each refusal.
type fakeIngress struct {
	mu         sync.Mutex
	give       []string // the first one is current
	authorized int
	refused    []string // the credentials of refused requests, and the responses
	proven     []bool   // Proven of each refusal
	final      bool
	err        error // of Authorize
}

const credential = "X-Credential"

func (f *fakeIngress) Authorize(ctx context.Context, h http.Header) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.authorized++
	if f.err == nil {
		h.Set(credential, f.give[0])
	}
	return f.err
}

func (f *fakeIngress) Refused(h http.Header, e *AnswerError) (again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proven = append(f.proven, e.Proven)
	f.refused = append(f.refused, fmt.Sprintf("%s: %d %s over %s to %s", h.Get(credential), e.Status, e.Body, e.Transport, e.Header.Get("Location")))
	e.Text, e.Remedy, e.Final = "the ingress refused "+h.Get(credential), "get a better one", f.final
	if h.Get(credential) != f.give[0] {
		return true // newer credentials exist already
	}
	if len(f.give) == 1 {
		return false
	}
	f.give = f.give[1:]
	return true
}

// edge passes requests with the credential "good" on to gateway.
func edge(gateway http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(credential) == "good" {
			gateway.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Location", "https://login.example.com/")
		w.WriteHeader(http.StatusFound)
		fmt.Fprint(w, "sign in")
	}
}

// newEdgeRig is a rig with an ingress in front of the gateway.
func newEdgeRig(t *testing.T, kind string, f *fakeIngress) *rig {
	if kind == "h3" {
		// Atomic, because requests over UDP have no happens-before edge that the race detector
		// sees.
		var gateway atomic.Pointer[Server]
		r := newH3DoorRig(t, func(w http.ResponseWriter, req *http.Request) { edge(gateway.Load())(w, req) })
		gateway.Store(r.server)
		r.dialer.Ingress = f
		return r
	}
	return newRig(t, kind, func(r *rig) {
		r.server.init()
		r.server.tcp.http.Handler = edge(r.server)
		r.dialer.Ingress = f
	})
}

var edgeKinds = []string{"ws", "plain", "h2", "h2c", "h3"}

func TestAnExchangeIsTriedAgainWithOtherCredentials(t *testing.T) {
	for _, kind := range edgeKinds {
		t.Run(kind, func(t *testing.T) {
			f := &fakeIngress{give: []string{"stale", "good"}}
			r := newEdgeRig(t, kind, f)
			r.dialer.Carriers = 1 // so that none is dialled for the next stream
			// A dial alone, without the hello of the race, which is retried in the same way.
			open, _ := encodeOpen(Open{Target: TargetBootstrap})
			r.dialer.init()
			c, _, err := r.dialer.attempt(t.Context(), r.dialer.Transport, open, false, func(c *Conn, ready bool) error {
				return r.dialer.await(t.Context(), c, ready, nil)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			(<-r.served).returned()
			want := []string{"stale: 302 sign in over " + r.dialer.Transport + " to https://login.example.com/"}
			if !slices.Equal(f.refused, want) || f.authorized != 2 {
				t.Errorf("refused = %q after %d requests, want %q after 2", f.refused, f.authorized, want)
			}
		})
	}
}

func TestHellosAndSparesAreTriedAgainToo(t *testing.T) {
	for _, kind := range edgeKinds {
		t.Run(kind, func(t *testing.T) {
			f := &fakeIngress{give: []string{"stale", "good"}}
			r := newEdgeRig(t, kind, f)
			if _, err := r.dialer.Hello(t.Context()); err != nil {
				t.Errorf("Hello = %v", err)
			}
			f.mu.Lock()
			f.give = []string{"stale", "good"}
			f.mu.Unlock()
			r.dialer.SetSpares(1)
			// The spares of other transports are carriers, which carry no credentials.
			if r.dialer.Transport == TransportWS {
				p := r.dialer.pools[TransportWS].(*wsPool)
				waitUntil(t, func() bool {
					p.mu.Lock()
					defer p.mu.Unlock()
					return len(p.spares) == 1
				})
			}
			_, s := r.dial()
			s.returned()
			f.mu.Lock()
			defer f.mu.Unlock()
			// A carrier that is dialled at the same time may show the same credentials.
			if n := len(f.refused); n < 2 || n > 2 && r.dialer.Transport == TransportWS {
				t.Errorf("refused = %q", f.refused)
			}
		})
	}
}

// A refusal over a transport that has worked before is marked as Proven.
func TestATransportThatHasWorkedIsProven(t *testing.T) {
	for _, kind := range edgeKinds {
		t.Run(kind, func(t *testing.T) {
			f := &fakeIngress{give: []string{"stale", "good"}}
			r := newEdgeRig(t, kind, f)
			r.dial()
			f.mu.Lock()
			f.give = []string{"stale", "good"}
			f.mu.Unlock()
			r.dial()
			f.mu.Lock()
			defer f.mu.Unlock()
			if !slices.Equal(f.proven, []bool{false, true}) {
				t.Errorf("proven = %t of %q", f.proven, f.refused)
			}
		})
	}
}

// waitUntil waits for something that happens in the background.
func waitUntil(t testing.TB, happened func() bool) {
	t.Helper()
	for late := time.After(time.Minute); !happened(); {
		select {
		case <-late:
			t.Fatal("it did not happen in time")
		case <-time.After(time.Millisecond):
		}
	}
}

// An ingress that asks for retries for ever does not get them.
func TestAnExchangeIsTriedAgainAFewTimesAlone(t *testing.T) {
	for _, kind := range edgeKinds {
		t.Run(kind, func(t *testing.T) {
			f := &fakeIngress{give: strings.Split(strings.Repeat("bad ", 100), " "), final: true}
			r := newEdgeRig(t, kind, f)
			_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
			want := "dial gateway " + r.dialer.URL.Host + " over " + r.dialer.Transport + ": the ingress refused bad"
			if err == nil || err.Error() != want {
				t.Errorf("Dial = %v, want %s", err, want)
			}
			if hintsOf(err) != "get a better one" {
				t.Errorf("hint of %v", err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.authorized != 1+MaxAgain {
				t.Errorf("%d requests, want %d", f.authorized, 1+MaxAgain)
			}
		})
	}
}

// What the gateway itself answers is not shown to the ingress.
func TestAnIngressIsNotToldOfTheGatewaysAnswers(t *testing.T) {
	for _, kind := range kinds {
		f := &fakeIngress{give: []string{"good", "better"}}
		r := newRig(t, kind, func(r *rig) {
			r.dialer.Ingress = f
			r.server.Authenticate = func(*http.Request) (string, error) { return "", errors.New("unknown token") }
		})
		_, err := r.dialer.Dial(t.Context(), Open{}, nil)
		if err == nil || !strings.Contains(err.Error(), "gateway refused the token: unknown token") || f.refused != nil {
			t.Errorf("%s: Dial = %v; the ingress was shown %q", kind, err, f.refused)
		}
	}
}

// No request is sent to the target of a redirect, least of all with its credentials.
func TestNoRedirectIsFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s with %v reached another server", r.Method, r.URL, r.Header)
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, kind := range []string{"plain", "h2c"} {
			r := newRig(t, kind, func(r *rig) {
				r.dialer.Ingress = &fakeIngress{give: []string{"secret"}}
				r.server.init()
				r.server.tcp.http.Handler = http.RedirectHandler(other.URL, status)
			})
			if _, err := r.dialer.Dial(t.Context(), Open{}, nil); err == nil {
				t.Errorf("%s: a redirect with status %d was followed", kind, status)
			}
		}
	}
}

// Without credentials no transport is blamed, and none is dialled.
func TestWithoutCredentialsNothingIsDialled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := 0
		f := &fakeIngress{err: errors.New("the account has no such user")}
		r, _ := newMemRig(t, func(r *rig) {
			r.dialer.Transport, r.dialer.Ingress = TransportAuto, f
			dial := r.dialer.DialContext
			r.dialer.DialContext = r.countDials(dial, &dialled)
		})
		_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
		if want := "dial gateway gateway:80 over ws: credentials for the ingress: the account has no such user"; err == nil || err.Error() != want {
			t.Errorf("Dial = %v, want %s", err, want)
		}
		for _, a := range r.dialer.State().Tried {
			if !a.NextProbe.IsZero() {
				t.Errorf("%s was blamed: %+v", a.Transport, a)
			}
		}
		f.mu.Lock()
		f.err, f.give = nil, []string{"good"}
		f.mu.Unlock()
		if dialled != 0 {
			t.Errorf("%d connections", dialled)
		}
		time.Sleep(time.Second)
		r.dial()
	})
}

// A login that hangs ends with the dial.
func TestALoginThatHangsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newMemRig(t, func(r *rig) { r.dialer.Ingress = hanging{} })
		start := time.Now()
		_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
		if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "credentials for the ingress: not ") || took != defaultTiming.handshake {
			t.Errorf("Dial = %v after %v", err, took)
		}
	})
}

type hanging struct{}

func (hanging) Authorize(ctx context.Context, h http.Header) error {
	<-ctx.Done()
	return ctx.Err()
}

func (hanging) Refused(http.Header, *AnswerError) bool { return false }

// Errors distinguish the answers of the ingress and of the gateway by more than their status.
func TestAnErrorSaysWhoAnswered(t *testing.T) {
	for _, status := range []int{200, 302, 401, 403, 404, 429, 500, 502, 503} {
		e := &AnswerError{URL: "https://kafka.example.com/culvert", Status: status, Location: "login"}
		ours := *e
		ours.Gateway, ours.Text = true, "no"
		if strings.HasPrefix(e.Error(), "gateway ") || !strings.HasPrefix(ours.Error(), "gateway ") {
			t.Errorf("%d: %q, and the gateway's own %q", status, e, &ours)
		}
	}
	u := url.URL{Scheme: "https", Host: "kafka.example.com"}
	c := credentials{route: &route{url: &u}}
	if e := c.complete(TransportWS, nil, &AnswerError{Status: 404}); e.Transport != TransportWS || e.URL != "https://kafka.example.com/culvert" {
		t.Errorf("complete = %+v", e)
	}
}
