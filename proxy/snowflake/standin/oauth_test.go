package standin

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// aliceClaims are those of a JWT that is as it should be.
func aliceClaims(t *testing.T, key *rsa.PrivateKey) jwt.RegisteredClaims {
	t.Helper()
	fingerprint, err := Fingerprint(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	const sub = "MYORG-MYACCOUNT.ALICE"
	return jwt.RegisteredClaims{
		Subject: sub, Issuer: sub + "." + fingerprint,
		IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Now().Add(59 * time.Minute)),
	}
}

func TestLogin(t *testing.T) {
	key, other := newKey(t), newKey(t)
	account := newAccount()
	account.SetUser(User{Name: "ALICE", Roles: []string{role, "PUBLIC"}, Keys: []*rsa.PublicKey{&other.PublicKey, &key.PublicKey}})
	r := start(t, &Ingress{Account: account}, instance(t, mirror))
	in := func(d time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(d)) }
	const scope = "session:role:" + role + " " + endpoint
	granted := 0
	for name, test := range map[string]struct {
		scope   string
		grant   string // "": the right one
		key     any    // nil: the right one
		method  jwt.SigningMethod
		change  func(*jwt.RegisteredClaims)
		refused string // OAuth's error; "": granted
		cause   string // what only the account knows
		lets    int    // what the endpoint answers to the token
	}{
		"as it should be":                {scope: scope, lets: 200},
		"the default role":               {scope: endpoint, lets: 200},
		"a role without the endpoint":    {scope: "session:role:PUBLIC " + endpoint, lets: 404},
		"another endpoint":               {scope: "def.snowflakecomputing.app", lets: 404},
		"a role the user has not":        {scope: "session:role:ADMIN " + endpoint, refused: "invalid_scope", cause: `role "ADMIN"`},
		"a role in lower case":           {scope: "session:role:kafka_user " + endpoint, refused: "invalid_scope"},
		"no endpoint":                    {scope: "session:role:" + role, refused: "invalid_scope"},
		"an endpoint with a scheme":      {scope: "https://" + endpoint, refused: "invalid_scope"},
		"another grant":                  {scope: scope, grant: "client_credentials", refused: "unsupported_grant_type"},
		"a key that is not registered":   {scope: scope, key: newKey(t), refused: "invalid_grant", cause: "signature is invalid"},
		"another signature method":       {scope: scope, method: jwt.SigningMethodHS256, key: []byte("secret"), refused: "invalid_grant", cause: "signing method"},
		"another registered key":         {scope: scope, key: other, refused: "invalid_grant", cause: "signature is invalid"},
		"a fingerprint nobody has":       {scope: scope, change: func(c *jwt.RegisteredClaims) { c.Issuer = c.Subject + ".SHA256:AAAA" }, refused: "invalid_grant", cause: "no key with fingerprint"},
		"an issuer that is someone else": {scope: scope, change: func(c *jwt.RegisteredClaims) { c.Issuer = "X" + c.Issuer }, refused: "invalid_grant", cause: "does not begin with sub"},
		"another account":                {scope: scope, change: func(c *jwt.RegisteredClaims) { c.Subject = "OTHER.ALICE" }, refused: "invalid_grant", cause: `account "OTHER"`},
		"another user":                   {scope: scope, change: func(c *jwt.RegisteredClaims) { c.Subject = "MYORG-MYACCOUNT.alice" }, refused: "invalid_grant", cause: `no user "alice"`},
		"expired":                        {scope: scope, change: func(c *jwt.RegisteredClaims) { c.ExpiresAt = in(-time.Second) }, refused: "invalid_grant", cause: "expired"},
		"without expiry":                 {scope: scope, change: func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil }, refused: "invalid_grant", cause: "exp"},
		"without issue":                  {scope: scope, change: func(c *jwt.RegisteredClaims) { c.IssuedAt = nil }, refused: "invalid_grant", cause: "no iat"},
		"longer than an hour":            {scope: scope, change: func(c *jwt.RegisteredClaims) { c.ExpiresAt = in(24 * time.Hour) }, lets: 200},
		"an hour old": {scope: scope, change: func(c *jwt.RegisteredClaims) { c.IssuedAt, c.ExpiresAt = in(-time.Hour), in(time.Hour) },
			refused: "invalid_grant", cause: "expired"},
		"by a clock that is fast": {scope: scope, change: func(c *jwt.RegisteredClaims) { c.IssuedAt = in(10 * time.Minute) }, refused: "invalid_grant", cause: "in the future"},
	} {
		t.Run(name, func(t *testing.T) {
			claims := aliceClaims(t, key)
			if test.change != nil {
				test.change(&claims)
			}
			if test.key == nil {
				test.key = key
			}
			if test.method == nil {
				test.method = jwt.SigningMethodRS256
			}
			if test.grant == "" {
				test.grant = jwtBearer
			}
			assertion, err := jwt.NewWithClaims(test.method, claims).SignedString(test.key)
			if err != nil {
				t.Fatal(err)
			}
			form := url.Values{"grant_type": {test.grant}, "scope": {test.scope}, "assertion": {assertion}}
			response, body := r.do(t, "POST", "https://"+account.Host+"/oauth/token", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, strings.NewReader(form.Encode()))
			if test.refused != "" {
				wantOAuthError(t, response, body, test.refused)
				request := &http.Request{Method: "POST", PostForm: form, Form: form}
				if _, _, refused := account.exchange(request); refused == nil || !strings.Contains(refused.Error(), test.cause) {
					t.Errorf("refused because %v, want %q", refused, test.cause)
				}
				return
			}
			granted++
			if response.StatusCode != 200 || strings.Count(body, ".") != 2 {
				t.Fatalf("answered %s: %s", response.Status, body)
			}
			response, _ = r.do(t, "GET", "https://"+endpoint+"/", http.Header{"Authorization": {quoted(body)}}, nil)
			if response.StatusCode != test.lets {
				t.Errorf("the endpoint answered %s, want %d", response.Status, test.lets)
			}
			account.Revoke(body)
			response, _ = r.do(t, "GET", "https://"+endpoint+"/", http.Header{"Authorization": {quoted(body)}}, nil)
			if response.StatusCode != 401 {
				t.Errorf("the endpoint answered %s to a revoked token", response.Status)
			}
		})
	}
	if got := account.Logins(); got.Granted != granted || got.Refused == 0 {
		t.Errorf("%+v, want %d granted", got, granted)
	}
}

func wantOAuthError(t *testing.T, response *http.Response, body, kind string) {
	t.Helper()
	var answer struct {
		Message, Error string
		Success        *bool
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if response.StatusCode != 400 || answer.Error != kind || answer.Message == "" || answer.Success == nil || *answer.Success {
		t.Errorf("%s: %s, want %s", response.Status, body, kind)
	}
}

// TestTokensExpire moves the account's clock.
func TestTokensExpire(t *testing.T) {
	now := time.Now()
	account := newAccount()
	account.Now = func() time.Time { return now }
	token, life, err := account.issue(session{"ALICE", role}, endpoint)
	if err != nil || life != DefaultTokenLife {
		t.Fatal(life, err)
	}
	pat := account.NewPAT("ALICE", role, time.Hour)
	for after, want := range map[time.Duration][2]error{
		0:                              {nil, nil},
		DefaultTokenLife - time.Second: {nil, nil},
		DefaultTokenLife + time.Second: {errExpired, nil},
		time.Hour:                      {errExpired, errExpired},
	} {
		saved := now
		now = now.Add(after)
		if _, err := account.admit(token, endpoint); err != want[0] {
			t.Errorf("after %s the token: %v, want %v", after, err, want[0])
		}
		if _, err := account.admit(pat, endpoint); err != want[1] {
			t.Errorf("after %s the PAT: %v, want %v", after, err, want[1])
		}
		now = saved
	}
}

func TestLoginMayAnswerInJSON(t *testing.T) {
	key := newKey(t)
	account := newAccount()
	account.JSON, account.TokenLife = true, time.Minute
	account.SetUser(User{Name: "ALICE", Roles: []string{role}, Keys: []*rsa.PublicKey{&key.PublicKey}})
	r := start(t, &Ingress{Account: account}, instance(t, mirror))
	assertion, err := jwt.NewWithClaims(jwt.SigningMethodRS256, aliceClaims(t, key)).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"grant_type": {jwtBearer}, "scope": {endpoint}, "assertion": {assertion}}
	_, body := r.do(t, "POST", "https://"+account.Host+"/oauth/token", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, strings.NewReader(form.Encode()))
	var answer struct {
		Token string `json:"access_token"`
		Life  int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Token == "" || answer.Life != 60 {
		t.Errorf("%s: %v", body, err)
	}
}
