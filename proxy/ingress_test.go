package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// What an agent sends, and what the ingress adds to it.
const (
	agentsToken = "Culvert-Authorization: Bearer s3cret\r\n"
	upgrade     = "GET /culvert HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: culvert.v1\r\n"
	post = "POST /culvert HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/octet-stream\r\n"
)

// startInside starts a gateway as it stands behind an ingress, in plain HTTP, and returns its
// address. ALICE may come in with the agent's token, and nobody else may.
func startInside(t *testing.T, log *slog.Logger) (address string) {
	t.Helper()
	tokens := testTokens(t, "laptop=s3cret\n")
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	gateway := startGateway(t, []string{broker}, func(g *Gateway) {
		g.TLS = nil
		g.Authenticate = (&credentials.Policy{Tokens: tokens, AllowUsers: []string{"ALICE"}}).Authenticate
		if log != nil {
			g.Logger = log
		}
	})
	return strings.TrimPrefix(gateway.address, "https://")
}

// answers writes to a gateway and returns the status of each of its answers, up to one that opens a
// tunnel. Behind any other the connection must end.
func answers(t *testing.T, address, request string) (all []int) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	for r := bufio.NewReader(c); ; {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection stays open behind %v to\n%s", all, request)
			}
			return all
		}
		all = append(all, answer.StatusCode)
		if answer.StatusCode == http.StatusSwitchingProtocols || answer.StatusCode == http.StatusOK {
			return all
		}
		io.Copy(io.Discard, answer.Body)
	}
}

// A user's name is worth something only beside a token, once, and as the ingress writes it.
func TestTheUserHeaderCannotBeForged(t *testing.T) {
	address := startInside(t, nil)
	const alice = "Sf-Context-Current-User: ALICE\r\n"
	for _, test := range []struct {
		what    string
		headers string
		want    int // 0: let in
	}{
		{"an agent through the ingress", agentsToken + alice, 0},
		{"an agent whose ingress writes in lower case", agentsToken + "sf-context-current-user:ALICE\r\n", 0},
		{"trailing blanks, which are none of the value's", agentsToken + "Sf-Context-Current-User: ALICE \t \r\n", 0},
		{"a value on the next line, which is the same", agentsToken + "Sf-Context-Current-User:\r\n ALICE\r\n", 0},
		{"no token: from inside, around the ingress", alice, 401},
		{"a wrong token", "Culvert-Authorization: Bearer guess\r\n" + alice, 401},
		{"two tokens", agentsToken + agentsToken + alice, 401},
		{"no user", agentsToken, 403},
		{"an empty user", agentsToken + "Sf-Context-Current-User:\r\n", 403},
		{"another user", agentsToken + "Sf-Context-Current-User: BOB\r\n", 403},
		{"another case", agentsToken + "Sf-Context-Current-User: alice\r\n", 403},
		{"twice", agentsToken + alice + alice, 403},
		{"the forged one first", agentsToken + alice + "Sf-Context-Current-User: BOB\r\n", 403},
		{"the forged one last", agentsToken + "Sf-Context-Current-User: BOB\r\n" + alice, 403},
		{"twice in different case", agentsToken + "SF-CONTEXT-CURRENT-USER: BOB\r\n" + alice, 403},
		{"twice, once empty", agentsToken + "Sf-Context-Current-User:\r\n" + alice, 403},
		{"a list", agentsToken + "Sf-Context-Current-User: ALICE, BOB\r\n", 403},
		{"a list of the same", agentsToken + "Sf-Context-Current-User: ALICE,ALICE\r\n", 403},
		{"in quotes", agentsToken + "Sf-Context-Current-User: \"ALICE\"\r\n", 403},
		{"underscores", agentsToken + "Sf_Context_Current_User: ALICE\r\n", 403},
		{"underscores beside another", agentsToken + "Sf_Context_Current_User: ALICE\r\nSf-Context-Current-User: BOB\r\n", 403},
		{"a token with underscores", "Culvert_Authorization: Bearer s3cret\r\n" + alice, 401},
		{"folded onto another", agentsToken + "Sf-Context-Current-User: BOB\r\n ALICE\r\n", 403},
		{"folded out of another", agentsToken + "X-Note: x\r\n Sf-Context-Current-User: ALICE\r\n", 403},
		{"folded into another", agentsToken + "X-Note: x\r\n Sf-Context-Current-User: ALICE\r\nSf-Context-Current-User: BOB\r\n", 403},
		{"a line that ends in LF alone", agentsToken + "X-Note: x\nSf-Context-Current-User: ALICE\r\nSf-Context-Current-User: BOB\r\n", 403},
		{"a blank before the colon", agentsToken + "Sf-Context-Current-User : ALICE\r\n", 400},
		{"a NUL", agentsToken + "Sf-Context-Current-User: ALICE\x00\r\n", 400},
		{"a CR", agentsToken + "Sf-Context-Current-User: BOB\rSf-Context-Current-User: ALICE\r\n", 400},
		{"as a hop's own, which a front door would take out", agentsToken + "Connection: Sf-Context-Current-User\r\n", 403},
		{"in the query", agentsToken + "Referer: /culvert?Sf-Context-Current-User=ALICE\r\n", 403},
	} {
		for method, head := range map[string]string{"ws": upgrade, "POST": post + "Transfer-Encoding: chunked\r\n"} {
			want := test.want
			if want == 0 {
				want = map[string]int{"ws": 101, "POST": 200}[method]
			}
			if got := answers(t, address, head+test.headers+"\r\n"+map[string]string{"POST": "0\r\n\r\n"}[method]); fmt.Sprint(got) != fmt.Sprint([]int{want}) {
				t.Errorf("%s, %s: answers %v, want %d alone", method, test.what, got, want)
			}
		}
	}
}

func TestTheUserHeaderCannotBeForgedInATrailer(t *testing.T) {
	address := startInside(t, nil)
	got := answers(t, address, post+"Transfer-Encoding: chunked\r\nTrailer: Sf-Context-Current-User\r\n"+agentsToken+
		"\r\n0\r\nSf-Context-Current-User: ALICE\r\n\r\n")
	if fmt.Sprint(got) != "[403]" {
		t.Errorf("answers %v, want 403 alone", got)
	}
}

// h2c asks the gateway over HTTP/2 without TLS, as front doors do that know beforehand.
func h2c(t *testing.T, address string, header http.Header, body io.Reader) *http.Response {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/culvert", io.MultiReader(body)) // of no known length
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	if header.Get("Trailer") != "" {
		request.Trailer = http.Header{"Sf-Context-Current-User": {"ALICE"}}
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

func TestTheUserHeaderCannotBeForgedInAnH2Stream(t *testing.T) {
	address := startInside(t, nil)
	for _, test := range []struct {
		what string
		more http.Header
		want int
	}{
		{"through the ingress", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf-Context-Current-User": {"ALICE"}}, 200},
		{"no token", http.Header{"Sf-Context-Current-User": {"ALICE"}}, 401},
		{"no user", http.Header{"Culvert-Authorization": {"Bearer s3cret"}}, 403},
		{"another user", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf-Context-Current-User": {"BOB"}}, 403},
		{"twice", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf-Context-Current-User": {"ALICE", "ALICE"}}, 403},
		{"a list", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf-Context-Current-User": {"ALICE, BOB"}}, 403},
		{"underscores", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf_Context_Current_User": {"ALICE"}}, 403},
		{"in a trailer", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Trailer": {"Sf-Context-Current-User"}}, 403},
		{"from a web page", http.Header{"Culvert-Authorization": {"Bearer s3cret"}, "Sf-Context-Current-User": {"ALICE"}, "Origin": {"https://evil.example"}}, 403},
	} {
		test.more.Set("Content-Type", "application/octet-stream")
		answer := h2c(t, address, test.more, strings.NewReader(""))
		if answer.StatusCode != test.want || answer.ProtoMajor != 2 || answer.Header.Get("Culvert-Gateway") != "test" {
			t.Errorf("%s: %s %s %v, want %d of a gateway", test.what, answer.Proto, answer.Status, answer.Header, test.want)
		}
	}
}

// h2Request is what a client that speaks HTTP/2 says first, with a request that is good in all but
// its way here.
func h2Request(t *testing.T) string {
	t.Helper()
	var out, block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "gateway"}, {":path", "/culvert"},
		{"content-type", "application/octet-stream"}, {"culvert-authorization", "Bearer s3cret"}, {"sf-context-current-user", "ALICE"},
	} {
		encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	framer.WriteSettings()
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	return out.String()
}

// What stands behind a request on the same connection is not looked at, however a front door was
// made to pass it on: behind an upgrade to h2c that it believes in, behind one to WebSocket that
// was refused, or behind a body whose length we and the front door do not agree about.
func TestNothingIsSmuggledAfterARequest(t *testing.T) {
	address := startInside(t, nil)
	const (
		bob   = agentsToken + "Sf-Context-Current-User: BOB\r\n"
		alice = agentsToken + "Sf-Context-Current-User: ALICE\r\n"
		toH2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
		inner = upgrade + alice + "\r\n"
	)
	chunked := "Transfer-Encoding: chunked\r\n"
	for _, test := range []struct {
		what, request string
		want          int
	}{
		{"GET to h2c", "GET /culvert HTTP/1.1\r\nHost: gateway\r\n" + toH2C + bob + "\r\n" + h2Request(t), 426},
		{"GET to h2c, as one who may come in", "GET /culvert HTTP/1.1\r\nHost: gateway\r\n" + toH2C + alice + "\r\n" + h2Request(t), 426},
		{"OPTIONS to h2c", "OPTIONS * HTTP/1.1\r\nHost: gateway\r\n" + toH2C + bob + "\r\n" + h2Request(t), 404},
		{"POST to h2c", post + toH2C + bob + "Content-Length: 0\r\n\r\n" + h2Request(t), 400},
		{"to h2c, elsewhere", "GET / HTTP/1.1\r\nHost: gateway\r\n" + toH2C + "\r\n" + h2Request(t), 404},
		{"HTTP/2 behind a request", "GET / HTTP/1.1\r\nHost: gateway\r\n\r\n" + h2Request(t), 404},
		{"a request behind one refused", upgrade + bob + "\r\n" + inner, 403},
		{"a request behind a broken upgrade", strings.Replace(upgrade, "Version: 13", "Version: 777", 1) + alice + "\r\n" + inner, 426},
		{"a request behind one from a web page", upgrade + alice + "Origin: https://evil.example\r\n\r\n" + inner, 403},
		{"two lengths", post + bob + "Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + inner, 400},
		{"the same length twice", post + bob + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + inner, 400},
		{"a list of lengths", post + bob + "Content-Length: 0, 5\r\n\r\n" + inner, 400},
		{"a signed length", post + bob + "Content-Length: +0\r\n\r\n" + inner, 400},
		{"a length and chunks", post + bob + fmt.Sprintf("Content-Length: %d\r\n", 5+len(inner)) + chunked + "\r\n0\r\n\r\n" + inner, 403},
		{"chunks and a length", post + bob + chunked + "Content-Length: 4\r\n\r\n" + "ffff\r\n" + inner, 403},
		{"chunks twice", post + bob + chunked + chunked + "\r\n0\r\n\r\n" + inner, 501},
		{"chunks and something else", post + bob + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + inner, 501},
		{"almost chunks", post + bob + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner, 501},
		{"chunks with a blank", post + bob + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner, 400},
		{"chunks in HTTP/1.0", strings.Replace(post, "1.1", "1.0", 1) + bob + chunked + "Connection: keep-alive\r\n\r\n0\r\n\r\n" + inner, 400},
		{"a body that never comes", post + bob + chunked + "\r\n", 403},
		{"a GET with a body", "GET /culvert HTTP/1.1\r\nHost: gateway\r\nContent-Length: 3\r\n\r\nabc" + inner, 426},
		{"a body behind an upgrade", upgrade + bob + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(inner)) + inner, 403},
	} {
		if got := answers(t, address, test.request); fmt.Sprint(got) != fmt.Sprint([]int{test.want}) {
			t.Errorf("%s: answers %v, want %d alone", test.what, got, test.want)
		}
	}
}

// A stream that came as a POST over HTTP/1.1 has ended, and its connection with it.
func TestNothingIsSmuggledAfterAStream(t *testing.T) {
	address := startInside(t, nil)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	const user = agentsToken + "Sf-Context-Current-User: ALICE\r\n"
	io.WriteString(c, post+user+"Content-Length: 9999\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+upgrade+user+"\r\n")
	all, err := io.ReadAll(c)
	if n := bytes.Count(all, []byte("HTTP/1.1 ")); n != 1 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d answers, %v, want one and an end:\n%s", n, err, all)
	}
}

// A browser sends Origin with all that a page can make it send to us. Of a gateway before which a
// user is signed in, no page may make use.
func TestWebPagesAreRefusedAsSuch(t *testing.T) {
	address := startInside(t, nil)
	const user = agentsToken + "Sf-Context-Current-User: ALICE\r\n"
	for what, request := range map[string]string{
		"ws":           upgrade + user + "Origin: https://evil.example\r\n\r\n",
		"POST":         post + user + "Transfer-Encoding: chunked\r\nOrigin: https://evil.example\r\n\r\n0\r\n\r\n",
		"null":         upgrade + user + "Origin: null\r\n\r\n",
		"empty":        upgrade + user + "Origin:\r\n\r\n",
		"a preflight":  "OPTIONS /culvert HTTP/1.1\r\nHost: gateway\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
		"a long one":   upgrade + user + "Origin: https://" + strings.Repeat("e", 8<<10) + "\r\n\r\n",
		"without more": "GET /culvert HTTP/1.1\r\nHost: gateway\r\nOrigin: https://evil.example\r\n\r\n",
	} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, request)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		c.Close()
		if answer.StatusCode != http.StatusForbidden || answer.Header.Get("Culvert-Gateway") != "test" || answer.Header.Get("Access-Control-Allow-Origin") != "" ||
			!strings.HasPrefix(string(body), "a culvert gateway accepts no requests from web pages") || len(body) > 200 {
			t.Errorf("%s: %s %v %q", what, answer.Status, answer.Header, body)
		}
	}
}

// Who is turned away is logged by name, at most so long and with nothing in it that a terminal
// would act on.
func TestTheUserIsLogged(t *testing.T) {
	log := &memoryLog{}
	address := startInside(t, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	answers(t, address, upgrade+agentsToken+"Sf-Context-Current-User: BOB\r\n\r\n")
	answers(t, address, upgrade+agentsToken+"Sf-Context-Current-User: \xe2\x80\xaeEVE\xff"+strings.Repeat("X", 1000)+"\r\n\r\n")
	waitFor(t, "the refusals in the log", func() bool { return strings.Count(log.String(), "request refused") == 2 })
	for _, want := range []string{`level=WARN msg="request refused" user=BOB client_addr=127.0.0.1:`, `user=\u202eEVE\xffXXX`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), strings.Repeat("X", printable.Name)) || strings.Contains(log.String(), "s3cret") {
		t.Errorf("too much in\n%s", log)
	}
}

// ingressHeader is what an agent sends to an ingress.
type ingressHeader http.Header

func (h ingressHeader) Authorize(_ context.Context, to http.Header) error {
	maps.Copy(to, http.Header(h))
	return nil
}

func (ingressHeader) Refused(http.Header, *tunnel.AnswerError) bool { return false }

// snowflake starts a stand-in for Snowflake's ingress before a gateway, and returns an agent's way
// through it, as ALICE.
func snowflake(t *testing.T, gateway string, in *standin.Ingress, header http.Header) *tunnel.Dialer {
	t.Helper()
	const host = "abc-myorg-myaccount.snowflakecomputing.app"
	in.Account = &standin.Account{Host: "myorg-myaccount.snowflakecomputing.com"}
	in.Account.SetUser(standin.User{Name: "ALICE", Roles: []string{"KAFKA"}})
	in.Services = []*standin.Service{{Hosts: []string{host}, Roles: []string{"KAFKA"}, Instances: []standin.Instance{{Address: gateway}}}}
	in.Certificate, _ = certificate()
	ln := listenLoopback(t)
	t.Cleanup(run(t, func(ctx context.Context) error { return in.Serve(ctx, ln) }))
	header.Set("Authorization", `Snowflake Token="`+in.Account.NewPAT("ALICE", "KAFKA", time.Hour)+`"`)
	trust := clientTLS(t)
	trust.ServerName = "localhost"
	return &tunnel.Dialer{
		URL: &url.URL{Scheme: "https", Host: host}, Transport: tunnel.TransportWS, TLS: trust, Ingress: ingressHeader(header),
		Token: func() (string, error) { return "s3cret", nil },
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
		},
	}
}

// The ingress names the user that it has let in. An agent that names one itself wins nothing,
// whether the ingress overwrites that or passes both on.
func TestTheIngressNamesTheUser(t *testing.T) {
	for _, test := range []struct {
		what   string
		in     *standin.Ingress
		forged []string
		log    string // "": refused
	}{
		{"of itself", &standin.Ingress{}, nil, `msg="stream opened" user=ALICE client_addr=`},
		{"in the place of a forged name", &standin.Ingress{}, []string{"ROOT"}, `msg="stream opened" user=ALICE client_addr=`},
		{"beside a forged name", &standin.Ingress{PassesUser: true}, []string{"ROOT"}, `msg="request refused" user="ROOT, ALICE" client_addr=`},
		{"beside its own name", &standin.Ingress{PassesUser: true}, []string{"ALICE"}, `msg="request refused" user="ALICE, ALICE" client_addr=`},
	} {
		t.Run(test.what, func(t *testing.T) {
			log := &memoryLog{}
			address := startInside(t, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			header := http.Header{}
			if test.forged != nil {
				header["Sf-Context-Current-User"] = test.forged
			}
			agent := startAgent(t, NewTunnel(snowflake(t, address, test.in, header)), nil)
			_, err := dialKafka(t, agent.address).ask(kmsg.NewPtrMetadataRequest(), 1)
			if (err == nil) != strings.Contains(test.log, "opened") {
				t.Errorf("the client got %v", err)
			}
			waitFor(t, test.log, func() bool { return strings.Contains(log.String(), test.log) })
			if strings.Contains(log.String(), "Snowflake Token") || strings.Contains(log.String(), "s3cret") {
				t.Errorf("a token in the log:\n%s", log)
			}
		})
	}
}
