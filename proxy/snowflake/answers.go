package snowflake

import (
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
	page      bool // HTML
}

// readAnswer finds the ingress's own words, in which the secret that it was shown
// has no place.
func readAnswer(e *tunnel.AnswerError, secret string) *answer {
	a := &answer{AnswerError: e, page: isHTML(e.Type, string(e.Body))}
	var body struct {
		Kind      string `json:"responseType"`
		RequestID string `json:"requestId"`
		Detail    string `json:"detail"`
		Message   string `json:"message"`
	}
	if json.Unmarshal(e.Body, &body) == nil {
		a.kind, a.requestID = printable(scrub(body.Kind, secret)), printable(scrub(body.RequestID, secret))
		a.detail = printable(scrub(strings.Join(nonEmpty(body.Detail, body.Message), ": "), secret))
	} else if !a.page {
		line, _, _ := strings.Cut(strings.TrimSpace(string(e.Body)), "\n")
		a.detail = printable(scrub(line, secret))
	}
	if a.requestID == "" {
		a.requestID = printable(e.Header.Get("X-Snowflake-Request-Id"))
	}
	return a
}

// fromEdge reports whether the answer has the ingress's marks: its name for itself,
// its cookies, its JSON, or a redirect to Snowflake's own sign-in.
func (a *answer) fromEdge() bool {
	if a.kind != "" || a.Header.Get("Server") == "_" || strings.Contains(a.Location, "snowflake") {
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
	if a.Status/100 == 3 && a.Location != "" {
		said += " to " + printable(a.Location)
	}
	for _, more := range nonEmpty(a.kind, a.detail) {
		said += ", " + more
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
	{"sign-in", (*answer).isRedirect, signInText, signInRemedy, true},
	{"CORS", func(a *answer) bool { return a.Status == http.StatusForbidden && a.says("cors") }, always("takes this for a request of a web page, which culvert's are not"),
		always("what on the way adds an Origin header or a cookie? A proxy that does must leave this host alone"), false},
	{"no network policy", func(a *answer) bool {
		return a.isRefusal() && a.says("network policy is required", "requires a network policy")
	},
		always("takes no programmatic access token of a user whom no network policy covers"),
		withUser("ALTER USER %s SET NETWORK_POLICY = …; or an authentication policy with PAT_POLICY = (NETWORK_POLICY_EVALUATION = …) that lifts the rule"), false},
	{"network policy", func(a *answer) bool {
		return a.isRefusal() && a.says("network policy", "network_policy", "not allowed to access snowflake", "ip address", "ip/token")
	}, always("keeps this address out: a network policy does not list it"),
		withUser("SHOW PARAMETERS LIKE 'NETWORK_POLICY' IN USER %[1]s; and … IN ACCOUNT; name the policy that must allow the address that Snowflake sees, which curl https://checkip.amazonaws.com shows"), false},
	{"user disabled", func(a *answer) bool {
		return a.isRefusal() && a.says("user access disabled", "user is disabled", "disabled user", "locked")
	}, always("lets this user in no more: it is disabled or locked"), withUser("DESCRIBE USER %[1]s; shows DISABLED and SNOWFLAKE_LOCK; ALTER USER %[1]s SET DISABLED = FALSE;"), false},
	{"expired", func(a *answer) bool { return a.isRefusal() && a.says("expired") }, expiredText, tokenRemedy, true},
	{"role", func(a *answer) bool {
		return a.isRefusal() && a.says("role", "privilege", "insufficient", "not authorized", "unauthorized to")
	},
		always("knows the user, but the role that the token is for may not use this endpoint"), grantRemedy, true},
	{"revoked", func(a *answer) bool { return a.isRefusal() && a.says("revoked", "disabled", "rotated", "deleted") },
		always("does not take the token any more: it was revoked or disabled"), tokenRemedy, true},
	{"not a token", func(a *answer) bool { return a.Status == http.StatusUnauthorized }, tokenText, tokenRemedy, true},
	{"forbidden", func(a *answer) bool { return a.Status == http.StatusForbidden && a.fromEdge() },
		always("does not let this user use the endpoint"), grantRemedy, true},
	{"forbidden by who knows", func(a *answer) bool { return a.Status == http.StatusForbidden },
		always("forbids it, in words that are not Snowflake's"),
		always("is there a proxy or firewall between here and Snowflake that looks into TLS? It must let WebSockets to this host pass"), true},
	{"not there", func(a *answer) bool { return a.Status == http.StatusNotFound },
		always("shows nothing there to this user: the endpoint does not exist (any more), is not public, or the role may not use it; these answers are all alike"), notFoundRemedy, true},
	{"service down", func(a *answer) bool {
		return a.Status == http.StatusInternalServerError || a.Status == http.StatusBadGateway || a.Status == http.StatusServiceUnavailable || a.Status == http.StatusGatewayTimeout
	}, always("gets no answer from the service: it is starting, suspended, in maintenance, or not ready"),
		always("it is tried again by itself; SHOW SERVICE INSTANCES IN SERVICE <service>; shows its state, and SELECT SYSTEM$GET_SERVICE_LOGS('<service>', '0', 'gateway'); what it says"), false},
	{"too many", func(a *answer) bool { return a.Status == http.StatusTooManyRequests },
		always("had too many requests"), always("it is tried again by itself"), false},
	{"a page", func(a *answer) bool { return a.Status/100 == 2 },
		always("answered as a web server does, not as a culvert gateway"),
		always("is this host the gateway's endpoint, and not another of the service's? SHOW ENDPOINTS IN SERVICE <service>; shows port and ingress_url of each"), false},
}

// explain says what an answer means.
func (i *Ingress) explain(a *answer) verdict {
	for _, c := range answerCases {
		if c.fits(a) {
			return verdict{
				text:        fmt.Sprintf("%s %s (%s)", a.who(), c.text(i), a.said()),
				remedy:      c.remedy(i),
				credentials: c.credentials,
				final:       a.Transport == tunnel.TransportWS || a.fromEdge(),
			}
		}
	}
	return verdict{text: fmt.Sprintf("%s answered %s", a.who(), a.said())}
}

func (a *answer) isRedirect() bool { return a.Status/100 == 3 }

func (a *answer) isRefusal() bool {
	return a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden
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
	return i.KeyPair.User
}

func (i *Ingress) role() string {
	if i.PAT != nil || i.KeyPair == nil || i.KeyPair.Role == "" {
		return "<role>"
	}
	return i.KeyPair.Role
}

func (i *Ingress) hasCredentials() bool { return i.PAT != nil || i.KeyPair != nil }

func signInText(i *Ingress) string {
	if !i.hasCredentials() {
		return "wants us to sign in, and this agent has no credentials for it"
	}
	return "wants us to sign in: it does not take " + i.tokenName()
}

func signInRemedy(i *Ingress) string {
	if !i.hasCredentials() {
		return giveCredentials
	}
	return tokenRemedy(i)
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

func expiredText(i *Ingress) string { return "does not take the token any more: it has expired" }

func tokenText(i *Ingress) string {
	if !i.hasCredentials() {
		return "wants a token, and this agent has no credentials for it"
	}
	return "does not take " + i.tokenName()
}

func tokenRemedy(i *Ingress) string {
	switch {
	case !i.hasCredentials():
		return giveCredentials
	case i.PAT != nil:
		return "is it whole, of this account, and ACTIVE in SHOW USER PROGRAMMATIC ACCESS TOKENS FOR USER <user>;? What is written to --snowflake-pat-file is used at once"
	}
	return fmt.Sprintf("is %s a host of the account %s? DESCRIBE USER %s; shows whether the user is disabled", i.Host, i.KeyPair.Account, i.KeyPair.User)
}

func grantRemedy(i *Ingress) string {
	grant := fmt.Sprintf("GRANT SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE TO ROLE %[1]s; and USAGE on database and schema let it in; SHOW GRANTS OF SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE; lists who may", i.role())
	if i.PAT != nil {
		return grant + "; the role of a programmatic access token is its ROLE_RESTRICTION"
	}
	return grant
}

func notFoundRemedy(i *Ingress) string {
	if !i.hasCredentials() {
		return giveCredentials
	}
	return fmt.Sprintf("SHOW ENDPOINTS IN SERVICE <service>; must list %s as an ingress_url: another one is given when a service is dropped and created again; if it does, GRANT SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE TO ROLE %s;", i.Host, i.role())
}
