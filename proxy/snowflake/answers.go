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

// An answer is what the ingress, or something before it, gave instead of the gateway.
type answer struct {
	*tunnel.AnswerError
	kind      string // responseType
	detail    string
	requestID string
	to        string // where a redirect leads
	page      bool   // HTML
}

// readAnswer finds the ingress's own words, without the secrets that it was sent.
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

// fromIngress reports whether the answer has the ingress's marks: its Server header, its cookies,
// its JSON, or a redirect to Snowflake's own sign-in.
func (a *answer) fromIngress() bool {
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

// who is whoever answered.
func (a *answer) who() string {
	if a.fromIngress() {
		return "the Snowflake ingress"
	}
	return "the Snowflake ingress, or something before it,"
}

// said is the answer itself: status, name, detail and request id.
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

// An explanation is what an answer means.
type explanation struct {
	text, remedy string
	credentials  bool // another token, or another form of it, may be accepted
	final        bool // the answer would be the same over any transport
}

// An answerCase is one meaning, and which answers have it.
type answerCase struct {
	name        string
	fits        func(a *answer) bool
	text        func(i *Ingress) string
	remedy      func(i *Ingress) string
	credentials bool
}

// answerCases are all meanings that are known. The first that fits counts, so the narrow ones come
// first. Snowflake documents neither the answers nor their words: these are from its pages about
// errors of logins and from what its users report. A meaning with credentials is worth a new token:
// that may belong to a role that was granted meanwhile, or end a mistake about the form in which it
// is sent.
var answerCases = []answerCase{
	{
		// What a browser gets without a token, and what a token gets that the ingress does not
		// recognize as one.
		name: "sign-in", credentials: true,
		fits: (*answer).isRedirect,
		text: signInText, remedy: tokenRemedy,
	},
	{
		// The ingress refuses a request with Origin and a cookie that has no token.
		name:   "CORS",
		fits:   func(a *answer) bool { return a.Status == http.StatusForbidden && a.says("cors") },
		text:   always("treats this as a web page's request, which it is not"),
		remedy: always("what on the way adds an Origin header or a cookie? A proxy that does so must exempt this host"),
	},
	{
		// Before the next one, whose words these contain. A PAT needs a policy by default:
		// https://docs.snowflake.com/user-guide/programmatic-access-tokens
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
		fits:   func(a *answer) bool { return a.Status == http.StatusForbidden && a.fromIngress() },
		text:   always("does not let this user use the endpoint"),
		remedy: grantRemedy,
	},
	{
		// Credentials all the same: the ingress may have lost its marks on the way.
		name: "forbidden by others", credentials: true,
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
		// Not 501, with which proxies refuse an Upgrade or a method.
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
		// 200 to an Upgrade: a service that is not a gateway, or a captive portal.
		name: "a page",
		fits: func(a *answer) bool { return a.Status/100 == 2 },
		text: always("answered as a web server does, not as a culvert gateway"),
		remedy: always("is this host the gateway's endpoint, and not another of the service's? " +
			"SHOW ENDPOINTS IN SERVICE <service>; shows port and ingress_url of each"),
	},
}

// explain finds what an answer means.
func (i *Ingress) explain(a *answer) explanation {
	for _, c := range answerCases {
		if c.fits(a) {
			return explanation{
				text:        fmt.Sprintf("%s %s (%s)", a.who(), c.text(i), a.said()),
				remedy:      c.remedy(i),
				credentials: c.credentials,
				final:       a.Transport == tunnel.TransportWS,
			}
		}
	}
	return explanation{text: fmt.Sprintf("%s answered %s", a.who(), a.said())}
}

func (a *answer) isRedirect() bool { return a.Status/100 == 3 }

// refusalThatSays fits a 401 or 403 of the ingress itself whose words contain one of texts. A proxy
// on the way may have users and policies of its own.
func refusalThatSays(texts ...string) func(*answer) bool {
	return func(a *answer) bool {
		return (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) && a.fromIngress() && a.says(texts...)
	}
}

// says reports whether the answer's words contain one of texts, in lower case.
func (a *answer) says(texts ...string) bool { return contains(a.kind+" "+a.detail, texts...) }

// always is a text that depends on nothing.
func always(text string) func(*Ingress) string { return func(*Ingress) string { return text } }

// withUser fills in the user if it is known.
func withUser(format string) func(*Ingress) string {
	return func(i *Ingress) string { return fmt.Sprintf(format, i.user()) }
}

// user is the user as SQL writes it, or a placeholder: whose a programmatic access token is, only
// Snowflake knows.
func (i *Ingress) user() string {
	if i.PAT != nil || i.KeyPair == nil {
		return "<user>"
	}
	return i.KeyPair.sqlUser()
}

// role is the role as SQL writes it, or a placeholder.
func (i *Ingress) role() string {
	if i.PAT != nil || i.KeyPair == nil || i.KeyPair.Role == "" {
		return "<role>"
	}
	return quoted(i.KeyPair.Role)
}

// hasCredentials reports whether a token is sent at all.
func (i *Ingress) hasCredentials() bool { return i.PAT != nil || i.KeyPair != nil }

// signInText tells apart a token that was not recognized and one that was not sent.
func signInText(i *Ingress) string {
	if !i.hasCredentials() {
		return "asks for a sign-in, and this agent has no credentials for it"
	}
	return "asks for a sign-in: it does not accept " + i.tokenName()
}

// giveCredentials is what to do without credentials.
func (i *Ingress) giveCredentials() string {
	return i.Names.Sprintf("give the agent %s, or %s with %s and %s", patFile, keyFile, accountName, userName)
}

// tokenName names the token that the ingress was sent.
func (i *Ingress) tokenName() string {
	if i.PAT == nil {
		return "the token that Snowflake gave for the key"
	}
	if at, ok := i.patExpiry(); ok && time.Now().After(at) {
		return "the programmatic access token, which expired at " + at.UTC().Format(time.RFC3339)
	}
	return "the programmatic access token"
}

// patExpiry is when the programmatic access token expires, if it says so.
func (i *Ingress) patExpiry() (time.Time, bool) {
	pat, err := i.PAT()
	if err != nil {
		return time.Time{}, false
	}
	return expiryOf(pat)
}

// tokenText does the same for a 401.
func tokenText(i *Ingress) string {
	if !i.hasCredentials() {
		return "asks for a token, and this agent has no credentials for it"
	}
	return "does not accept " + i.tokenName()
}

// tokenRemedy asks about the token if there is one.
func tokenRemedy(i *Ingress) string {
	switch {
	case !i.hasCredentials():
		return i.giveCredentials()
	case i.PAT != nil:
		return i.Names.Sprintf("is it complete, of this account, and ACTIVE in SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER <user>;? A new token in %s is used at once", patFile)
	}
	return fmt.Sprintf("is %s a host of the account %s? DESCRIBE USER %s; shows whether the user is disabled", i.Host, i.KeyPair.Account, i.user())
}

// grantRemedy lets a role use the endpoint, which takes more than the service role.
func grantRemedy(i *Ingress) string {
	return i.grant() + " and USAGE on the database and schema are what it needs; SHOW GRANTS OF SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE; lists who may"
}

// grant is the SQL that lets the role use the endpoint. A programmatic access token may be
// restricted to one role, which only Snowflake knows.
func (i *Ingress) grant() string {
	role := i.role()
	if i.PAT != nil {
		role = "<the token's ROLE_RESTRICTION>"
	}
	return fmt.Sprintf("GRANT SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE TO ROLE %s;", role)
}

// notFoundRemedy asks whether the endpoint exists, and then about the grant.
func notFoundRemedy(i *Ingress) string {
	if !i.hasCredentials() {
		return i.giveCredentials()
	}
	return fmt.Sprintf("SHOW ENDPOINTS IN SERVICE <service>; must list %s as an ingress_url: another one is given when a service "+
		"is dropped and created again; if it does, %s", i.Host, i.grant())
}
