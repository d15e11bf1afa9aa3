package snowflake

import (
	"crypto/rsa"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// What the ingress answers, and which of our meanings that has: as documented, as reported, or as
// guessed from what Snowflake says elsewhere.
var ingressAnswers = []struct {
	name     string // of the meaning
	status   int
	location string
	header   http.Header
	body     string
	want     string // in the text
	remedy   string // for a key's user
}{
	{"sign-in", 302, "myorg-myaccount.snowflakecomputing.com", nil, "",
		"the Snowflake ingress asks for a sign-in: it does not accept the token that Snowflake gave for the key (302 Found to myorg-myaccount.snowflakecomputing.com)", "DESCRIBE USER kafka_user;"},
	{"sign-in", 303, "login.example.com", nil, "", "the Snowflake ingress, or something before it, asks for a sign-in", "DESCRIBE USER"},
	{"CORS", 403, "", nil, "Rejecting a CORS request since cookie was present, and request does not have an auth header", "treats this as a web page's request", "Origin"},
	{"no network policy", 401, "", nil, `{"responseType":"ERROR_NETWORK_POLICY","requestId":"7e1","detail":"Network policy is required to use a programmatic access token."}`,
		"accepts no programmatic access token of a user without a network policy (401 Unauthorized, ERROR_NETWORK_POLICY, Network policy is required to use a programmatic access token., request id 7e1)", "ALTER USER kafka_user SET NETWORK_POLICY"},
	{"network policy", 403, "", nil, `{"responseType":"ERROR_NETWORK_POLICY","requestId":"7e1","detail":"Request failed network policy check"}`,
		"the Snowflake ingress does not admit this address: a network policy does not allow it (403 Forbidden, ERROR_NETWORK_POLICY, Request failed network policy check, request id 7e1)", "SHOW PARAMETERS LIKE 'NETWORK_POLICY' IN USER kafka_user;"},
	{"network policy", 401, "", http.Header{"Server": {"_"}}, `{"message":"Incoming request with IP/Token 192.0.2.1 is not allowed to access Snowflake."}`, "192.0.2.1", "checkip"},
	{"user disabled", 401, "", nil, `{"responseType":"ERROR_AUTH","requestId":"7e1","detail":"User access disabled."}`, "does not admit this user", "ALTER USER kafka_user SET DISABLED = FALSE;"},
	{"expired", 401, "", nil, `{"responseType":"ERROR_INVALID_TOKEN","requestId":"7e1","detail":"The token has expired"}`, "does not accept the token any more: it has expired", "DESCRIBE USER"},
	{"role", 403, "", nil, `{"responseType":"ERROR_UNAUTHORIZED","requestId":"7e1","detail":"Role R has insufficient privileges"}`,
		"the role that the token is for may not use this endpoint", `GRANT SERVICE ROLE <service>!ALL_ENDPOINTS_USAGE TO ROLE "Kafka";`},
	{"revoked", 401, "", nil, `{"responseType":"ERROR_INVALID_TOKEN","requestId":"7e1","detail":"The token was revoked"}`, "it was revoked or disabled", "DESCRIBE USER"},
	{"not a token", 401, "", nil, `{"responseType":"ERROR_INVALID_TOKEN","requestId":"7e1","detail":"Invalid token supplied"}`,
		"the Snowflake ingress does not accept the token that Snowflake gave for the key (401 Unauthorized, ERROR_INVALID_TOKEN, Invalid token supplied, request id 7e1)", "DESCRIBE USER"},
	{"forbidden", 403, "", http.Header{"Server": {"_"}}, "", "the Snowflake ingress does not let this user use the endpoint (403 Forbidden)", "GRANT SERVICE ROLE"},
	{"forbidden by others", 403, "", http.Header{"Server": {"squid"}}, "<html>blocked</html>", "the Snowflake ingress, or something before it, forbids the request, in words that are not Snowflake's (403 Forbidden)", "inspect TLS"},
	{"forbidden by others", 403, "", nil, "Access to this site is blocked by policy", "or something before it, forbids the request", "proxy"},
	{"forbidden by others", 403, "", nil, `{"message":"User jane is locked, her role has no network policy: token revoked"}`, "or something before it, forbids the request", "proxy"},
	{"forbidden by others", 403, "", http.Header{"Location": {"https://snowflake.example.com"}}, "role", "or something before it, forbids the request", "proxy"},
	{"forbidden", 403, "", http.Header{"Server": {"_"}}, "blocked, unrolled", "the Snowflake ingress does not let this user use the endpoint", "GRANT"},
	{"not a token", 401, "", nil, "user is locked", "or something before it, does not accept the token", "DESCRIBE USER"},
	{"not there", 404, "", http.Header{"Set-Cookie": {"sfc-ss-x=y"}}, "Not Found",
		"the Snowflake ingress shows no endpoint to this user: it does not exist (any more), is not public, or the role may not use it; the answer is the same for all three (404 Not Found)", "SHOW ENDPOINTS IN SERVICE <service>; must list " + testHost},
	{"service down", 503, "", nil, "no healthy upstream", "gets no answer from the service: it is starting, suspended, in maintenance, or not ready (503 Service Unavailable, no healthy upstream)", "SHOW SERVICE INSTANCES"},
	{"service down", 500, "", nil, "", "gets no answer from the service", "by itself"},
	{"service down", 504, "", nil, "", "gets no answer from the service", "by itself"},
	{"too many", 429, "", nil, "", "got too many requests", "by itself"},
	{"a page", 200, "", nil, "<html>", "answered as a web server does, not as a culvert gateway", "SHOW ENDPOINTS"},
}

func TestWhatTheIngressAnswersInWords(t *testing.T) {
	i := &Ingress{Names: flags, Host: testHost, KeyPair: &KeyPair{User: "kafka_user", Role: "Kafka", Key: func() (*rsa.PrivateKey, error) { return testKey(), nil }}}
	defer i.Close()
	met := make(map[string]bool)
	for _, tt := range ingressAnswers {
		met[tt.name] = true
		e := &tunnel.AnswerError{
			Transport: tunnel.TransportWS, Status: tt.status, Location: tt.location, Header: tt.header, Body: []byte(tt.body),
		}
		i.Refused(http.Header{}, e)
		if !strings.Contains(e.Error(), tt.want) || !strings.Contains(e.HintFor(nil), tt.remedy) || !e.Final {
			t.Errorf("%s: %s\n\thint: %s\nwant %q, hint %q", tt.name, e, e.HintFor(nil), tt.want, tt.remedy)
		}
		if meant := meaning(e); meant != tt.name {
			t.Errorf("%d %s: taken for %q, want %q", tt.status, tt.body, meant, tt.name)
		}
	}
	for _, c := range answerCases {
		if !met[c.name] {
			t.Errorf("%q is never met", c.name)
		}
	}
}

func meaning(e *tunnel.AnswerError) string {
	a := readAnswer(e, "")
	for _, c := range answerCases {
		if c.fits(a) {
			return c.name
		}
	}
	return ""
}

// Names in remedies are fit for SQL.
func TestRemediesAreSQL(t *testing.T) {
	for user, want := range map[string]string{
		"kafka_user": "kafka_user", "KAFKA$1": "KAFKA$1", "jane.doe@example.com": `"jane.doe@example.com"`, `o"k`: `"o""k"`, "1st": `"1st"`,
	} {
		k := &KeyPair{User: user, Role: "Kafka", Account: Account{"a.snowflakecomputing.com", "A"}}
		i := &Ingress{Names: flags, Host: testHost, KeyPair: k}
		named := 0
		check := func(name, remedy string) {
			if at := strings.Index(remedy, " USER "); at >= 0 && !strings.HasPrefix(remedy[at:], " USER SET") {
				named++
				if !strings.Contains(remedy, " USER "+want+";") && !strings.Contains(remedy, " USER "+want+" ") {
					t.Errorf("%s of %s: %s", name, user, remedy)
				}
			}
		}
		for _, c := range answerCases {
			check(c.name, c.remedy(i))
		}
		for _, c := range loginCases {
			what := c.remedy(k, &loginAnswer{})
			check(c.text, hints.Names(flags).Sprintf(what.format, what.args...))
		}
		if named < 10 {
			t.Errorf("%d remedies name %s", named, user)
		}
	}
}

// A redirect is Snowflake's if it leads to one of its hosts.
func TestWhoRedirects(t *testing.T) {
	for to, want := range map[string]bool{
		"myorg-a.snowflakecomputing.com": true, "myorg-a.SnowflakeComputing.com:443": true, "a.snowflakecomputing.cn": true, "app.snowflake.com": true,
		testHost: true, "a.privatelink.snowflake.app": true, "snowflake.login.example.com": false, "evilsnowflake.com": false,
		"login.example.com": false, "/snowflake": false, "": false,
	} {
		if got := readAnswer(&tunnel.AnswerError{Status: 302, Location: to}, "").fromIngress(); got != want {
			t.Errorf("a redirect to %q is the ingress's: %t", to, got)
		}
	}
}

// Each meaning has its row in the documentation, with our words.
func TestThePageHasEveryMeaning(t *testing.T) {
	page, err := os.ReadFile("../../docs/ingress.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	i := &Ingress{Names: flags, PAT: func() (string, error) { return "pat", nil }}
	for _, c := range answerCases {
		if words := c.text(i); !strings.Contains(text, words) {
			t.Errorf("docs/ingress.md does not have %q of %q", words, c.name)
		}
	}
	for _, c := range loginCases {
		if !strings.Contains(text, c.text) {
			t.Errorf("docs/ingress.md does not have %q", c.text)
		}
	}
}

// What came over another transport may be about the transport, whoever says it.
func TestAnAnswerIsFinalOverWebSocketAlone(t *testing.T) {
	for transport, want := range map[string]bool{tunnel.TransportWS: true, tunnel.TransportH2: false, tunnel.TransportH3: false} {
		for _, server := range []string{"_", "squid"} {
			e := &tunnel.AnswerError{Transport: transport, Status: 404, Header: http.Header{"Server": {server}}}
			(&Ingress{Names: flags, Host: testHost}).Refused(http.Header{}, e)
			if e.Final != want {
				t.Errorf("%s: final = %t", transport, e.Final)
			}
		}
	}
	e := &tunnel.AnswerError{Transport: tunnel.TransportH2, Status: 405, Header: http.Header{"Server": {"_"}}}
	(&Ingress{Names: flags, Host: testHost}).Refused(http.Header{}, e)
	if e.Final || e.Error() != "the Snowflake ingress answered 405 Method Not Allowed" {
		t.Errorf("%s, final: %t", e, e.Final)
	}
}

// Credentials are to blame for what came over WebSocket, or over what has worked.
func TestAnAnswerOverAnotherTransportLeavesCredentialsAlone(t *testing.T) {
	for _, tt := range []struct {
		transport    string
		proven, want bool
	}{{tunnel.TransportWS, false, true}, {tunnel.TransportH2, false, false}, {tunnel.TransportH3, false, false}, {tunnel.TransportH2, true, true}} {
		i := &Ingress{Names: flags, Host: testHost, PAT: func() (string, error) { return "pat-that-somebody-has-given", nil }}
		h := http.Header{}
		if err := i.Authorize(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		again := i.Refused(h, &tunnel.AnswerError{Transport: tt.transport, Proven: tt.proven, Status: 401, Header: http.Header{"Server": {"_"}}})
		if other := i.forms.current() != forms[0]; again != tt.want || other != tt.want {
			t.Errorf("%+v: again %t, in another form %t", tt, again, other)
		}
	}
}

// A PAT whose end can be read, and is past, says so.
func TestAPATThatHasExpiredSaysSo(t *testing.T) {
	pat := "e30.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJl" // {"exp":1700000000}
	i := &Ingress{Names: flags, Host: testHost, PAT: func() (string, error) { return pat, nil }}
	e := &tunnel.AnswerError{Status: 302, Location: "x.snowflakecomputing.com"}
	i.Refused(http.Header{}, e)
	if want := "does not accept the programmatic access token, which expired at 2023-11-14T22:13:20Z (302"; !strings.Contains(e.Error(), want) {
		t.Errorf("explained as %s, want %s", e, want)
	}
}
