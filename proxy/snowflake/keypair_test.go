package snowflake

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
)

const testHost = "ab1cd-myorg-my-account.snowflakecomputing.app"

// newAccount is a Snowflake account, and a key pair of its user's.
func newAccount(t *testing.T, adapt func(*standin.Account)) (*standin.Account, *KeyPair) {
	a := &standin.Account{Host: "myorg-my-account.snowflakecomputing.com", Names: []string{"MYORG-MY_ACCOUNT"}}
	a.SetUser(standin.User{Name: "KAFKA_USER", Roles: []string{"DEFAULT_ROLE", "Kafka"}, Keys: []*rsa.PublicKey{&testKey().PublicKey}})
	if adapt != nil {
		adapt(a)
	}
	return a, newKeyPair(t, a)
}

// newKeyPair logs in where h serves.
func newKeyPair(t *testing.T, h http.Handler) *KeyPair {
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	u, _ := url.Parse(s.URL + "/oauth/token")
	account, err := ParseAccount("myorg.my_account")
	if err != nil {
		t.Fatal(err)
	}
	return &KeyPair{
		Key: func() (*rsa.PrivateKey, error) { return testKey(), nil }, Account: account, User: "kafka_user", Role: "Kafka",
		TokenURL: u, HTTP: s.Client().Transport,
	}
}

func TestAKeyOpensAnEndpoint(t *testing.T) {
	for name, tt := range map[string]struct {
		adapt  func(*standin.Account)
		role   string
		expiry time.Duration
	}{
		"bare":         {nil, "Kafka", standin.DefaultTokenLife},
		"JSON":         {func(a *standin.Account) { a.JSON = true }, "Kafka", standin.DefaultTokenLife},
		"an hour":      {func(a *standin.Account) { a.TokenLife = time.Hour }, "Kafka", time.Hour},
		"default role": {nil, "", standin.DefaultTokenLife},
		"a slow clock": {func(a *standin.Account) { a.Now = func() time.Time { return time.Now().Add(50 * time.Second) } }, "Kafka", standin.DefaultTokenLife},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			_, k := newAccount(t, tt.adapt)
			k.Role = tt.role
			got, err := k.login(t.Context(), testHost)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.expires); left > tt.expiry+2*time.Second || left < tt.expiry-time.Minute/2 {
				t.Errorf("the token is good for %v, want %v", left, tt.expiry)
			}
		})
	}
}

// The JWT and the request are, to the letter, what Snowflake's documentation says.
func TestWhatALoginSends(t *testing.T) {
	var form url.Values
	var header http.Header
	k := newKeyPair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form, header = r.PostForm, r.Header
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	}))
	if _, err := k.login(t.Context(), testHost); err == nil || !strings.Contains(err.Error(), "the answer holds no token") {
		t.Errorf("login = %v", err)
	}
	for name, want := range map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "scope": "session:role:Kafka " + testHost,
	} {
		if got := form.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if got := header.Get("Content-Type"); got != "application/x-www-form-urlencoded" {
		t.Errorf("Content-Type = %q", got)
	}
	claims := jwt.MapClaims{}
	token, err := jwt.ParseWithClaims(form.Get("assertion"), claims, func(*jwt.Token) (any, error) { return &testKey().PublicKey, nil })
	if err != nil || token.Method.Alg() != "RS256" {
		t.Fatalf("assertion: %v", err)
	}
	const subject = "MYORG-MY_ACCOUNT.KAFKA_USER"
	if claims["sub"] != subject || claims["iss"] != subject+"."+testFingerprint {
		t.Errorf("claims = %v", claims)
	}
	iat, exp := claims["iat"].(float64), claims["exp"].(float64)
	if now := float64(time.Now().Unix()); iat > now || iat < now-60 || exp-iat > 3600 || exp-iat < 60 {
		t.Errorf("iat %v, exp %v", iat, exp)
	}
	k.JWTAccount, k.Role = "xy12345", ""
	if got := k.subject(); got != "XY12345.KAFKA_USER" {
		t.Errorf("subject = %s", got)
	}
	if got := k.scope(testHost); got != testHost {
		t.Errorf("scope = %s", got)
	}
	if got := k.Account.TokenURL().String(); got != "https://myorg-my-account.snowflakecomputing.com/oauth/token" {
		t.Errorf("URL = %s", got)
	}
}

func TestTokensInAnswers(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	jwtUntil := func(exp string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":`+exp+`}`)) + ".c2lnbmF0dXJl"
	}
	opaque := "ver:1-hint:1234-ETMsDgAAAZ/+=="
	for _, tt := range []struct {
		body, contentType string
		token             string
		life              time.Duration
	}{
		{opaque, "text/plain", opaque, unknownLife},
		{opaque + "\n", "", opaque, unknownLife},
		{`"` + opaque + `"`, "application/json", opaque, unknownLife},
		{jwtUntil("1800000900"), "text/plain", jwtUntil("1800000900"), 15 * time.Minute},
		{jwtUntil("1800000900.5"), "text/plain", jwtUntil("1800000900.5"), 15 * time.Minute},
		{jwtUntil("1799999999"), "text/plain", jwtUntil("1799999999"), unknownLife},
		{jwtUntil("1e300"), "text/plain", jwtUntil("1e300"), unknownLife},
		{jwtUntil("-1e300"), "text/plain", jwtUntil("-1e300"), unknownLife},
		{jwtUntil("9223372036854775807"), "text/plain", jwtUntil("9223372036854775807"), unknownLife},
		{jwtUntil(`1800000900,"aud":7,"iat":"now"`), "text/plain", jwtUntil(`1800000900,"aud":7,"iat":"now"`), 15 * time.Minute},
		{jwtUntil("1800000900") + "!", "text/plain", jwtUntil("1800000900") + "!", 15 * time.Minute},
		{"e30." + base64.RawURLEncoding.EncodeToString([]byte("exp")) + ".c2lnbmF0dXJl", "", "e30.ZXhw.c2lnbmF0dXJl", unknownLife},
		{jwtUntil(`"soon"`), "text/plain", jwtUntil(`"soon"`), unknownLife},
		{`{"access_token":"` + opaque + `","expires_in":600}`, "application/json", opaque, 10 * time.Minute},
		{`{"access_token":"` + opaque + `","expires_in":"600"}`, "application/json", opaque, 10 * time.Minute},
		{`{"access_token":"` + opaque + `","expires_in":-1}`, "application/json", opaque, unknownLife},
		{`{"access_token":"` + jwtUntil("1800000600") + `"}`, "application/json", jwtUntil("1800000600"), 10 * time.Minute},
		{`{"token_type":"Bearer"}`, "application/json", "the answer is JSON without an access_token", 0},
		{`{"access_token":`, "application/json", "the answer is JSON that cannot be decoded", 0},
		{"<!DOCTYPE html><title>Sign in</title>", "text/html; charset=utf-8", "the answer is a web page, such as a sign-in, and not a token", 0},
		{" <html>", "", "the answer is a web page, such as a sign-in, and not a token", 0},
		{"", "text/plain", "the answer holds no token: it is too short for a token", 0},
		{"an error that is in words", "text/plain", "the answer holds no token: a token must not contain spaces, line breaks, commas or quotes", 0},
		{`{"access_token":"evil\r\nX-Header: value"}`, "application/json", "the answer holds no token: a token must not contain spaces, line breaks, commas or quotes", 0},
	} {
		got, life, err := parseToken([]byte(tt.body), tt.contentType, now)
		if err != nil {
			got = err.Error()
		}
		if got != tt.token || life != tt.life {
			t.Errorf("parseToken(%q) = %q, %v, want %q, %v", tt.body, got, life, tt.token, tt.life)
		}
	}
}

// Whatever comes instead of a token: no panic, and what is taken for one fits into a header, and
// lives for more than a moment.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("ver:1-hint:1234-ETMsDgAAAZ/+=="), "text/plain")
	f.Add([]byte(`{"access_token":"aaaaaaaaaaaaaaaaaaaa","expires_in":600}`), "application/json")
	f.Add([]byte(`{"data":null,"code":"390144","message":"JWT token is invalid. [0ce9eb56-821d-4ca9-a774-04ae89a0cf5a]","success":false}`), "")
	f.Add([]byte(`{"error":"invalid_scope","error_description":"no"}`), "application/json")
	f.Add([]byte("e30.eyJleHAiOjE4MDAwMDA5MDB9.c2lnbmF0dXJl"), "")
	f.Add([]byte("<html>"), "text/html")
	k := &KeyPair{User: "u", Account: Account{"a.snowflakecomputing.com", "A"}}
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		value, life, err := parseToken(body, contentType, time.Now())
		if err == nil && (checkToken(value) != nil || life < minLife || life > maxLife*time.Second) {
			t.Errorf("token %q, life %v", value, life)
		}
		for _, status := range []int{200, 302, 400, 403, 500} {
			err := k.refusal(&loginAnswer{status: status, header: http.Header{"Content-Type": {contentType}}, body: body, secret: "secret-assertion"})
			if s := err.Error() + hintOf(err); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) || len(s) > 2000 {
				t.Errorf("refusal = %q", s)
			}
		}
	})
}

// What Snowflake answers to logins, as far as it is known, and what we say.
func TestWhyALoginFails(t *testing.T) {
	const id = "0ce9eb56-821d-4ca9-a774-04ae89a0cf5a"
	snowflakes := func(code, message string) string {
		return fmt.Sprintf(`{"data":null,"code":%q,"message":%q,"success":false}`, code, message)
	}
	for _, tt := range []struct {
		name         string
		status       int
		body         string
		skew         time.Duration
		text, remedy string
		waits        bool
	}{
		{"key", 401, snowflakes("390144", "JWT token is invalid. ["+id+"]"), 0,
			"the key is not accepted (401 Unauthorized, 390144, JWT token is invalid. [" + id + "])",
			"SHOW USER KEY PAIRS FOR USER kafka_user; must list the fingerprint " + testFingerprint + " as ACTIVE", false},
		{"an older key", 401, snowflakes("390144", "JWT token is invalid."), 0, "", "DESCRIBE USER kafka_user; has it as RSA_PUBLIC_KEY_FP", false},
		{"a key that has expired", 401, snowflakes("390144", "JWT token is invalid."), 0, "the key is not accepted",
			"if the key is not there, or EXPIRED, ALTER USER kafka_user ADD KEY PAIR <name> PUBLIC_KEY = '…';", false},
		{"key, details", 401, snowflakes("390144", "JWT token is invalid. ["+id+"]"), 0, "", "SELECT SYSTEM$GET_LOGIN_FAILURE_DETAILS('" + id + "');", false},
		{"fingerprint", 400, snowflakes("394304", "JWT_TOKEN_INVALID_PUBLIC_KEY_FINGERPRINT_MISMATCH"), 0, "the key is not accepted (400 Bad Request, 394304", testFingerprint, false},
		{"clock", 401, snowflakes("390144", "JWT token is invalid."), 3 * time.Minute, "the JWT's time is not accepted; this machine's clock is 3m0s ahead of Snowflake's (401", "set this machine's clock", false},
		{"clock, behind", 401, snowflakes("390144", "JWT token is invalid."), -time.Hour, "this machine's clock is 1h0m0s behind Snowflake's", "timedatectl", false},
		{"clock, said", 401, snowflakes("394302", "JWT_TOKEN_INVALID_ISSUE_TIME"), 0, "the JWT's time is not accepted (401", "set this machine's clock", false},
		{"no user", 401, snowflakes("394300", "JWT_TOKEN_INVALID_USER_IN_ISSUER"), 0, "the account has no such user", "--snowflake-user", false},
		{"other account", 401, snowflakes("394307", "JWT_TOKEN_ACCOUNT_MISMATCH"), 0, "the JWT names another account", "--snowflake-jwt-account", false},
		{"network policy", 403, snowflakes("390422", "Incoming request with IP/Token 192.0.2.1 is not allowed to access Snowflake."), 0,
			"a network policy does not allow this address (403 Forbidden, 390422, Incoming request with IP/Token 192.0.2.1", "SHOW PARAMETERS LIKE 'NETWORK_POLICY' IN USER kafka_user;", false},
		{"disabled", 401, snowflakes("390101", "User access disabled. Contact your local system administrator."), 0, "the user is disabled", "ALTER USER kafka_user SET DISABLED = FALSE;", false},
		{"role", 400, `{"error":"invalid_scope","error_description":"The role requested is not granted."}`, 0, "the role is not accepted", `must list the role Kafka, with the same upper and lower case; else GRANT ROLE "Kafka" TO USER kafka_user;`, false},
		{"policy", 401, snowflakes("390202", "Authentication attempt rejected by the current authentication policy."), 0, "an authentication policy does not allow keys", "KEYPAIR", false},
		{"grant", 400, `{"error":"invalid_grant"}`, 0, "the key is not accepted (400 Bad Request, invalid_grant)", testFingerprint, false},
		{"a success that is none", 200, snowflakes("390144", "JWT token is invalid."), 0, "the key is not accepted (200 OK, 390144", testFingerprint, false},
		{"no account", 403, "<html>", 0, "the account seems not to exist, or something on the way forbids the request (403 Forbidden)", "--snowflake-account", false},
		{"a proxy forbids it", 403, "Access to this site is blocked by policy: JWT, role, user is locked, network policy", 0, "the account seems not to exist, or something on the way forbids the request (403", "--snowflake-account", false},
		{"a token in an error", 202, "ver:1-hint:1234-ETMsDgAAAZ/+==", 0, "it gave no token (202 Accepted)", testFingerprint, false},
		{"the same, quoted", 403, `"ver:1-hint:1234-ETMsDgAAAZ/+=="`, 0, "forbids the request (403 Forbidden)", "--snowflake-account", false},
		{"a JWT in words", 418, "not that: eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl.", 0, "(418 I'm a teapot, not that: ***)", testFingerprint, false},
		{"a name in an error", 400, "JWT_TOKEN_INVALID_ISSUE_TIME", 0, "it gave no token (400 Bad Request, JWT_TOKEN_INVALID_ISSUE_TIME)", testFingerprint, false},
		{"blocked", 400, `{"error":"access_denied","error_description":"blocked, unrolled"}`, 0, "it gave no token (400 Bad Request, access_denied: blocked, unrolled)", testFingerprint, false},
		{"locked", 401, snowflakes("390102", "User temporarily locked."), 0, "the user is locked for now", "DESCRIBE USER", false},
		{"redirect", 302, "", 0, "it answered with a redirect, which is not followed (302 Found to login.example.com)", "--snowflake-account", false},
		{"down", 503, "upstream connect error", 0, "Snowflake cannot answer now (503 Service Unavailable, upstream connect error)", "", true},
		{"too many", 429, "", 0, "there were too many logins (429 Too Many Requests)", "", true},
		{"unknown", 418, "short and stout", 0, "it gave no token (418 I'm a teapot, short and stout)", testFingerprint, false},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			k := newKeyPair(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(-tt.skew).UTC().Format(http.TimeFormat))
				w.Header().Set("Location", "https://login.example.com/session?secret=1")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			_, err := k.login(t.Context(), testHost)
			prefix := "log in to Snowflake at " + k.TokenURL.Host + " as MYORG-MY_ACCOUNT.KAFKA_USER: "
			// A second may pass between the two clocks' readings.
			said := strings.NewReplacer("2m59s", "3m0s", "59m59s", "1h0m0s", "1h0m1s", "1h0m0s", "3m1s", "3m0s").Replace(fmt.Sprint(err))
			if err == nil || !strings.HasPrefix(said, prefix) || !strings.Contains(said, tt.text) || !strings.Contains(hintOf(err), tt.remedy) {
				t.Errorf("login = %v, hint %q; want %q, hint %q", err, hintOf(err), tt.text, tt.remedy)
			}
			if isHopeless(err) == tt.waits {
				t.Errorf("hopeless: %t", isHopeless(err))
			}
		})
	}
}

// Nobody is there, or does not answer in time.
func TestSnowflakeIsNotReached(t *testing.T) {
	over := make(chan struct{})
	k := newKeyPair(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer close(over)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.login(ctx, testHost); err == nil || isHopeless(err) || !strings.Contains(hintOf(err), "--snowflake-account") {
		t.Errorf("login = %v, hint %q", err, hintOf(err))
	}
}
