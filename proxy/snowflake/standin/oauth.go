package standin

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	// jwtLife is how long a JWT is valid at most, whatever it says itself.
	jwtLife = time.Hour
	// jwtSkew is how far in the future it may have been issued.
	jwtSkew = time.Minute
	// maxForm bounds the body of a login.
	maxForm = 64 << 10
)

// refusal is why /oauth/token gives no token: what the answer says, and what it does not.
type refusal struct {
	kind, message string // of OAuth; for people
	code          string // Snowflake's
	cause         error
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", r.kind, r.cause) }

// ServeHTTP serves the account's own host: /oauth/token, and a sign-in page for everything else.
func (a *Account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", a.now().UTC().Format(http.TimeFormat))
	switch {
	case r.URL.Path != "/oauth/token":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintln(w, "<!DOCTYPE html><title>Snowflake</title><p>Sign in, says the stand-in for Snowflake.</p>")
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
	default:
		a.login(w, r)
	}
}

// login answers a request for a token.
func (a *Account) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	token, life, refused := a.exchange(r)
	a.mu.Lock()
	if refused == nil {
		a.logins.Granted++
	} else {
		a.logins.Refused++
	}
	a.mu.Unlock()
	switch {
	case refused != nil:
		a.refuse(w, refused)
	case a.JSON:
		writeJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(life.Seconds())})
	default:
		fmt.Fprint(w, token)
	}
}

// refuse answers with a refusal, and logs its cause, which the answer hides.
func (a *Account) refuse(w http.ResponseWriter, r *refusal) {
	id := newID()
	a.log().Debug("login refused", "request_id", id, "err", r)
	writeJSON(w, http.StatusBadRequest, map[string]any{
		"data": nil, "message": r.message + " [" + id + "]", "code": nullable(r.code), "success": false, "error": r.kind,
	})
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// exchange returns a token for the JWT in a request, and how long it lives.
func (a *Account) exchange(r *http.Request) (token string, life time.Duration, _ *refusal) {
	if err := r.ParseForm(); err != nil {
		return "", 0, &refusal{kind: "invalid_request", message: "The request is malformed.", cause: err}
	}
	if grant := r.PostForm.Get("grant_type"); grant != jwtBearer {
		return "", 0, &refusal{kind: "unsupported_grant_type", message: "The grant type is not supported.", cause: fmt.Errorf("grant_type %q", grant)}
	}
	role, host, err := parseScope(r.PostForm.Get("scope"))
	if err != nil {
		return "", 0, &refusal{kind: "invalid_scope", message: "The requested scope is invalid.", cause: err}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	user, err := a.verify(r.PostForm.Get("assertion"))
	switch {
	case err != nil:
		return "", 0, &refusal{kind: "invalid_grant", message: "JWT token is invalid.", code: "390144", cause: err}
	case user.Blocked:
		return "", 0, &refusal{kind: "invalid_grant", message: "Incoming request is not allowed to access Snowflake: network policy.", code: "390422", cause: errPolicy}
	case role == "" && len(user.Roles) > 0:
		role = user.Roles[0]
	case !slices.Contains(user.Roles, role):
		return "", 0, &refusal{kind: "invalid_scope", message: "The role does not exist or is not granted to the user.", code: "390186", cause: fmt.Errorf("role %q", role)}
	}
	if token, life, err = a.issue(session{user.Name, role}, host); err != nil {
		return "", 0, &refusal{kind: "server_error", message: "Internal error.", cause: err}
	}
	return token, life, nil
}

// parseScope takes "session:role:ROLE host" apart; the role may be missing.
func parseScope(scope string) (role, host string, err error) {
	for word := range strings.FieldsSeq(scope) {
		name, isRole := strings.CutPrefix(word, "session:role:")
		switch {
		case isRole && role == "":
			role = name
		case !isRole && host == "" && !strings.Contains(word, "/"):
			host = strings.ToLower(word)
		default:
			return "", "", fmt.Errorf("%q in scope %q", word, scope)
		}
	}
	if host == "" {
		return "", "", fmt.Errorf("no endpoint in scope %q", scope)
	}
	return role, host, nil
}

// verify returns the user that a JWT is of. The caller holds mu.
func (a *Account) verify(assertion string) (User, error) {
	var claims jwt.RegisteredClaims
	var user User
	key := func(*jwt.Token) (any, error) {
		var err error
		var public *rsa.PublicKey
		user, public, err = a.keyOf(claims)
		return public, err
	}
	_, err := jwt.ParseWithClaims(assertion, &claims, key,
		jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Name}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(a.now))
	if err != nil {
		return User{}, err
	}
	if claims.IssuedAt == nil {
		return User{}, errors.New("no iat")
	}
	age := a.now().Sub(claims.IssuedAt.Time)
	switch {
	case age < -jwtSkew:
		return User{}, fmt.Errorf("issued %s in the future", -age)
	case age >= jwtLife:
		return User{}, fmt.Errorf("issued %s ago: %w", age, jwt.ErrTokenExpired)
	}
	return user, nil
}

// keyOf finds the key that a JWT says it is signed with, by subject ACCOUNT.USER and issuer
// ACCOUNT.USER.SHA256:FINGERPRINT. The caller holds mu.
func (a *Account) keyOf(claims jwt.RegisteredClaims) (User, *rsa.PublicKey, error) {
	account, name, _ := strings.Cut(claims.Subject, ".")
	if !slices.Contains(a.names(), account) {
		return User{}, nil, fmt.Errorf("sub: account %q, want one of %q", account, a.names())
	}
	user, ok := a.users[name]
	if !ok {
		return User{}, nil, fmt.Errorf("sub: no user %q", name)
	}
	fingerprint, ok := strings.CutPrefix(claims.Issuer, claims.Subject+".")
	if !ok {
		return User{}, nil, fmt.Errorf("iss %q does not begin with sub %q", claims.Issuer, claims.Subject)
	}
	for _, key := range user.Keys {
		registered, err := Fingerprint(key)
		if err != nil {
			return User{}, nil, err
		}
		if registered == fingerprint {
			return user, key, nil
		}
	}
	return User{}, nil, fmt.Errorf("iss: user %s has no key with fingerprint %s", name, fingerprint)
}

// Fingerprint is what SHOW USER KEY PAIRS shows of a key, and DESCRIBE USER as RSA_PUBLIC_KEY_FP.
func Fingerprint(key *rsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.StdEncoding.EncodeToString(sum[:]), nil
}
