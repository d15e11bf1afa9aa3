package snowflake

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/backoff"
)

// A form is a way to show a token to the ingress.
type form struct {
	header string
	quote  string
}

const scheme = "Snowflake Token="

// forms are those that Snowflake's documentation and its users' code know. The
// first is the documented one. The second leaves Authorization to what is behind
// the ingress; the third is what one page of the documentation asks for.
var forms = []form{
	{"Authorization", `"`},
	{"X-SF-SPCS-Authorization", `"`},
	{"Authorization", ""},
}

func (f form) set(h http.Header, token string) {
	h.Set(f.header, scheme+f.quote+token+f.quote)
}

// readForm finds in a request's header the token that was shown, and how.
func readForm(h http.Header) (token string, which int, ok bool) {
	for which, f := range forms {
		token, ok = strings.CutPrefix(h.Get(f.header), scheme)
		if !ok || strings.HasPrefix(token, `"`) != (f.quote != "") {
			continue
		}
		return strings.Trim(token, `"`), which, true
	}
	return "", 0, false
}

// secretsIn are the tokens in a request's header: the one that was shown to the
// ingress, and the gateway's own.
func secretsIn(h http.Header) (secrets []string) {
	for _, values := range h {
		for _, v := range values {
			for _, prefix := range []string{scheme, "Bearer "} {
				if token, ok := strings.CutPrefix(v, prefix); ok {
					secrets = append(secrets, strings.Trim(token, `"`))
				}
			}
		}
	}
	return secrets
}

const (
	// roundTime is how long the tries of one exchange may be apart.
	roundTime = 30 * time.Second

	// A verdict, that nothing we have is accepted, stands for a while: the ingress
	// answers a dropped service as it does a wrong token, and no number of logins
	// brings that back. Other refusals may be healed with what takes a login to be
	// seen, such as another role, so it does not stand for long.
	verdictTime     = time.Minute
	verdictTimeMost = 5 * time.Minute
)

// A formChooser keeps the form that works, and tries the others when a token is
// refused: first a new token, then each other form, and then it is a verdict.
type formChooser struct {
	mu       sync.Mutex
	now      int       // the form in use
	step     time.Time // of the last try of a round; zero: there is no round
	first    int       // form of the round
	renewed  bool      // in this round
	verdicts int       // one soon after the other
	stands   time.Time // until when the last one does
}

func (c *formChooser) current() form {
	c.mu.Lock()
	defer c.mu.Unlock()
	return forms[c.now]
}

// other is told that a token shown in a form was refused. It reports whether another
// token, or form, is to be used from now on. isCurrent reports whether the token is the
// one that would be used now; it is asked while nobody else decides. renew gets rid of
// the token if another can be had.
func (c *formChooser) other(refused int, isCurrent, renew func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case refused != c.now || !isCurrent():
		return true // somebody else has seen to it
	case now.Before(c.stands):
		return false
	case now.Sub(c.step) > roundTime:
		c.first, c.renewed = c.now, false
	}
	c.step = now
	if !c.renewed {
		c.renewed = true
		if renew() {
			return true
		}
	}
	c.now = (c.now + 1) % len(forms)
	if c.now != c.first {
		return true
	}
	if now.Sub(c.stands) > 2*verdictTimeMost {
		c.verdicts = 0
	}
	c.stands, c.step = now.Add(backoff.Delay(c.verdicts, verdictTime, verdictTimeMost)), time.Time{}
	c.verdicts++
	return false
}
