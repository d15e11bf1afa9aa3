package standin

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// DefaultTokenLife is how long a token lives that /oauth/token has given.
const DefaultTokenLife = 5 * time.Minute

// An Account is a Snowflake account: its users and their tokens. As a handler it serves the
// account's own host. Fields are set before use; methods may be called concurrently.
type Account struct {
	Host      string           // of /oauth/token and the sign-in page: myorg-myaccount.snowflakecomputing.com
	Names     []string         // those that a JWT may call it by; nil: Host's first label in upper case
	TokenLife time.Duration    // of what /oauth/token gives; 0: DefaultTokenLife
	JSON      bool             // /oauth/token answers in JSON, not with the bare token
	Now       func() time.Time // a clock that may be wrong; nil: time.Now
	Logger    *slog.Logger     // gets why a login was refused, which the answer hides; nil discards

	mu      sync.Mutex
	users   map[string]User
	pats    map[hash]pat
	revoked map[hash]bool // of /oauth/token's tokens
	secret  []byte        // signs those
	logins  Logins
}

// User is a user of an account.
type User struct {
	Name    string           // as SHOW USERS says it: in upper case, unless it was made in quotes
	Roles   []string         // that it has; the first one is its default
	Keys    []*rsa.PublicKey // registered with it
	Blocked bool             // by a network policy
}

// Logins are the requests to /oauth/token so far.
type Logins struct{ Granted, Refused int }

// hash stands for a token in maps, so that they do not hold it.
type hash [sha256.Size]byte

func hashOf(token string) hash { return sha256.Sum256([]byte(token)) }

// pat is a programmatic access token.
type pat struct {
	user, role string
	expires    time.Time
}

// SetUser makes a user, or changes one.
func (a *Account) SetUser(u User) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == nil {
		a.users = make(map[string]User)
	}
	a.users[u.Name] = u
}

// NewPAT gives a user a programmatic access token that is restricted to a role.
func (a *Account) NewPAT(user, role string, life time.Duration) string {
	token := "pat-" + rand.Text()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pats == nil {
		a.pats = make(map[hash]pat)
	}
	a.pats[hashOf(token)] = pat{user, role, a.now().Add(life)}
	return token
}

// Revoke makes a token invalid, of whichever kind it is.
func (a *Account) Revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pats, hashOf(token))
	if a.revoked == nil {
		a.revoked = make(map[hash]bool)
	}
	a.revoked[hashOf(token)] = true
}

// Logins returns how often somebody asked for a token.
func (a *Account) Logins() Logins {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.logins
}

func (a *Account) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

func (a *Account) log() *slog.Logger { return cmp.Or(a.Logger, slog.New(slog.DiscardHandler)) }

// names are those that a JWT may call the account by.
func (a *Account) names() []string {
	if a.Names != nil {
		return a.Names
	}
	name, _, _ := strings.Cut(a.Host, ".")
	return []string{strings.ToUpper(name)}
}

// session is on whose behalf a request is made.
type session struct{ user, role string }

// Why a token does not open an endpoint.
var (
	errInvalid = errors.New("Invalid token supplied")
	errExpired = errors.New("The token has expired")
	errPolicy  = errors.New("Request failed network policy check")
	errHost    = errors.New("a token for another endpoint")
	errRole    = errors.New("a role that the user does not have")
)

// admit returns whose a token is that was sent to the endpoint at host.
func (a *Account) admit(token, host string) (session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.open(token, host)
	if err != nil {
		return session{}, err
	}
	user, ok := a.users[s.user]
	switch {
	case !ok:
		return session{}, errInvalid
	case user.Blocked:
		return session{}, errPolicy
	case s.role == "" && len(user.Roles) > 0:
		s.role = user.Roles[0]
	case !slices.Contains(user.Roles, s.role):
		return session{}, errRole
	}
	return s, nil
}

// open finds out what a token is. The caller holds mu.
func (a *Account) open(token, host string) (session, error) {
	if p, ok := a.pats[hashOf(token)]; ok {
		if !a.now().Before(p.expires) {
			return session{}, errExpired
		}
		return session{p.user, p.role}, nil
	}
	if a.secret == nil || a.revoked[hashOf(token)] {
		return session{}, errInvalid
	}
	var claims tokenClaims
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return a.secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Name}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(a.now))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return session{}, errExpired
	case err != nil:
		return session{}, errInvalid
	case claims.Endpoint != host:
		return session{}, errHost
	}
	return session{claims.Subject, claims.Role}, nil
}

// tokenClaims are what is in a token that /oauth/token gives.
type tokenClaims struct {
	jwt.RegisteredClaims
	Role     string `json:"role"`
	Endpoint string `json:"endpoint"`
}

// issue makes a token for an endpoint. The caller holds mu.
func (a *Account) issue(s session, host string) (token string, life time.Duration, err error) {
	if a.secret == nil {
		a.secret = []byte(rand.Text())
	}
	life = cmp.Or(a.TokenLife, DefaultTokenLife)
	claims := tokenClaims{Role: s.role, Endpoint: host, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: a.names()[0], Subject: s.user, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(a.now()), ExpiresAt: jwt.NewNumericDate(a.now().Add(life)),
	}}
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(a.secret)
	if err != nil {
		return "", 0, fmt.Errorf("sign a token: %w", err)
	}
	return token, life, nil
}
