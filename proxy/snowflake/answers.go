package snowflake

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// An answer is what the ingress, or something before it, gave in the gateway's
// place.
type answer struct {
	*tunnel.AnswerError
	kind      string // responseType
	detail    string
	requestID string
	to        string // where a redirect leads
	page      bool   // HTML
}

// readAnswer finds the ingress's own words, in which the secrets that it was sent
// have no place.
func readAnswer(e *tunnel.AnswerError, secrets ...string) *answer {
	own := func(s string) string { return words(scrub(s, secrets...)) }
	a := &answer{AnswerError: e, page: isHTML(e.Type, string(e.Body)), to: own(e.Location)}
	var body struct {
		Kind      string `json:"responseType"`
		RequestID string `json:"requestId"`
		Detail    string `json:"detail"`
		Message   string `json:"message"`
	}
	if json.Unmarshal(e.Body, &body) == nil {
		a.kind, a.requestID = own(body.Kind), own(body.RequestID)
		a.detail = own(strings.Join(nonEmpty(body.Detail, body.Message), ": "))
	} else if !a.page {
		line, _, _ := strings.Cut(strings.TrimSpace(string(e.Body)), "\n")
		a.detail = own(line)
	}
	a.requestID = cmp.Or(a.requestID, own(e.Header.Get("X-Snowflake-Request-Id")))
	return a
}

// fromEdge reports whether the answer has the ingress's marks: its name for itself,
// its cookies, its JSON, or a redirect to Snowflake's own sign-in.
func (a *answer) fromEdge() bool {
	if a.kind != "" || a.Header.Get("Server") == "_" || isSnowflakes(a.Location) {
		return true
	}
	for _, c := range a.Header.Values("Set-Cookie") {
		if strings.HasPrefix(c, "sfc-ss-") {
			return true
		}
	}
	return false
}

// who answered.
func (a *answer) who() string {
	if a.fromEdge() {
		return "the Snowflake ingress"
	}
	return "the Snowflake ingress, or something before it,"
}

// said is what the answer was, word for word.
func (a *answer) said() string {
	said := fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status))
	if a.Status/100 == 3 && a.to != "" {
		said += " to " + a.to
	}
	for _, more := range nonEmpty(a.kind, a.detail) {
		if more != http.StatusText(a.Status) {
			said += ", " + more
		}
	}
	if a.requestID != "" {
		said += ", request id " + a.requestID
	}
	return said
}

// A verdict is what an answer means.
type verdict struct {
	text, remedy string
	credentials  bool // another token, or another form of it, may be accepted
	final        bool // the answer is the ingress's own, whatever the transport
}

// An answerCase is one meaning, and the answers that have it.
type answerCase struct {
	name        string
	fits        func(a *answer) bool
	text        func(i *Ingress) string
	remedy      func(i *Ingress) string
	credentials bool
}

// answerCases are all meanings that are known. The first that fits counts.
var answerCases = []answerCase{
	{
		name: "sign-in", credentials: true,
		fits: (*answer).isRedirect,
		text: signInText, remedy: tokenRemedy,
	},
	{
		name:   "CORS",
		fits:   func(a *answer) bool { return a.Status == http.StatusForbidden && a.says("cors") },
		text:   always("treats this as a web page's request, which it is not"),
		remedy: always("what on the way adds an Origin header or a cookie? A proxy that does so must exempt this host"),
	},
	{
		name: "no network policy",
		fits: refusalThatSays("network policy is required", "requires a network policy"),
		text: always("accepts no programmatic access token of a user without a network policy"),
		remedy: withUser("ALTER USER %s SET NETWORK_POLICY = …; or an authentication policy with " +
			"PAT_POLICY = (NETWORK_POLICY_EVALUATION = …) that lifts the rule"),
	},
	{
		name: "network policy",
		fits: refusalThatSays("network policy", "network_policy", "not allowed to access snowflake", "ip address", "ip/token"),
		text: always("does not admit this address: a network policy does not allow it"),
		remedy: withUser("SHOW PARAMETERS LIKE 'NETWORK_POLICY' IN USER %s; and … IN ACCOUNT; name the policy that must allow " +
			"the address that Snowflake sees, which curl https://checkip.amazonaws.com shows"),
	},
	{
		name:   "user disabled",
		fits:   refusalThatSays("user access disabled", "user is disabled", "disabled user", "locked"),
		text:   always("does not admit this user: the user is disabled or locked"),
		remedy: withUser("DESCRIBE USER %[1]s; shows DISABLED and SNOWFLAKE_LOCK; ALTER USER %[1]s SET DISABLED = FALSE;"),
	},
	{
		name: "expired", credentials: true,
		fits:   refusalThatSays("expired"),
		text:   always("does not accept the token any more: it has expired"),
		remedy: tokenRemedy,
	},
	{
		name: "role", credentials: true,
		fits:   refusalThatSays("role", "roles", "privilege", "privileges", "insufficient", "not authorized", "unauthorized to"),
		text:   always("knows the user, but the role that the token is for may not use this endpoint"),
		remedy: grantRemedy,
	},
	{
		name: "revoked", credentials: true,
		fits:   refusalThatSays("revoked", "disabled", "rotated", "deleted"),
		text:   always("does not accept the token any more: it was revoked or disabled"),
		remedy: tokenRemedy,
	},
	{
		name: "not a token", credentials: true,
		fits: func(a *answer) bool { return a.Status == http.StatusUnauthorized },
		text: tokenText, remedy: tokenRemedy,
	},
	{
		name: "forbidden", credentials: true,
		fits:   func(a *answer) bool { return a.Status == http.StatusForbidden && a.fromEdge() },
		text:   always("does not let this user use the endpoint"),
		remedy: grantRemedy,
	},
	{
		name: "forbidden by who knows", credentials: true,
		fits:   func(a *answer) bool { return a.Status == http.StatusForbidden },
		text:   always("forbids the request, in words that are not Snowflake's"),
		remedy: always("does a proxy or firewall between here and Snowflake inspect TLS? It must let WebSockets to this host pass"),
	},
	{
		name: "not there", credentials: true,
		fits: func(a *answer) bool { return a.Status == http.StatusNotFound },
		text: always("shows no endpoint to this user: it does not exist (any more), is not public, " +
			"or the role may not use it; the answer is the same for all three"),
		remedy: notFoundRemedy,
	},
	{
		name: "service down",
		fits: func(a *answer) bool { return a.Status/100 == 5 && a.Status != http.StatusNotImplemented },
		text: always("gets no answer from the service: it is starting, suspended, in maintenance, or not ready"),
		remedy: always("the agent tries again by itself; SHOW SERVICE INSTANCES IN SERVICE <service>; shows its state, and " +
			"SELECT SYSTEM$GET_SERVICE_LOGS('<service>', '0', 'gateway'); what it says"),
	},
	{
		name:   "too many",
		fits:   func(a *answer) bool { return a.Status == http.StatusTooManyRequests },
		text:   always("got too many requests"),
		remedy: always("the agent tries again by itself"),
	},
	{
		name: "a page",
		fits: func(a *answer) bool { return a.Status/100 == 2 },
		text: always("answered as a web server does, not as a culvert gateway"),
		remedy: always("is this host the gateway's endpoint, and not another of the service's? " +
			"SHOW ENDPOINTS IN SERVICE <service>; shows port and ingress_url of each"),
	},
}

// explain says what an answer means.
func (i *Ingress) explain(a *answer) verdict {
	for _, c := range answerCases {
		if c.fits(a) {
			return verdict{
				text:        fmt.Sprintf("%s %s (%s)", a.who(), c.text(i), a.said()),
				remedy:      c.remedy(i),
				credentials: c.credentials,
				final:       a.Transport == tunnel.TransportWS,
			}
		}
	}
	return verdict{text: fmt.Sprintf("%s answered %s", a.who(), a.said())}
}

func (a *answer) isRedirect() bool { return a.Status/100 == 3 }

// refusalThatSays fits a 401 or 403 of the ingress's own among whose words is one of
// texts. Others may have their own users and policies.
func refusalThatSays(texts ...string) func(*answer) bool {
	return func(a *answer) bool {
		return (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) && a.fromEdge() && a.says(texts...)
	}
}

// says reports whether one of texts, in lower case, is among the answer's words.
func (a *answer) says(texts ...string) bool { return contains(a.kind+" "+a.detail, texts...) }

func always(text string) func(*Ingress) string { return func(*Ingress) string { return text } }

// withUser fills in the user where it is known.
func withUser(format string) func(*Ingress) string {
	return func(i *Ingress) string { return fmt.Sprintf(format, i.user()) }
}

func (i *Ingress) user() string {
	if i.PAT != nil || i.KeyPair == nil {
		return "<user>"
	}
	return i.KeyPair.sqlUser()
}

func (i *Ingress) role() string {
	if i.PAT != nil || i.KeyPair == nil || i.KeyPair.Role == "" {
		return "<role>"
	}
	return quoted(i.KeyPair.Role)
}

func (i *Ingress) hasCredentials() bool { return i.PAT != nil || i.KeyPair != nil }

func signInText(i *Ingress) string {
	if !i.hasCredentials() {
		return "asks for a sign-in, and this agent has no credentials for it"
	}
	return "asks for a sign-in: it does not accept " + i.tokenName()
}

const giveCredentials = "give the agent --snowflake-pat-file, or --snowflake-private-key-file with --snowflake-account and --snowflake-user"

// tokenName is what the ingress was shown.
func (i *Ingress) tokenName() string {
	if i.PAT == nil {
		return "the token that Snowflake gave for the key"
	}
	if at, ok := i.patExpiry(); ok && time.Now().After(at) {
		return "the programmatic access token, which expired at " + at.UTC().Format(time.RFC3339)
	}
	return "the programmatic access token"
}

// patExpiry reads the end of the token's life, where it can be read.
func (i *Ingress) patExpiry() (time.Time, bool) {
	pat, err := i.PAT()
	if err != nil {
		return time.Time{}, false
	}
	return expiryOf(pat)
}

func tokenText(i *Ingress) string {
	if !i.hasCredentials() {
		return "asks for a token, and this agent has no credentials for it"
	}
	return "does not accept " + i.tokenName()
}

func tokenRemedy(i *Ingress) string {
	switch {
	case !i.hasCredentials():
		return giveCredentials
	case i.PAT != nil:
		return "is it complete, of this account, and ACTIVE in SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER <user>;? A new token in --snowflake-pat-file is used at once"
	}
	return fmt.Sprintf("is %s a host of the account %s? DESCRIBE USER %s; shows whether the user is disabled", i.Host, i.KeyPair.Account, i.user())
}

func grantRemedy(i *Ingress) string {
	return i.grant() + " and USAGE on the database and schema are what it needs; SHOW GRANTS OF SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE; lists who may"
}

func (i *Ingress) grant() string {
	role := i.role()
	if i.PAT != nil {
		role = "<the token's ROLE_RESTRICTION>"
	}
	return fmt.Sprintf("GRANT SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE TO ROLE %s;", role)
}

func notFoundRemedy(i *Ingress) string {
	if !i.hasCredentials() {
		return giveCredentials
	}
	return fmt.Sprintf("SHOW ENDPOINTS IN SERVICE <service>; must list %s as an ingress_url: another one is given when a service "+
		"is dropped and created again; if it does, %s", i.Host, i.grant())
}
