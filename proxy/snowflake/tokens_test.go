package snowflake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A mint gives numbered tokens that live for a while, in a bubble.
type mint struct {
	life  time.Duration
	takes time.Duration
	err   error

	mu      sync.Mutex
	fetches int
	changed bool
}

func (m *mint) tokens() *tokens {
	t := newTokens(m.fetch)
	t.changed = func() bool { return m.changed }
	return t
}

func (m *mint) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fetches
}

// fail has fetches end with err from now on.
func (m *mint) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *mint) fetch(ctx context.Context) (token, error) {
	m.mu.Lock()
	m.fetches++
	n := m.fetches
	err := m.err
	m.mu.Unlock()
	if m.takes > 0 {
		select {
		case <-time.After(m.takes):
		case <-ctx.Done():
			return token{}, ctx.Err()
		}
	}
	if err != nil {
		return token{}, err
	}
	return token{value: fmt.Sprint("token", n), expires: time.Now().Add(m.life)}, nil
}

func wantToken(t *testing.T, k *tokens, want string) {
	t.Helper()
	start := time.Now()
	got, err := k.get(t.Context())
	if got != want || err != nil {
		t.Errorf("get = %q, %v after %v, want %s", got, err, time.Since(start), want)
	}
}

func TestManyWaitForOneLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, takes: time.Second}
		k := m.tokens()
		defer k.close()
		var clients sync.WaitGroup
		for range 100 {
			clients.Go(func() { wantToken(t, k, "token1") })
		}
		clients.Wait()
		if n := m.count(); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// A token is replaced before it expires, and nobody waits for it.
func TestTokensAreRenewedAheadOfTime(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		time.Hour:        48 * time.Minute, // four fifths
		5 * time.Minute:  4 * time.Minute,
		4 * time.Minute:  3 * time.Minute, // a minute before
		time.Minute:      30 * time.Second,
		10 * time.Second: 5 * time.Second,
		time.Second:      time.Second,
	} {
		if got := refreshAfter(life); got != want {
			t.Errorf("refreshAfter(%v) = %v, want %v", life, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, takes: time.Second}
		k := m.tokens()
		defer k.close()
		wantToken(t, k, "token1")
		time.Sleep(48*time.Minute + 500*time.Millisecond)
		start := time.Now()
		wantToken(t, k, "token1") // the next one is on its way
		time.Sleep(time.Second)
		wantToken(t, k, "token2")
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("somebody waited: %v", waited)
		}
		time.Sleep(24 * time.Hour) // nobody asks, and a token is there nevertheless
		start = time.Now()
		if _, err := k.get(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("get = %v after %v", err, time.Since(start))
		}
		if n := m.count(); n < 24 || n > 40 {
			t.Errorf("%d logins in a day", n)
		}
	})
}

// While logins fail the old token is used as long as it lives, and then the failure is told at
// once: a thousand clients that try each second are a login every few minutes.
func TestFailuresAreRememberedWithBackoff(t *testing.T) {
	for _, tt := range []struct {
		err  error
		most int
	}{
		{errors.New("no such host"), 155},
		{&loginError{text: "there were too many logins", tooMany: true}, 24},
		{&loginError{text: "the key is not accepted", hopeless: true}, 22},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &mint{life: time.Hour}
			k := m.tokens()
			defer k.close()
			wantToken(t, k, "token1")
			m.fail(tt.err)
			time.Sleep(59 * time.Minute)
			wantToken(t, k, "token1")
			time.Sleep(time.Minute)
			before := m.count()
			for range 3600 {
				if _, err := k.get(t.Context()); !errors.Is(err, tt.err) {
					t.Fatalf("get = %v", err)
				}
				time.Sleep(time.Second)
			}
			if n := m.count() - before; n < 10 || n > tt.most {
				t.Errorf("%d logins in an hour, want 10 to %d", n, tt.most)
			}
			m.fail(nil)
			time.Sleep(refusedTimeMost)
			start := time.Now()
			if _, err := k.get(t.Context()); err != nil || time.Since(start) != 0 {
				t.Errorf("get = %v after %v, once it works again", err, time.Since(start))
			}
		})
	}
}

// After an outage nobody is kept out for much longer than it was.
func TestAnOutageThatIsOverIsNoticedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, err: errors.New("no such host")}
		k := m.tokens()
		defer k.close()
		for range 3600 {
			k.get(t.Context())
			time.Sleep(time.Second)
		}
		m.fail(nil)
		time.Sleep(30 * time.Second)
		wantToken(t, k, fmt.Sprint("token", m.count()+1))
	})
}

// A new key is tried at once, whatever the old one has met.
func TestAnotherKeyIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, err: &loginError{text: "the key is not accepted", hopeless: true}}
		k := m.tokens()
		defer k.close()
		for range 3 {
			if _, err := k.get(t.Context()); !errors.Is(err, m.err) {
				t.Fatalf("get = %v", err)
			}
		}
		m.fail(nil)
		m.changed = true
		wantToken(t, k, "token2")
	})
}

func TestATokenThatWasRefusedIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour}
		k := m.tokens()
		defer k.close()
		wantToken(t, k, "token1")
		if k.forget("token0") {
			t.Error("a token that nobody has was forgotten")
		}
		if !k.forget("token1") || k.forget("token1") {
			t.Error("want it forgotten once")
		}
		wantToken(t, k, "token2")
		if k.forget("token2") {
			t.Error("tokens are forgotten one after the other")
		}
		time.Sleep(forgetTime)
		if !k.forget("token2") {
			t.Error("a minute later it is not forgotten")
		}
	})
}

// Who waits can give up; the login goes on for the others.
func TestGivingUpIsNoReasonToStopALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, takes: 5 * time.Second}
		k := m.tokens()
		defer k.close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("get = %v", err)
		}
		wantToken(t, k, "token1")
		if n := m.count(); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// Who gives up a login that hangs knows what it was, and what to look at; and so does who waits for
// its end.
func TestALoginThatHangsIsNamed(t *testing.T) {
	over := make(chan struct{})
	k := newKeyPair(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer close(over)
	i := &Ingress{Names: flags, Host: testHost, KeyPair: k}
	defer i.Close()
	impatient := errors.New("no exchange within 1s")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(impatient)
	prefix := "log in to Snowflake at " + k.TokenURL.Host + " as MYORG-MY_ACCOUNT.KAFKA_USER: "
	err := i.Authorize(ctx, http.Header{})
	if err == nil || err.Error() != prefix+"no exchange within 1s" || !errors.Is(err, impatient) || !strings.Contains(hintOf(err), "--snowflake-token-url") {
		t.Errorf("Authorize = %v, hint %q", err, hintOf(err))
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	defer time.AfterFunc(50*time.Millisecond, func() { cancel(errNoAnswer) }).Stop()
	if _, err := k.login(ctx, testHost); err == nil || err.Error() != prefix+"no answer within 8s" || hintOf(err) == "" {
		t.Errorf("login = %v, hint %q", err, hintOf(err))
	}
}

// Every wait for a login is longer than a login.
func TestALoginEndsBeforeAnybodyGivesUp(t *testing.T) {
	const dial, doctor = 10 * time.Second, 15 * time.Second
	if loginTime >= min(dial, doctor) {
		t.Errorf("a login may take %v", loginTime)
	}
}

func TestALoginThatHangsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{takes: time.Hour}
		k := m.tokens()
		start := time.Now()
		if _, err := k.get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != loginTime {
			t.Errorf("get = %v after %v", err, time.Since(start))
		}
		go k.get(t.Context())
		time.Sleep(2 * time.Second)
		start = time.Now()
		k.close()
		if time.Since(start) != 0 {
			t.Errorf("close took %v", time.Since(start))
		}
		if _, err := k.get(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("get after close = %v", err)
		}
	})
}

// A token that lives for no time at all is no reason for a login each moment.
func TestTokensThatExpireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: minLife}
		k := m.tokens()
		defer k.close()
		for range 1000 {
			if v, err := k.get(t.Context()); err != nil || !strings.HasPrefix(v, "token") {
				t.Fatalf("get = %q, %v", v, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := m.count(); n > 25 { // one for its end, and one before it
			t.Errorf("%d logins in ten seconds", n)
		}
	})
}
