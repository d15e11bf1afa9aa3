package snowflake

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

// A form is a way to send a token to the ingress.
type form struct {
	header string
	quote  string
}

const scheme = "Snowflake Token="

// forms are those in Snowflake's documentation and in its users' code. The first is the documented
// one. The second leaves Authorization to the service behind the ingress; the third is on one page
// of the documentation.
var forms = []form{
	{"Authorization", `"`},
	{"X-SF-SPCS-Authorization", `"`},
	{"Authorization", ""},
}

// set puts a token into a request's header.
func (f form) set(h http.Header, token string) {
	h.Set(f.header, scheme+f.quote+token+f.quote)
}

// readForm finds in a request's header the token that was sent, and in which form.
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

// secretsIn are the tokens in a request's header: the ingress's and the gateway's.
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
	// roundTime is how far apart two attempts of one round may be.
	roundTime = 30 * time.Second

	// After everything was refused no other token or form is tried for this time, doubled with each
	// such round: the ingress answers for a dropped service as for a wrong token, and no login
	// changes that. It is not long, because what an administrator grants meanwhile, such as another
	// role, may show only after a login.
	giveUpTime     = time.Minute
	giveUpTimeMost = 5 * time.Minute
)

// A formChooser keeps the form that works. When a token is refused it starts a round: first a new
// token, then each other form; then it gives up for some time.
type formChooser struct {
	mu      sync.Mutex
	now     int       // the form in use
	step    time.Time // when the round's last attempt was; zero: there is no round
	first   int       // the form with which the round began
	renewed bool      // the round has asked for a new token
	gaveUp  int       // rounds without success, one soon after the other
	until   time.Time // when the next round may start
}

// current is the form in use.
func (c *formChooser) current() form {
	c.mu.Lock()
	defer c.mu.Unlock()
	return forms[c.now]
}

// other is called when a token that was sent in a form was refused. It reports whether a try with
// another token or form makes sense now. isCurrent reports whether the token is the one that would
// be sent now, and is called under the lock. renew gives up the token if another can be fetched.
func (c *formChooser) other(refused int, isCurrent, renew func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case refused != c.now || !isCurrent():
		return true // another request has changed the token or the form meanwhile
	case now.Before(c.until):
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
	if now.Sub(c.until) > 2*giveUpTimeMost {
		c.gaveUp = 0
	}
	c.until, c.step = now.Add(backoff.Delay(c.gaveUp, giveUpTime, giveUpTimeMost)), time.Time{}
	c.gaveUp++
	return false
}
