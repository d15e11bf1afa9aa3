package snowflake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// A token opens the ingress for a while.
type token struct {
	value    string
	obtained time.Time     // on this machine's clock
	expires  time.Time     // likewise
	skew     time.Duration // how far that clock is ahead of Snowflake's, as the login saw it
}

// parseToken reads a token from an answer, which is the bare token or JSON, and how long it lives
// from now, the time on the clock of whoever made it.
func parseToken(body []byte, contentType string, now time.Time) (value string, life time.Duration, err error) {
	text := strings.TrimSpace(string(body))
	var answer struct {
		Token     string      `json:"access_token"`
		ExpiresIn json.Number `json:"expires_in"`
	}
	switch {
	case isHTML(contentType, text):
		return "", 0, hints.New(errors.New("the answer is a web page, such as a sign-in, and not a token"),
			"is %s right, or %s? Does something on the way answer instead of Snowflake?", accountName, tokenURL)
	case strings.HasPrefix(text, "{"):
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			return "", 0, errors.New("the answer is JSON that cannot be decoded")
		}
		if text = answer.Token; text == "" {
			return "", 0, errNoToken
		}
	case strings.HasPrefix(text, `"`):
		if err := json.Unmarshal([]byte(text), &text); err != nil {
			return "", 0, errors.New("the answer is JSON that cannot be decoded")
		}
	}
	if err := checkToken(text); err != nil {
		return "", 0, fmt.Errorf("the answer holds no token: %w", err)
	}
	return text, lifeOf(text, answer.ExpiresIn, now), nil
}

// errNoToken is about an answer with the status of a success, which may be an error.
var errNoToken = errors.New("the answer is JSON without an access_token")

// lifeOf is how long a token lives: as the answer says, or as the token itself does if it can be
// read, or unknownLife.
func lifeOf(value string, expiresIn json.Number, now time.Time) time.Duration {
	if seconds, err := expiresIn.Int64(); err == nil && seconds > 0 && seconds <= maxLife {
		return time.Duration(seconds) * time.Second
	}
	if at, ok := expiryOf(value); ok && at.After(now) {
		return max(at.Sub(now), minLife)
	}
	return unknownLife
}

const (
	// unknownLife is assumed for a token that does not say how long it lives.
	unknownLife = 5 * time.Minute
	// minLife bounds how often tokens with no life at all cost a login.
	minLife = time.Second
	// maxLife, in seconds, is more than any token has.
	maxLife = 10 * 365 * 24 * 3600
)

// expiryOf reads when a JWT expires. Its signature is not checked: that is for those who accept the
// token.
func expiryOf(value string) (time.Time, bool) {
	claims := jwt.MapClaims{}
	// An error may be about the algorithm or the signature alone; what was read until then is in
	// claims.
	jwt.NewParser(jwt.WithPaddingAllowed()).ParseUnverified(value, claims)
	at, err := claims.GetExpirationTime()
	if err != nil || at == nil {
		return time.Time{}, false
	}
	seconds := at.Unix()
	return at.Time, seconds > 0 && seconds <= time.Now().Unix()+maxLife
}

// A loginError is a refusal of a login.
type loginError struct {
	text     string
	remedy   remedy
	hopeless bool // another try alone changes nothing
	tooMany  bool // there were too many tries
}

func (e *loginError) Error() string { return e.text }

// HintFor says what to do.
func (e *loginError) HintFor(n hints.Names) string {
	return n.Sprintf(e.remedy.format, e.remedy.args...)
}

// isHopeless reports an error that does not end by itself.
func isHopeless(err error) bool {
	e, ok := errors.AsType[*loginError](err)
	return ok && e.hopeless
}

// isTooMany reports an answer that there were too many logins.
func isTooMany(err error) bool {
	e, ok := errors.AsType[*loginError](err)
	return ok && e.tooMany
}
