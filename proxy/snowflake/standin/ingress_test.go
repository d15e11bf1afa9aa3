package standin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWhoComesIn goes through what Snowflake answers to whom.
func TestWhoComesIn(t *testing.T) {
	account := newAccount()
	account.SetUser(User{Name: "BOB", Roles: []string{role}, Blocked: true})
	revoked := account.NewPAT("ALICE", role, time.Hour)
	account.Revoke(revoked)
	token, _, err := account.issue(session{"ALICE", role}, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, _, err := account.issue(session{"ALICE", role}, "def-myorg-myaccount.snowflakecomputing.app")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, &Ingress{Account: account}, instance(t, mirror))
	hidden := start(t, &Ingress{Account: account, HidesRefusals: true}, instance(t, mirror))
	for name, test := range map[string]struct {
		method string // "": GET
		host   string // "": the endpoint
		header []string
		status int
		says   string
	}{
		"a PAT":                          {header: []string{"Authorization", quoted(r.pat)}, status: 200, says: "Sf-Context-Current-User: ALICE\r\n"},
		"without quotes":                 {header: []string{"Authorization", "Snowflake Token=" + r.pat}, status: 200},
		"in the other header":            {header: []string{"X-SF-SPCS-Authorization", quoted(r.pat)}, status: 200},
		"a token for a JWT":              {header: []string{"Authorization", quoted(token)}, status: 200, says: "Sf-Context-Current-User: ALICE\r\n"},
		"nothing":                        {status: 302},
		"another scheme":                 {header: []string{"Authorization", "Bearer " + r.pat}, status: 302},
		"a token nobody knows":           {header: []string{"Authorization", quoted("guessed")}, status: 401, says: "Invalid token supplied"},
		"a revoked PAT":                  {header: []string{"Authorization", quoted(revoked)}, status: 401, says: "Invalid token supplied"},
		"an expired PAT":                 {header: []string{"Authorization", quoted(account.NewPAT("ALICE", role, -time.Second))}, status: 401, says: "The token has expired"},
		"a user whom a policy keeps out": {header: []string{"Authorization", quoted(account.NewPAT("BOB", role, time.Hour))}, status: 403, says: "network policy"},
		"a user who is no more":          {header: []string{"Authorization", quoted(account.NewPAT("CAROL", role, time.Hour))}, status: 401, says: "Invalid token"},
		"a role without the endpoint":    {header: []string{"Authorization", quoted(account.NewPAT("ALICE", "PUBLIC", time.Hour))}, status: 404},
		"a role that the user lost":      {header: []string{"Authorization", quoted(account.NewPAT("ALICE", "ADMIN", time.Hour))}, status: 404},
		"a token for another endpoint":   {header: []string{"Authorization", quoted(elsewhere)}, status: 404},
		"another host":                   {host: "gone-myorg-myaccount.snowflakecomputing.app", header: []string{"Authorization", quoted(r.pat)}, status: 404},
		"TRACE":                          {method: "TRACE", header: []string{"Authorization", quoted(r.pat)}, status: 405},
		"another site's page":            {method: "POST", header: []string{"Origin", "https://elsewhere.example", "Cookie", "sfc-ss-ingress-auth-v1-x=y"}, status: 403, says: "Rejecting a CORS request since cookie was present"},
		"another site's page that reads": {method: "GET", header: []string{"Origin", "https://elsewhere.example", "Cookie", "sfc-ss-ingress-auth-v1-x=y"}, status: 302},
	} {
		t.Run(name, func(t *testing.T) {
			if test.method == "" {
				test.method = "GET"
			}
			if test.host == "" {
				test.host = endpoint
			}
			header := make(http.Header)
			for i := 0; i < len(test.header); i += 2 {
				header.Set(test.header[i], test.header[i+1])
			}
			response, body := r.do(t, test.method, "https://"+test.host+"/culvert", header, nil)
			if response.StatusCode != test.status || response.ProtoMajor != 1 {
				t.Errorf("%s over %s, want %d: %s", response.Status, response.Proto, test.status, body)
			}
			wantIn(t, body, test.says)
			wantIn(t, response.Header.Get("Set-Cookie"), "sfc-ss-")
			if response.Header.Get("Server") != "_" {
				t.Errorf("Server %q, want _", response.Header.Get("Server"))
			}
			wantRefusal(t, response, body)
			if test.status == 401 || test.status == 403 {
				if response, _ := hidden.do(t, test.method, "https://"+test.host+"/culvert", header, nil); !strings.Contains(test.says, "CORS") && response.StatusCode != 404 {
					t.Errorf("an ingress that hides it answered %s", response.Status)
				}
			}
		})
	}
}

// wantRefusal fails the test if the ingress's own answer has not its form.
func wantRefusal(t *testing.T, response *http.Response, body string) {
	t.Helper()
	switch response.StatusCode {
	case 302:
		wantIn(t, response.Header.Get("Location"), "https://myorg-myaccount.snowflakecomputing.com/")
	case 401:
		var answer map[string]string
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(answer["requestId"]) {
			t.Errorf("requestId %q", answer["requestId"])
		}
		wantIn(t, answer["responseType"], "ERROR_")
	}
}

func TestConnectIsBanned(t *testing.T) {
	r := start(t, &Ingress{}, instance(t, mirror))
	response, _ := r.do(t, "CONNECT", "https://"+endpoint, http.Header{"Authorization": {quoted(r.pat)}}, nil)
	if response.StatusCode != 405 {
		t.Errorf("answered %s", response.Status)
	}
}

// TestWhatTheInstanceGets has a client send what it should not be able to.
func TestWhatTheInstanceGets(t *testing.T) {
	sent := func(pat string) http.Header {
		return http.Header{
			"X-Sf-Spcs-Authorization": {quoted(pat)}, "Authorization": {"Bearer ours"},
			"Sf-Context-Current-User": {"ROOT", "ADMIN"}, "Culvert-Authorization": {"Bearer ours"},
		}
	}
	r := start(t, &Ingress{}, instance(t, mirror))
	_, got := r.do(t, "GET", "https://"+endpoint+"/", sent(r.pat), nil)
	wantIn(t, got, "Authorization: Bearer ours", "Culvert-Authorization: Bearer ours")
	if strings.Contains(got, r.pat) || strings.Contains(got, "ROOT") || strings.Count(got, "Sf-Context-Current-User: ") != 1 {
		t.Errorf("the instance got\n%s", got)
	}
	if _, got := r.get(t); strings.Contains(got, "Authorization") {
		t.Errorf("the instance got\n%s", got)
	}

	r = start(t, &Ingress{PassesUser: true}, instance(t, mirror))
	_, got = r.do(t, "GET", "https://"+endpoint+"/", sent(r.pat), nil)
	wantIn(t, got, "Sf-Context-Current-User: ROOT\r\n", "Sf-Context-Current-User: ALICE\r\n")

	r = start(t, &Ingress{TokenHeaders: []string{"Authorization"}}, instance(t, mirror))
	if response, _ := r.do(t, "GET", "https://"+endpoint+"/", sent(r.pat), nil); response.StatusCode != 302 {
		t.Errorf("answered %s to a header that is not looked at", response.Status)
	}
}

func TestWhatTheClientGets(t *testing.T) {
	kind := "application/octet-stream"
	r := start(t, &Ingress{}, instance(t, func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Server": "gateway", "X-Powered-By": "Go", "Access-Control-Allow-Origin": "*", "Culvert-Gateway": "1.0", "Content-Type": kind,
		} {
			w.Header().Set(name, value)
		}
	}))
	response, _ := r.get(t)
	for name, want := range map[string]string{
		"Server": "_", "X-Powered-By": "", "Access-Control-Allow-Origin": "", "Culvert-Gateway": "1.0", "X-Frame-Options": "SAMEORIGIN",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	wantIn(t, response.Header.Get("Content-Security-Policy"), "default-src")
	kind = "application/x-sh; charset=utf-8"
	if response, _ := r.get(t); response.StatusCode != 403 {
		t.Errorf("an executable was answered with %s", response.Status)
	}
	if got := r.Stats().Answers; got[200] != 1 || got[403] != 1 {
		t.Errorf("answers %v, want one 200 and one 403", got)
	}
}

func TestWhatIsNotHTTPIsRefusedAtOnce(t *testing.T) {
	r := start(t, &Ingress{}, instance(t, mirror))
	c := tlsTo(t, r)
	if _, err := c.Write([]byte{0, 0, 0, 26, 0, 18, 0, 4}); err != nil { // a Kafka client's ApiVersions
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	wantIn(t, string(answer), "HTTP/1.1 400 ")
}

// TestRequestsAndResponsesFlowAtTheSameTime has an instance answer each byte of a request before
// the next one is sent.
func TestRequestsAndResponsesFlowAtTheSameTime(t *testing.T) {
	for name, in := range map[string]*Ingress{"HTTP/1.1": {}, "HTTP/2.0": {HTTP2: true}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, in, instance(t, parrot))
			body, said := io.Pipe()
			request, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+endpoint+"/", body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", quoted(r.pat))
			response, err := r.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.Proto != name {
				t.Errorf("answered over %s", response.Proto)
			}
			for _, b := range []byte("duplex") {
				if _, err := said.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
				var got [1]byte
				if _, err := io.ReadFull(response.Body, got[:]); err != nil || got[0] != b {
					t.Fatalf("got %q, %v, want %q", got, err, b)
				}
			}
			said.Close()
			if rest, err := io.ReadAll(response.Body); len(rest) > 0 || err != nil {
				t.Errorf("%q, %v behind the end", rest, err)
			}
		})
	}
}

// parrot sends back each byte when it comes.
func parrot(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	rc.Flush()
	buf := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r.Body, buf); err != nil {
			return
		}
		w.Write(buf)
		rc.Flush()
	}
}

// TestBuffersHoldsAResponseBack has an instance say something and then wait for its client, who has
// not heard it.
func TestBuffersHoldsAResponseBack(t *testing.T) {
	heard := make(chan bool)
	r := start(t, &Ingress{Buffers: true}, instance(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first ")
		http.NewResponseController(w).Flush()
		select {
		case <-heard:
			t.Error("a part of the response came")
		case <-time.After(50 * time.Millisecond): // long enough to fail now and then if it were wrong
		}
		io.WriteString(w, "last")
	}))
	request, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+endpoint+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", quoted(r.pat))
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	close(heard)
	if body, _ := io.ReadAll(response.Body); string(body) != "first last" || response.ContentLength != 10 {
		t.Errorf("got %q, announced as %d bytes", body, response.ContentLength)
	}
}

func TestWebSocketsAreRelayed(t *testing.T) {
	r := start(t, &Ingress{}, instance(t, echo))
	c := r.webSocket(t, dialRig(t, r))
	for _, message := range []string{"a", strings.Repeat("b", 1<<20)} {
		if err := say(c, message); err != nil {
			t.Fatal(err)
		}
	}
	// It ends with the ingress: see start.
	if got := r.Stats().Answers; got[101] != 1 {
		t.Errorf("answers %v, want one 101", got)
	}
}
