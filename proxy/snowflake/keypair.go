package snowflake

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
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

// jwtLife is how long a JWT is good. Snowflake takes none that lives beyond an hour; ours is used
// at once.
const jwtLife = 10 * time.Minute

// maxAnswer is as much of an answer as is read.
const maxAnswer = 64 << 10

// skewWorthSaying is below the minute by which Snowflake lets clocks differ.
const skewWorthSaying = 30 * time.Second

// keyChanged reports whether there is another key than the one with which the last login failed.
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

// loginFailed is err with what failed.
func (k *KeyPair) loginFailed(err error) error {
	return fmt.Errorf("log in to Snowflake at %s as %s: %w", k.url().Host, k.subject(), err)
}

// unfinished is the error of a caller who stops waiting for a login.
func (k *KeyPair) unfinished(cause error) error { return k.loginFailed(unreached(cause)) }

// exchange asks /oauth/token for a token for host, with a JWT as the grant (RFC 7523).
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
	return strings.ToUpper(cmp.Or(k.JWTAccount, k.Account.JWT) + "." + k.User)
}

// sign makes the JWT. Its issuer ends with the key's fingerprint, by which Snowflake finds the
// public key.
func (k *KeyPair) sign(key *rsa.PrivateKey, now time.Time) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    k.subject() + "." + Fingerprint(key),
		Subject:   k.subject(),
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(jwtLife)),
	}).SignedString(key)
}

// scope names the endpoint, and a role if that is not to be the default one.
func (k *KeyPair) scope(host string) string {
	if k.Role == "" {
		return host
	}
	return "session:role:" + k.Role + " " + host
}

// url is where logins go.
func (k *KeyPair) url() *url.URL { return cmp.Or(k.TokenURL, k.Account.TokenURL()) }

// post returns the answer and the beginning of its body. It follows no redirect, so that the JWT
// goes to no other host.
func (k *KeyPair) post(ctx context.Context, form url.Values) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.url().String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json, text/plain")
	req.Header.Set("User-Agent", "culvert/"+tunnel.Version)
	resp, err := cmp.Or(k.HTTP, http.DefaultTransport).RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp, body, err
}

// unreached is the error when no answer came, with a remedy if it has none.
func unreached(err error) error {
	if len(hints.Of(err, nil)) > 0 {
		return err
	}
	return hints.New(err, "is %s right, and is a proxy needed (HTTPS_PROXY)? For PrivateLink or another host name there is %s", accountName, tokenURL)
}

// skewOf is how far this machine's clock is ahead of the one that dated an answer; 0 without a
// date. Dates are cut to whole seconds, hence the half second.
func skewOf(h http.Header, now time.Time) time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return now.Sub(date.Add(time.Second / 2))
}

// skewSentence says by how much the clocks differ, and which way.
func skewSentence(skew time.Duration) string {
	by := skew.Abs().Round(time.Second)
	if skew > 0 {
		return fmt.Sprintf("this machine's clock is %v ahead of Snowflake's", by)
	}
	return fmt.Sprintf("this machine's clock is %v behind Snowflake's", by)
}

// sqlUser is the user's name in SQL. Without quotes its case does not matter there, nor does it in
// the JWT.
func (k *KeyPair) sqlUser() string {
	if plainName.MatchString(strings.ToUpper(k.User)) {
		return k.User
	}
	return quoted(k.User)
}

// quoted is a name as SQL writes it.
func quoted(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// plainName matches a name that needs no quotes in SQL.
var plainName = regexp.MustCompile(`^[A-Z_][A-Z0-9_$]*$`)
