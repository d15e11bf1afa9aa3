package snowflake

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A rig is an agent's dialer, Snowflake's ingress, and a gateway behind it.
type rig struct {
	t       *testing.T
	account *standin.Account
	door    *standin.Ingress
	service *standin.Service
	ingress *Ingress
	dialer  *tunnel.Dialer

	mu       sync.Mutex
	log      bytes.Buffer
	requests []string // to the endpoint: how a token was shown
	pat      string
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// newRig starts all of it. The agent has the key pair of a user that may use the endpoint.
func newRig(t *testing.T, adapt func(*rig)) *rig {
	r := &rig{t: t}
	var k *KeyPair
	r.account, k = newAccount(t, nil)
	r.service = &standin.Service{Hosts: []string{testHost}, Roles: []string{"Kafka"}, Instances: []standin.Instance{{Address: startGateway(t)}}}
	r.door = &standin.Ingress{Account: r.account, Services: []*standin.Service{r.service}}
	server := httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(server.Close)
	log := slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.ingress = &Ingress{Names: flags, Host: testHost, KeyPair: k, Logger: log}
	config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com"
	r.dialer = &tunnel.Dialer{
		URL: &url.URL{Scheme: "https", Host: testHost}, Transport: tunnel.TransportWS, TLS: config, Ingress: r.ingress, Logger: log,
		Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}
	if adapt != nil {
		adapt(r)
	}
	t.Cleanup(func() {
		r.dialer.Close()
		r.ingress.Close()
	})
	return r
}

// serve notes how a token is shown.
func (r *rig) serve(w http.ResponseWriter, req *http.Request) {
	_, which, ok := readForm(req.Header)
	shown := "nothing"
	if ok {
		shown = fmt.Sprint(forms[which].header, forms[which].quote)
	}
	r.mu.Lock()
	r.requests = append(r.requests, shown)
	r.mu.Unlock()
	r.door.ServeHTTP(w, req)
}

// asked returns the requests since it was called last.
func (r *rig) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.requests
	r.requests = nil
	return asked
}

// usePAT has the agent use a programmatic access token.
func (r *rig) usePAT(pat string) {
	r.mu.Lock()
	r.pat = pat
	r.mu.Unlock()
	r.ingress.PAT = func() (string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.pat, nil
	}
}

func startGateway(t *testing.T) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tunnel.Server{
		Opened: func() tunnel.Opened { return tunnel.Opened{} },
		Serve: func(ctx context.Context, c *tunnel.Conn, _ *tunnel.Open, _ *tunnel.Peer) {
			c.Read(make([]byte, 1)) // the end
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx, ln, nil) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		s.Shutdown(ctx)
	})
	return ln.Addr().String()
}

// dial opens and ends a stream.
func (r *rig) dial() error {
	c, err := r.dialer.Dial(r.t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err == nil {
		c.Close()
	}
	return err
}

// patiently dials until it works, or until err is no more what is waited for.
func (r *rig) patiently() {
	r.t.Helper()
	for late := time.Now().Add(time.Minute); ; {
		err := r.dial()
		if err == nil {
			return
		}
		if time.Now().After(late) {
			r.t.Fatalf("it never works: %v", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.t.Context().Done():
		}
	}
}

func wantAsked(t *testing.T, r *rig, want ...string) {
	t.Helper()
	if got := r.asked(); !slices.Equal(got, want) {
		t.Errorf("asked with %q, want %q", got, want)
	}
}

const (
	shownFirst  = `Authorization"`
	shownSecond = `X-SF-SPCS-Authorization"`
	shownThird  = `Authorization`
)

func TestAKeyPairLeadsThroughTheIngress(t *testing.T) {
	r := newRig(t, nil)
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	r.asked()
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	wantAsked(t, r, shownFirst)
	if n := r.account.Logins(); n != (standin.Logins{Granted: 1}) {
		t.Errorf("logins = %+v", n)
	}
}

func TestAPATLeadsThroughTheIngress(t *testing.T) {
	r := newRig(t, func(r *rig) { r.usePAT(r.account.NewPAT("KAFKA_USER", "Kafka", time.Hour)) })
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	if n := r.account.Logins(); n != (standin.Logins{}) {
		t.Errorf("logins = %+v", n)
	}
}

// A token that the ingress takes no more is replaced within the dial.
func TestARefusedTokenIsReplaced(t *testing.T) {
	r := newRig(t, nil)
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	r.account.Revoke(r.ingress.tokens.current())
	r.asked()
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	wantAsked(t, r, shownFirst, shownFirst)
	if n := r.account.Logins(); n != (standin.Logins{Granted: 2}) {
		t.Errorf("logins = %+v", n)
	}
}

// What is written to the PAT's file is used at once, and no other form of the old one is tried when
// there is a new one.
func TestAnotherPATIsUsedAtOnce(t *testing.T) {
	var old string
	r := newRig(t, func(r *rig) {
		old = r.account.NewPAT("KAFKA_USER", "Kafka", time.Hour)
		r.usePAT(old)
	})
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	r.account.Revoke(old)
	r.asked()
	err := r.dial()
	const want = "the Snowflake ingress does not accept the programmatic access token (401 Unauthorized, ERROR_INVALID_TOKEN, "
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ", request id ") || !strings.Contains(hintOf(err), "SHOW USER PROGRAMMATIC ACCESS TOKENS") {
		t.Errorf("Dial = %v, hint %q", err, hintOf(err))
	}
	wantAsked(t, r, shownFirst, shownSecond, shownThird)
	r.usePAT(r.account.NewPAT("KAFKA_USER", "Kafka", time.Hour))
	r.patiently()
	asked := r.asked()
	if slices.Contains(asked, shownSecond) || len(asked) > 4 {
		t.Errorf("asked with %q", asked)
	}
}

// Where only the other header is looked at, it is found, and kept.
func TestTheFormThatWorksIsKept(t *testing.T) {
	r := newRig(t, func(r *rig) { r.door.TokenHeaders = []string{"X-Sf-Spcs-Authorization"} })
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	if asked := r.asked(); !slices.Equal(asked[:3], []string{shownFirst, shownFirst, shownSecond}) {
		t.Errorf("asked with %q", asked)
	}
	for range 3 {
		if err := r.dial(); err != nil {
			t.Fatal(err)
		}
	}
	wantAsked(t, r, shownSecond, shownSecond, shownSecond)
}

// An ingress that supports nothing but WebSockets, and is slow with them, says nothing of
// WebSockets when it refuses HTTP/2.
func TestAnAnswerOverH2LeavesWebSocketAlone(t *testing.T) {
	r := newRig(t, nil)
	posted := make(chan struct{})
	var once sync.Once
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor == 2 {
			w.Header().Set("Server", "_")
			w.WriteHeader(http.StatusNotFound)
			once.Do(func() { time.AfterFunc(300*time.Millisecond, func() { close(posted) }) })
			return
		}
		select {
		case <-posted:
		case <-req.Context().Done():
			return
		}
		req.Host = testHost
		r.serve(w, req)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	r.dialer.URL = &url.URL{Scheme: "https", Host: server.Listener.Addr().String()}
	r.dialer.Transport = tunnel.TransportAuto
	r.dialer.DialContext = nil
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	state := r.dialer.State()
	if asked := r.asked(); state.Transport != tunnel.TransportWS || slices.ContainsFunc(asked, func(shown string) bool { return shown != shownFirst }) {
		t.Errorf("asked with %q, and uses %q", asked, state.Transport)
	}
	if h2 := state.Tried[2]; h2.Transport != tunnel.TransportH2 || !strings.Contains(h2.Error, "404 Not Found") {
		t.Errorf("%+v", h2)
	}
	if n := r.account.Logins(); n != (standin.Logins{Granted: 1}) {
		t.Errorf("logins = %+v", n)
	}
}

// Clients that try again and again cost a few requests, and hardly a login.
func TestNoStormOfRequestsAndLogins(t *testing.T) {
	r := newRig(t, func(r *rig) { r.service.Hosts = []string{"another-one.snowflakecomputing.app"} })
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			for range 50 {
				if err := r.dial(); err == nil || !strings.Contains(err.Error(), "shows no endpoint to this user") {
					t.Errorf("Dial = %v", err)
				}
			}
		})
	}
	clients.Wait()
	asked, logins := r.asked(), r.account.Logins()
	if len(asked) < 4 || len(asked) > 8 || logins.Granted != 2 || logins.Refused != 0 {
		t.Errorf("1000 dials: asked with %q, logins %+v", asked, logins)
	}
}

// A login that is refused is not repeated by clients either.
func TestNoStormOfRefusedLogins(t *testing.T) {
	r := newRig(t, func(r *rig) { r.account.SetUser(standin.User{Name: "KAFKA_USER", Roles: []string{"Kafka"}}) })
	for range 1000 {
		err := r.dial()
		if err == nil || !strings.Contains(err.Error(), "credentials for the ingress: log in to Snowflake") || !strings.Contains(hintOf(err), testFingerprint) {
			t.Fatalf("Dial = %v, hint %q", err, hintOf(err))
		}
	}
	if asked, logins := r.asked(), r.account.Logins(); len(asked) != 0 || logins.Refused > 2 {
		t.Errorf("1000 dials: asked with %q, logins %+v", asked, logins)
	}
}

// A service that is starting is waited for, with the token that there is.
func TestASuspendedServiceIsWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	instances := r.service.Instances
	r.door.Services = []*standin.Service{{Hosts: r.service.Hosts, Roles: r.service.Roles}}
	err := r.dial()
	if err == nil || !strings.Contains(err.Error(), "gets no answer from the service: it is starting, suspended") || !strings.Contains(hintOf(err), "SHOW SERVICE INSTANCES") {
		t.Errorf("Dial = %v, hint %q", err, hintOf(err))
	}
	r.door.Services[0].Instances = instances
	r.patiently()
	if n := r.account.Logins(); n != (standin.Logins{Granted: 1}) {
		t.Errorf("logins = %+v", n)
	}
}

// An ingress without credentials explains what it would have needed.
func TestWithoutCredentials(t *testing.T) {
	r := newRig(t, func(r *rig) { r.ingress.KeyPair = nil })
	err := r.dial()
	if err == nil || !strings.Contains(err.Error(), "the Snowflake ingress asks for a sign-in, and this agent has no credentials for it (302 Found to myorg-my-account.snowflakecomputing.com)") || !strings.Contains(hintOf(err), "--snowflake-pat-file") {
		t.Errorf("Dial = %v, hint %q", err, hintOf(err))
	}
	wantAsked(t, r, "nothing")
}

// Nothing secret is in a log, an error or a hint, whatever goes wrong.
func TestSecretsStaySecret(t *testing.T) {
	for name, adapt := range map[string]func(r *rig){
		"all well":         nil,
		"no such endpoint": func(r *rig) { r.service.Hosts = nil },
		"no such user":     func(r *rig) { r.account.SetUser(standin.User{Name: "KAFKA_USER"}) },
		"blocked": func(r *rig) {
			r.account.SetUser(standin.User{Name: "KAFKA_USER", Roles: []string{"Kafka"}, Keys: []*rsa.PublicKey{&testKey().PublicKey}, Blocked: true})
		},
		"a wrong PAT": func(r *rig) { r.usePAT("pat-that-nobody-has-given") },
		"an echo":     func(r *rig) { r.door = nil },
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			r := newRig(t, adapt)
			var secrets []string
			if r.door == nil { // all that it is sent comes back
				echo := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					req.ParseForm()
					if s := req.PostForm.Get("assertion"); s != "" {
						secrets = append(secrets, s)
					}
					w.WriteHeader(http.StatusUnauthorized)
					fmt.Fprintf(w, `{"responseType":"ERROR","requestId":"1","detail":%q,"message":%q}`, req.Header.Get("Authorization"), req.PostForm.Get("assertion"))
				}))
				t.Cleanup(echo.Close)
				r.ingress.KeyPair.TokenURL, _ = url.Parse(echo.URL)
				r.ingress.KeyPair.HTTP = echo.Client().Transport
			}
			err := r.dial()
			said := fmt.Sprint(err) + hintOf(err)
			said += r.logged()
			if r.ingress.tokens != nil && r.ingress.tokens.current() != "" {
				secrets = append(secrets, r.ingress.tokens.current())
			}
			if r.pat != "" {
				secrets = append(secrets, r.pat)
			}
			for _, s := range secrets {
				if strings.Contains(said, s[len(s)/4:len(s)/4+16]) { // what is long is said in part
					t.Errorf("%.12s… is in %s", s, said)
				}
			}
			if strings.Contains(said, "Token=") || len(said) == 0 {
				t.Errorf("said %s", said)
			}
		})
	}
	// An ingress that repeats the token that it refuses.
	i := &Ingress{Names: flags, Host: testHost, PAT: func() (string, error) { return "pat-that-nobody-has-given", nil }}
	h := http.Header{}
	i.Authorize(t.Context(), h)
	e := &tunnel.AnswerError{Status: 401, Body: []byte(`{"responseType":"ERROR","requestId":"7","detail":"bad token pat-that-nobody-has-given"}`)}
	i.Refused(h, e)
	if want := "the Snowflake ingress does not accept the programmatic access token (401 Unauthorized, ERROR, bad token ***, request id 7)"; e.Error() != want {
		t.Errorf("explained as %s, want %s", e, want)
	}
}

// Something before the gateway repeats all that it is sent, and the agent does not.
func TestAnEchoIsNotRepeated(t *testing.T) {
	const pat, own = "pat-that-somebody-has-given", "culvert-token-that-somebody-has-given"
	echo := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var said strings.Builder
		for name, values := range req.Header {
			fmt.Fprintf(&said, "%s: %s ", name, values)
		}
		w.Header().Set("Location", "/"+url.PathEscape(req.Header.Get("Culvert-Authorization")))
		w.Header().Set("X-Snowflake-Request-Id", req.Header.Get("Culvert-Authorization"))
		w.WriteHeader(map[string]int{"/a/culvert": 403, "/b/culvert": 302}[req.URL.Path])
		fmt.Fprint(w, "not you: ", req.Header.Get("Culvert-Authorization"), " ", said.String())
	}))
	t.Cleanup(echo.Close)
	for _, path := range []string{"/a", "/b"} {
		r := newRig(t, func(r *rig) {
			r.usePAT(pat)
			r.dialer.URL = &url.URL{Scheme: "https", Host: echo.Listener.Addr().String(), Path: path}
			r.dialer.DialContext = nil
			r.dialer.Token = func() (string, error) { return own, nil }
		})
		err := r.dial()
		said := fmt.Sprint(err) + hintOf(err) + r.logged()
		if err == nil || !strings.Contains(said, "not you: Bearer ***") || strings.Contains(said, "has-given") {
			t.Errorf("said %s", said)
		}
	}
}

// While nothing is accepted, new tokens and other forms are tried less and less often.
func TestRoundsOfAttemptsBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c formChooser
		renewals, tries := 0, 0
		begin := time.Now()
		for time.Since(begin) < 24*time.Hour { // an ingress that refuses everything, asked every other second
			for {
				tries++
				if !c.other(c.now, yes, func() bool { renewals++; return true }) {
					break
				}
			}
			if c.current() != forms[0] {
				t.Fatalf("after a round the form is %v", c.current())
			}
			time.Sleep(2 * time.Second)
		}
		extra := tries - 24*3600/2
		if renewals < 24*60/5 || renewals > 400 || extra > 3*renewals {
			t.Errorf("%d renewals and %d tries of other forms in a day", renewals, extra)
		}
	})
}

// A form that has worked is the one to return to.
func TestARoundReturnsToTheFormThatWorked(t *testing.T) {
	c := formChooser{now: 1}
	var tried []int
	for c.other(c.now, yes, no) {
		tried = append(tried, c.now)
	}
	if !slices.Equal(tried, []int{2, 0}) || c.now != 1 {
		t.Errorf("tried %v and returned to %d", tried, c.now)
	}
}

func TestScrub(t *testing.T) {
	const secret = "0123456789abcdefSECRET"
	for s, want := range map[string]string{
		"":                                   "",
		"no secret":                          "no secret",
		secret:                               "***",
		"a " + secret + " b " + secret + "c": "a *** b ***c",
		"cut " + secret[:19]:                 "cut ***",
		"other 0123456789abcdefghi":          "other ***ghi",
		"short 0123456789":                   "short 0123456789",
		"a JWT eyJhbGciOiJIUzI1NiJ9.e30.c2k": "a JWT ***",
		"key eyes.example.com":               "key eyes.example.com",
	} {
		if got := scrub(s, "another secret", secret); got != want {
			t.Errorf("scrub(%q) = %q, want %q", s, got, want)
		}
	}
	if got := scrub("kept", ""); got != "kept" {
		t.Errorf("scrub of no secret = %q", got)
	}
}

func yes() bool { return true }
func no() bool  { return false }

// Two exchanges with the same token are refused at the same time: the one that comes second finds
// what the first has decided, and does not move on from that.
func TestWhoIsSecondSeesWhatTheFirstDid(t *testing.T) {
	var c formChooser
	var token atomic.Int32
	again := c.other(0, func() bool {
		if c.mu.TryLock() {
			t.Error("others may decide while the token is compared")
			c.mu.Unlock()
		}
		return token.Load() == 0
	}, func() bool { token.Store(1); return true })
	if !again || !c.other(0, func() bool { return token.Load() == 0 }, no) || c.now != 0 {
		t.Errorf("form %d, again %t", c.now, again)
	}
}

// Many exchanges that are refused together move to the next form once.
func TestWhoComesLateFindsTheNextForm(t *testing.T) {
	var c formChooser
	if !c.other(0, yes, no) || c.now != 1 {
		t.Fatalf("form %d", c.now)
	}
	if !c.other(0, yes, no) || c.now != 1 {
		t.Errorf("form %d, after a refusal of the old one", c.now)
	}
	if !c.other(1, no, no) || c.now != 1 {
		t.Errorf("form %d, after a refusal of an old token", c.now)
	}
}

func TestFormsInHeaders(t *testing.T) {
	for which, f := range forms {
		h := http.Header{}
		f.set(h, "a.b-c_d=")
		if token, got, ok := readForm(h); token != "a.b-c_d=" || got != which || !ok {
			t.Errorf("%v: read %q, form %d, %t", h, token, got, ok)
		}
	}
	h := http.Header{"Authorization": {"Bearer x"}}
	if _, _, ok := readForm(h); ok {
		t.Error("found a token of Snowflake's in a Bearer")
	}
	if got := headerOf(forms[0], "TOKEN"); got != `Authorization: Snowflake Token="TOKEN"` {
		t.Errorf("the documented form is %s", got)
	}
}

func headerOf(f form, token string) string {
	h := http.Header{}
	f.set(h, token)
	for name := range h {
		return name + ": " + h.Get(name)
	}
	return ""
}

func TestHostsOfSnowflake(t *testing.T) {
	for host, want := range map[string]bool{
		testHost: true, "X.SNOWFLAKECOMPUTING.APP.": true, "a.myorg-a.eu-central-1.aws.privatelink.snowflake.app": true,
		"abc-org-acct.snowflake.app": true, "snowflake.app.example.com": false,
		"snowflakecomputing.app": false, "myorg-a.snowflakecomputing.com": false, "kafka.example.com": false, "evilsnowflakecomputing.app": false,
	} {
		if got := IsHost(host); got != want {
			t.Errorf("IsHost(%s) = %t", host, got)
		}
	}
}

// What is known of Snowflake's own hosts need not hold for another name of one, as with a private
// link.
func TestWhatIsUnlikely(t *testing.T) {
	for host, want := range map[string]string{testHost: "[h3 h2]", "kafka.example.com": "[]"} {
		if got := fmt.Sprint((&Ingress{Host: host}).Unlikely()); got != want {
			t.Errorf("at %s %s is unlikely, want %s", host, got, want)
		}
	}
}

func TestWhatToDoWhereAHopHasFailed(t *testing.T) {
	i := &Ingress{Names: flags, Host: testHost}
	if got := i.Remedy("name"); !strings.Contains(got, "SHOW ENDPOINTS IN SERVICE") {
		t.Errorf("remedy of a name that is not found = %q", got)
	}
	if got := i.Remedy("tcp"); got != "" {
		t.Errorf("remedy of a dial that failed = %q", got)
	}
}

// A PAT that cannot be read any more is an error, not a request without it.
func TestAPATThatCannotBeRead(t *testing.T) {
	lost := errors.New("read --snowflake-pat-file pat.txt: no such file or directory")
	i := &Ingress{Names: flags, Host: testHost, PAT: func() (string, error) { return "", lost }}
	h := http.Header{}
	if err := i.Authorize(t.Context(), h); !errors.Is(err, lost) || len(h) > 0 {
		t.Errorf("Authorize = %v, %v", err, h)
	}
}
