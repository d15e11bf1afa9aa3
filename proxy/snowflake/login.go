package snowflake

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A KeyPair logs in to Snowflake for a user.
type KeyPair struct {
	Key     func() (*rsa.PrivateKey, error) // asked for each login
	Account Account
	User    string
	Role    string // as SHOW ROLES writes it; "" is the user's default role

	JWTAccount string   // how the JWT names the account; "" is as in Account
	TokenURL   *url.URL // nil is that of Account

	// HTTP makes the requests; nil is http.DefaultTransport.
	HTTP http.RoundTripper

	failed atomic.Pointer[rsa.PrivateKey] // the key of the last login, which failed
}

// jwtLife is how long a JWT is good. Snowflake takes none that lives beyond an
// hour; ours is used at once.
const jwtLife = 10 * time.Minute

// maxAnswer is as much of an answer as is read.
const maxAnswer = 64 << 10

// skewWorthSaying is less than the minute that Snowflake lets clocks differ.
const skewWorthSaying = 30 * time.Second

// keyChanged reports whether there is another key than the one with which the last
// login failed.
func (k *KeyPair) keyChanged() bool {
	failed := k.failed.Load()
	if failed == nil {
		return false
	}
	key, err := k.Key()
	return err == nil && !key.Equal(failed)
}

// login exchanges a JWT for a token for the endpoint at host.
func (k *KeyPair) login(ctx context.Context, host string) (token, error) {
	key, err := k.Key()
	if err != nil {
		return token{}, err
	}
	t, err := k.exchange(ctx, key, host)
	if err != nil {
		k.failed.Store(key)
		return token{}, k.loginFailed(err)
	}
	k.failed.Store(nil)
	return t, nil
}

// loginFailed says what failed with err.
func (k *KeyPair) loginFailed(err error) error {
	return fmt.Errorf("log in to Snowflake at %s as %s: %w", k.url().Host, k.subject(), err)
}

// unfinished is what somebody is told who does not wait for a login any longer.
func (k *KeyPair) unfinished(cause error) error { return k.loginFailed(unreached(cause)) }

func (k *KeyPair) exchange(ctx context.Context, key *rsa.PrivateKey, host string) (token, error) {
	assertion, err := k.sign(key, time.Now())
	if err != nil {
		return token{}, err
	}
	resp, body, err := k.post(ctx, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"scope":      {k.scope(host)},
		"assertion":  {assertion},
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return token{}, unreached(err)
	}
	skew := skewOf(resp.Header, time.Now())
	value, life, err := parseToken(body, resp.Header.Get("Content-Type"), time.Now().Add(-skew))
	if resp.StatusCode != http.StatusOK || errors.Is(err, errNoToken) {
		return token{}, k.refusal(&loginAnswer{
			status: resp.StatusCode, header: resp.Header, body: body, skew: skew,
			fingerprint: Fingerprint(key), secret: assertion,
		})
	}
	if err != nil {
		return token{}, err
	}
	return token{value: value, expires: time.Now().Add(life), skew: skew}, nil
}

// subject names the user in the JWT.
func (k *KeyPair) subject() string {
	account := k.JWTAccount
	if account == "" {
		account = k.Account.JWT
	}
	return strings.ToUpper(account + "." + k.User)
}

// sign makes the JWT.
func (k *KeyPair) sign(key *rsa.PrivateKey, now time.Time) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    k.subject() + "." + Fingerprint(key),
		Subject:   k.subject(),
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(jwtLife)),
	}).SignedString(key)
}

func (k *KeyPair) scope(host string) string {
	if k.Role == "" {
		return host
	}
	return "session:role:" + k.Role + " " + host
}

func (k *KeyPair) url() *url.URL {
	if k.TokenURL != nil {
		return k.TokenURL
	}
	return k.Account.tokenURL()
}

// post returns the answer and the beginning of its body. It follows no redirect.
func (k *KeyPair) post(ctx context.Context, form url.Values) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.url().String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json, text/plain")
	req.Header.Set("User-Agent", "culvert/"+tunnel.Version)
	transport := k.HTTP
	if transport == nil {
		transport = http.DefaultTransport
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp, body, err
}

// unreached says that no answer came.
func unreached(err error) error {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok && h.Hint() != "" {
		return err
	}
	return &hints.Error{
		Err:    err,
		Remedy: "is --snowflake-account right, and does the way there lead through a proxy (HTTPS_PROXY)? With PrivateLink, or another name, there is --snowflake-token-url",
	}
}

// skewOf is how far this machine's clock is ahead of the one behind an answer; 0
// if that does not tell. Its second is cut off, so half a second is added.
func skewOf(h http.Header, now time.Time) time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return now.Sub(date.Add(time.Second / 2))
}

func skewSentence(skew time.Duration) string {
	by := skew.Abs().Round(time.Second)
	if skew > 0 {
		return fmt.Sprintf("this machine's clock is %v ahead of Snowflake's", by)
	}
	return fmt.Sprintf("this machine's clock is %v behind Snowflake's", by)
}

// parseToken reads a token out of an answer, bare or in JSON, and how long it lives
// from now on, which is the time where it was made.
func parseToken(body []byte, contentType string, now time.Time) (value string, life time.Duration, err error) {
	text := strings.TrimSpace(string(body))
	var answer struct {
		Token     string      `json:"access_token"`
		ExpiresIn json.Number `json:"expires_in"`
	}
	switch {
	case isHTML(contentType, text):
		return "", 0, &hints.Error{
			Err:    errors.New("a web page came instead of a token, as of a login"),
			Remedy: "is --snowflake-account right, or --snowflake-token-url? Nothing on the way may answer in Snowflake's place",
		}
	case strings.HasPrefix(text, "{"):
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			return "", 0, errors.New("the answer is JSON that cannot be read")
		}
		if text = answer.Token; text == "" {
			return "", 0, errNoToken
		}
	case strings.HasPrefix(text, `"`):
		if err := json.Unmarshal([]byte(text), &text); err != nil {
			return "", 0, errors.New("the answer is JSON that cannot be read")
		}
	}
	if err := checkToken(text); err != nil {
		return "", 0, fmt.Errorf("the answer holds no token: %w", err)
	}
	return text, lifeOf(text, answer.ExpiresIn, now), nil
}

// lifeOf is how long a token lives: as the answer says, or as the token itself
// does if it can be read, or unknownLife.
func lifeOf(value string, expiresIn json.Number, now time.Time) time.Duration {
	if seconds, err := expiresIn.Int64(); err == nil && seconds > 0 && seconds <= maxLife {
		return time.Duration(seconds) * time.Second
	}
	if at, ok := expiryOf(value); ok && at.After(now) {
		return max(at.Sub(now), minLife)
	}
	return unknownLife
}

// minLife keeps tokens that live for no time from costing a login each moment.
const minLife = time.Second

// maxLife, in seconds, is more than any token has.
const maxLife = 10 * 365 * 24 * 3600

// expiryOf reads the end of a JWT's life, without checking its signature: that is
// for those who accept it.
func expiryOf(value string) (time.Time, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > 1<<40 {
		return time.Time{}, false
	}
	at := time.Unix(int64(claims.Expires), 0)
	return at, time.Until(at) <= maxLife*time.Second
}

// errNoToken is an answer that may be an error in the clothes of a success.
var errNoToken = errors.New("the answer is JSON without an access_token")

func isHTML(contentType, text string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return media == "text/html" || strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), "<")
}
