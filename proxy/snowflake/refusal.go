package snowflake

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A loginAnswer is what came instead of a token.
type loginAnswer struct {
	status      int
	header      http.Header
	body        []byte
	skew        time.Duration
	fingerprint string
	secret      string // that was sent, and may be in the answer

	known bool   // it has a code of Snowflake's, or an error of OAuth's
	code  string // Snowflake's, such as 390144
	text  string // what the answer says
}

// read finds Snowflake's code and words in the body, which has one of several forms.
func (a *loginAnswer) read() {
	var body struct {
		Code        any    `json:"code"`
		Message     string `json:"message"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	text := strings.TrimSpace(string(a.body))
	if json.Unmarshal(a.body, &body) == nil {
		if body.Code != nil {
			a.code = fmt.Sprint(body.Code)
		}
		text = strings.Join(nonEmpty(body.Error, body.Message, body.Description), ": ")
	} else if isHTML(a.header.Get("Content-Type"), text) || isToken(text) {
		text = ""
	}
	a.text = words(scrub(text, a.secret))
	if a.code == "" {
		a.code = codeForm.FindString(a.text)
	}
	a.code = strings.TrimSuffix(words(a.code), ".0")
	a.known = codeForm.MatchString(a.code) || body.Error != ""
}

// codeForm matches the codes of Snowflake's errors about logins.
var codeForm = regexp.MustCompile(`\b39\d{4}\b`)

// loginCases say what answers to a login mean. The first that fits counts, so what has a cause of
// its own comes before "the key is not accepted". The codes 3943xx are those of
// https://docs.snowflake.com/user-guide/key-pair-auth-troubleshooting; users mostly see 390144, and
// administrators the rest.
var loginCases = []struct {
	fits   func(a *loginAnswer) bool
	text   string
	remedy func(k *KeyPair, a *loginAnswer) remedy
}{
	{isRedirect, "it answered with a redirect, which is not followed", accountRemedy},
	{says("not allowed to access snowflake", "network policy", "390422"), "a network policy does not allow this address", networkRemedy},
	{saysJWT(func(a *loginAnswer) bool {
		return a.skew.Abs() > skewWorthSaying || strings.Contains(a.code+a.text, "394302") || strings.Contains(a.code+a.text, "394303") ||
			strings.Contains(a.text, "ISSUE_TIME") || strings.Contains(a.text, "EXPIRATION_TIME")
	}), "the JWT's time is not accepted", clockRemedy},
	{says("394300", "user_in_issuer"), "the account has no such user", userRemedy},
	{says("394307", "account_mismatch"), "the JWT names another account than the URL", accountRemedy},
	{saysJWT(func(*loginAnswer) bool { return true }), "the key is not accepted", keyRemedy},
	{says("access disabled", "user is disabled", "390101"), "the user is disabled", disabledRemedy},
	{says("locked", "390102"), "the user is locked for now", disabledRemedy},
	{says("role", "roles", "invalid_scope", "390186", "390189"), "the role is not accepted", roleRemedy},
	{says("authentication policy", "authentication method", "authentication methods"), "an authentication policy does not allow keys for this user", policyRemedy},
	{says("invalid_grant", "invalid_client", "incorrect username", "390100"), "the key is not accepted", keyRemedy},
	{hasStatus(http.StatusTooManyRequests), "there were too many logins", noRemedy},
	{isServers, "Snowflake cannot answer now", noRemedy},
	{hasStatus(http.StatusNotFound, http.StatusForbidden), "the account seems not to exist, or something on the way forbids the request", accountRemedy},
}

// refusal says what an answer without a token means. Only 5xx and 429 end by themselves; all else
// is hopeless until somebody changes something.
func (k *KeyPair) refusal(a *loginAnswer) error {
	a.read()
	text, what := "it gave no token", keyRemedy
	for _, c := range loginCases {
		if c.fits(a) {
			text, what = c.text, c.remedy
			break
		}
	}
	if a.skew.Abs() > skewWorthSaying {
		text += "; " + skewSentence(a.skew)
	}
	said := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if to := redirectHost(a.header); isRedirect(a) && to != "" {
		said += " to " + to
	}
	if !strings.Contains(a.text, a.code) {
		said += ", " + a.code
	}
	if a.text != "" {
		said += ", " + a.text
	}
	return &loginError{
		text:     text + " (" + said + ")",
		remedy:   what(k, a),
		hopeless: !isServers(a) && a.status != http.StatusTooManyRequests,
		tooMany:  a.status == http.StatusTooManyRequests,
	}
}

// says fits answers of Snowflake's whose code or words contain one of texts.
func says(texts ...string) func(*loginAnswer) bool {
	return func(a *loginAnswer) bool { return a.known && !isServers(a) && contains(a.code+" "+a.text, texts...) }
}

// saysJWT fits answers that are about the JWT.
func saysJWT(and func(*loginAnswer) bool) func(*loginAnswer) bool {
	about := says("390144", "39430", "jwt")
	return func(a *loginAnswer) bool { return about(a) && and(a) }
}

// hasStatus fits answers with one of some statuses, whoever gave them.
func hasStatus(list ...int) func(*loginAnswer) bool {
	return func(a *loginAnswer) bool { return slices.Contains(list, a.status) }
}

func isRedirect(a *loginAnswer) bool { return a.status/100 == 3 }
func isServers(a *loginAnswer) bool  { return a.status/100 == 5 }

// redirectHost is where a redirect leads, which says whose it is: often that of a company's
// sign-in. The rest of the URL may hold secrets.
func redirectHost(h http.Header) string {
	u, err := url.Parse(h.Get("Location"))
	if err != nil {
		return ""
	}
	return words(u.Host)
}

// The remedies name the SQL that shows the cause, with the names that are known.

func noRemedy(*KeyPair, *loginAnswer) remedy { return remedy{} }

// keyRemedy shows the fingerprint, which Snowflake shows too: that tells whether the key is
// registered. A user may have ten named keys, so that keys can be rotated, and each may expire.
// Snowflake's answer does not tell a key that has expired from one that it does not know.
func keyRemedy(k *KeyPair, a *loginAnswer) remedy {
	return remedyf("SHOW USER KEY PAIRS FOR USER %s; must list the fingerprint %s as ACTIVE, unless DESCRIBE USER %s; has it as RSA_PUBLIC_KEY_FP or RSA_PUBLIC_KEY_2_FP; "+
		"if the key is not there, or EXPIRED, ALTER USER %s ADD KEY PAIR <name> PUBLIC_KEY = '…'; with a public half adds one; account and user are %s%s",
		k.sqlUser(), a.fingerprint, k.sqlUser(), k.sqlUser(), k.subject(), failureDetails(a))
}

// userRemedy shows the account too: it may be the one that is wrong.
func userRemedy(k *KeyPair, a *loginAnswer) remedy {
	return remedyf("is %s right? Account and user are %s; some accounts want another form of their name, %s%s", userName, k.subject(), jwtAccountName, failureDetails(a))
}

// accountRemedy shows both of the account's names, which may need to be set apart.
func accountRemedy(k *KeyPair, _ *loginAnswer) remedy {
	return remedyf("is %s right? SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME(); says it; here the account is %s at %s, and %s and %s change either", accountName,
		strings.TrimSuffix(k.subject(), "."+strings.ToUpper(k.User)), k.url().Host, jwtAccountName, tokenURL)
}

// clockRemedy repeats no times: skewSentence is in the error.
func clockRemedy(*KeyPair, *loginAnswer) remedy {
	return remedyf("set this machine's clock: a JWT that is more than a minute old or not yet valid is refused; timedatectl shows whether NTP is on")
}

func networkRemedy(k *KeyPair, _ *loginAnswer) remedy {
	return remedyf("SHOW PARAMETERS LIKE 'NETWORK_POLICY' IN USER %s; and … IN ACCOUNT; name the policy that must allow the address that Snowflake sees", k.sqlUser())
}

func disabledRemedy(k *KeyPair, _ *loginAnswer) remedy {
	return remedyf("DESCRIBE USER %s; shows DISABLED and SNOWFLAKE_LOCK; ALTER USER %s SET DISABLED = FALSE;", k.sqlUser(), k.sqlUser())
}

// roleRemedy is about the user's default role if no role is set. Role names keep their case, other
// than users' names.
func roleRemedy(k *KeyPair, _ *loginAnswer) remedy {
	if k.Role == "" {
		return remedyf("does the user have a default role that may be used here? DESCRIBE USER %s; shows it; %s names another", k.sqlUser(), roleName)
	}
	return remedyf("SHOW GRANTS TO USER %s; must list the role %s, with the same upper and lower case; else GRANT ROLE %s TO USER %s;",
		k.sqlUser(), k.Role, quoted(k.Role), k.sqlUser())
}

func policyRemedy(k *KeyPair, _ *loginAnswer) remedy {
	return remedyf("does AUTHENTICATION_METHODS of the user's authentication policy have KEYPAIR? SHOW AUTHENTICATION POLICIES ON USER %s;", k.sqlUser())
}

// uuidForm matches the id that Snowflake gives a failure.
var uuidForm = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// failureDetails is the query that tells an administrator more about a failure.
func failureDetails(a *loginAnswer) string {
	id := uuidForm.FindString(a.text)
	if id == "" {
		return ""
	}
	return fmt.Sprintf("; SELECT SYSTEM$GET_LOGIN_FAILURE_DETAILS('%s'); says more to an administrator", id)
}
