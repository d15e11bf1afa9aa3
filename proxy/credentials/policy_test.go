package credentials

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// testFile writes a file that only we may read and says it was named by flag.
func testFile(t *testing.T, flag, content string) File {
	t.Helper()
	f := File{Path: filepath.Join(t.TempDir(), "file"), Name: flag}
	writeFile(t, f, content)
	return f
}

func writeFile(t *testing.T, f File, content string) {
	t.Helper()
	if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testTokens(t *testing.T, content string) (*Tokens, File) {
	t.Helper()
	f := testFile(t, "--token-file", content)
	tokens, err := ReadTokens(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tokens, f
}

func httpRequest(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/culvert", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestATokenFileHoldsNamesAndTokens(t *testing.T) {
	for _, test := range []struct{ content, name, token string }{
		{"s3cret", "default", "s3cret"},
		{"alice=s3cret\n", "alice", "s3cret"},
		{"# comment\r\n\r\n alice = s3cret \r\n", "alice", "s3cret"},
		{"\ufeffalice=s3cret", "alice", "s3cret"},
		{"c2VjcmV0LXNlY3JldA==", "default", "c2VjcmV0LXNlY3JldA=="},
		{"team-a@prod=c2VjcmV0LXNlY3JldA==", "team-a@prod", "c2VjcmV0LXNlY3JldA=="},
	} {
		tokens, err := parseTokens(File{}, []byte(test.content))
		if err != nil || len(tokens) != 1 {
			t.Errorf("parseTokens(%q) = %v, %v", test.content, tokens, err)
			continue
		}
		got := [2]string{tokens[0].name, tokens[0].token}
		if diff := cmp.Diff([2]string{test.name, test.token}, got); diff != "" {
			t.Errorf("parseTokens(%q): -want +got\n%s", test.content, diff)
		}
	}
}

func TestABadTokenLineIsNamedAndNotShown(t *testing.T) {
	for _, line := range []string{"two words", "a b=hunter2", "=hunter2", "name=hünter2", "name=hunter 2", "hunter="} {
		_, err := ReadTokens(testFile(t, "--token-file", "ok=1\n"+line), nil)
		if err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "--token-file") {
			t.Errorf("%q: %v, want an error with flag and line", line, err)
			continue
		}
		if strings.Contains(err.Error(), "nter") || strings.Contains(err.Error(), "two words") {
			t.Errorf("%q: the error shows it: %v", line, err)
		}
	}
	if _, err := ReadTokens(testFile(t, "--token-file", "# nothing\n"), nil); err == nil {
		t.Error("an empty token file was accepted")
	}
	_, err := ReadTokens(File{Path: "/nowhere/t", Name: "--token-file"}, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "read --token-file /nowhere/t: ") {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestATokenComesInOneOfTwoHeaders(t *testing.T) {
	tokens, _ := testTokens(t, "alice=one\nbob=two\nbob=three\n")
	c := &Policy{Tokens: tokens}
	for _, test := range []struct {
		headers        []string
		identity, fail string
	}{
		{[]string{"Culvert-Authorization", "Bearer one"}, "alice", ""},
		{[]string{"Authorization", "bearer two"}, "bob", ""},
		{[]string{"Culvert-Authorization", "Bearer three", "Authorization", `Snowflake Token="x"`}, "bob", ""},
		{[]string{"Culvert-Authorization", "Bearer four", "Authorization", "Bearer one"}, "", "unknown token"},
		{[]string{"Culvert-Authorization", "Bearer one", "Culvert-Authorization", "Bearer one"}, "", "2 times"},
		{[]string{"Authorization", `Snowflake Token="x"`}, "", "no token"},
		{[]string{"Authorization", "Bearer "}, "", "no token"},
		{nil, "", "no token"},
	} {
		identity, err := c.Authenticate(httpRequest(test.headers...))
		switch {
		case test.fail == "" && (err != nil || identity != test.identity):
			t.Errorf("%q: %q, %v, want %q", test.headers, identity, err, test.identity)
		case test.fail != "" && (err == nil || identity != "" || !strings.Contains(err.Error(), test.fail)):
			t.Errorf("%q: %q, %v, want an error with %q", test.headers, identity, err, test.fail)
		}
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	tokens, f := testTokens(t, "one")
	c := &Policy{Tokens: tokens}
	may := func(token string) bool {
		_, err := c.Authenticate(httpRequest("Authorization", "Bearer "+token))
		return err == nil
	}
	writeFile(t, f, "two") // same size, and likely the same tick of the clock
	if may("one") || !may("two") {
		t.Error("a changed token file was not read again")
	}
	writeFile(t, f, "ten")
	if may("two") {
		t.Error("a token that was taken out still passes")
	}
	writeFile(t, f, "three")
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	if may("three") {
		t.Error("a token that was never read passes")
	}
}

func TestABrokenFileLeavesItsLastContentInUse(t *testing.T) {
	var log bytes.Buffer
	f := testFile(t, "--token-file", "one")
	token, err := FirstToken(f, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, f, "two\nthree")
	if first, err := token(); first != "two" || err != nil {
		t.Errorf("the first token is %q, %v, want two", first, err)
	}
	writeFile(t, f, "one")
	token()
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if first, err := token(); first != "one" || err != nil {
			t.Errorf("the first token is %q, %v, want the last good one", first, err)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors logged, want one:\n%s", n, &log)
	}
}

func TestSecretsOfSeveralFilesAreReadAgain(t *testing.T) {
	a, b := testFile(t, "--a", "one"), testFile(t, "--b", "two")
	join := func(contents [][]byte) (string, error) {
		if len(contents[0]) == 0 {
			return "", errors.New("there is nothing in it")
		}
		return string(bytes.Join(contents, []byte(" "))), nil
	}
	get, err := Secrets(join, nil, a, b)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, b, "ten")
	if got, err := get(); got != "one ten" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	writeFile(t, a, "")
	if got, err := get(); got != "one ten" || err != nil {
		t.Errorf("got %q, %v, want the last good ones", got, err)
	}
	if _, err := Secrets(join, nil, a); err == nil {
		t.Error("what cannot be parsed at first is no error")
	}
	if _, err := Secrets(join, nil, File{"nowhere", "--a"}); err == nil || !strings.Contains(err.Error(), "read --a nowhere: ") {
		t.Errorf("of no file: %v", err)
	}
}

func TestAWorldReadableTokenFileIsReported(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes mean nothing here")
	}
	var log bytes.Buffer
	f := testFile(t, "--token-file", "one")
	if err := os.Chmod(f.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTokens(f, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), f.Path) {
		t.Errorf("no warning in %q", &log)
	}
}

func TestWithoutCredentialsNobodyIsAcceptedByDefault(t *testing.T) {
	if _, err := new(Policy).Authenticate(httpRequest()); err == nil {
		t.Error("zero Policy let somebody in")
	}
	identity, err := (&Policy{InsecureNoAuth: true}).Authenticate(httpRequest())
	if identity != anonymous || err != nil {
		t.Errorf("InsecureNoAuth: %q, %v", identity, err)
	}
	tokens, _ := testTokens(t, "one")
	if _, err := (&Policy{Tokens: tokens, InsecureNoAuth: true}).Authenticate(httpRequest()); err == nil {
		t.Error("InsecureNoAuth switched tokens off")
	}
}

func TestAllowedUsersOnlyNarrow(t *testing.T) {
	tokens, _ := testTokens(t, "agent=one")
	c := &Policy{Tokens: tokens, AllowUsers: []string{"ALICE"}}
	token := []string{"Authorization", "Bearer one"}
	for _, test := range []struct {
		headers []string
		allowed bool
	}{
		{append(token, userHeader, "ALICE"), true},
		{append(token, userHeader, "BOB"), false},
		{append(token, userHeader, "ALICE", userHeader, "ALICE"), false},
		{token, false},
		{[]string{userHeader, "ALICE"}, false},
	} {
		_, err := c.Authenticate(httpRequest(test.headers...))
		if (err == nil) != test.allowed {
			t.Errorf("%q: %v, want allowed %v", test.headers, err, test.allowed)
		}
	}
}

func TestTicketKeysAreOnePerLine(t *testing.T) {
	f := testFile(t, "--ticket-key-file", "# new\nnnnnnnnnnnnnnnnn\noooooooooooooooo\n")
	keys, err := TicketKeys(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keys()
	want := [][]byte{[]byte("nnnnnnnnnnnnnnnn"), []byte("oooooooooooooooo")}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	for _, content := range []string{"", "# none", "short"} {
		_, err := TicketKeys(testFile(t, "--ticket-key-file", content), nil)
		if err == nil || !strings.Contains(err.Error(), "--ticket-key-file") {
			t.Errorf("keys %q: %v", content, err)
		}
	}
}

func TestACertificateAndATokenMustBothPass(t *testing.T) {
	ours, theirs := testca.New(t, "ours"), testca.New(t, "theirs")
	ca, err := ReadCA(testFile(t, "--client-ca-file", ours.PEM()), nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, _ := testTokens(t, "alice=one")
	with := func(cert *x509.Certificate, headers ...string) *http.Request {
		r := httpRequest(headers...)
		r.TLS = &tls.ConnectionState{}
		if cert != nil {
			r.TLS.PeerCertificates = []*x509.Certificate{cert}
		}
		return r
	}
	good, foreign := ours.Client(t, "agent-1"), theirs.Client(t, "agent-1")
	onlyCert, both := &Policy{ClientCA: ca}, &Policy{ClientCA: ca, Tokens: tokens}
	token := []string{"Authorization", "Bearer one"}
	for _, test := range []struct {
		what     string
		c        *Policy
		r        *http.Request
		identity string
	}{
		{"certificate", onlyCert, with(good), "agent-1"},
		{"no certificate", onlyCert, with(nil), ""},
		{"no TLS", onlyCert, httpRequest(), ""},
		{"foreign certificate", onlyCert, with(foreign), ""},
		{"both", both, with(good, token...), "alice"},
		{"both, no token", both, with(good), ""},
	} {
		identity, err := test.c.Authenticate(test.r)
		if identity != test.identity || (err == nil) != (test.identity != "") {
			t.Errorf("%s: %q, %v, want %q", test.what, identity, err, test.identity)
		}
	}
	for what, cert := range map[string]*x509.Certificate{"no certificate": nil, "a foreign certificate": foreign} {
		identity, err := both.Authenticate(with(cert, token...))
		if _, ok := errors.AsType[tunnel.Forbidden](err); !ok || identity != "alice" {
			t.Errorf("a token and %s: %q, %v, want alice, forbidden", what, identity, err)
		}
	}
}

func TestTheIdentityIsTheFirstNameInACertificate(t *testing.T) {
	a := testca.New(t, "ours")
	sanOnly := a.Sign(t, &x509.Certificate{DNSNames: []string{"agent.example"}})
	if name, err := certificateName(sanOnly); name != "agent.example" || err != nil {
		t.Errorf("certificateName = %q, %v", name, err)
	}
	if _, err := certificateName(&x509.Certificate{}); err == nil {
		t.Error("a certificate without a name was accepted")
	}
}

// A file that has just been written is read again at each use for a while. The warning must not
// come as often.
func TestAWorldReadableSecretIsReportedOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("a=secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	log := &memoryLog{}
	token, err := FirstToken(File{file, "--token-file"}, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := token(); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "can read a secret file"); n != 1 && runtime.GOOS != "windows" {
		t.Errorf("warned %d times, want once:\n%s", n, log)
	}
}

func TestAResetKeyIsAllOfItsFile(t *testing.T) {
	want := strings.Repeat("k", 20) + "\n" + strings.Repeat("k", 20)
	if got, err := ResetKey(testFile(t, "--stateless-reset-key-file", want+"\n"), nil); string(got) != want || err != nil {
		t.Errorf("key %q, %v, want %q", got, err, want)
	}
	for _, content := range []string{"", "short", "\n" + strings.Repeat(" ", 40)} {
		_, err := ResetKey(testFile(t, "--stateless-reset-key-file", content), nil)
		if err == nil || !strings.Contains(err.Error(), "--stateless-reset-key-file") {
			t.Errorf("key %q: %v", content, err)
		}
	}
}

// The name in a client's certificate stands in each line of the log about it.
func TestANameInACertificateIsBounded(t *testing.T) {
	for n, want := range map[int]bool{maxIdentity: true, maxIdentity + 1: false} {
		name, err := certificateName(&x509.Certificate{Subject: pkix.Name{CommonName: strings.Repeat("n", n)}})
		if _, refused := errors.AsType[tunnel.Forbidden](err); refused == want || len(name) > maxIdentity {
			t.Errorf("a name of %d bytes: %d, %v", n, len(name), err)
		}
	}
}

// Names are SQL's: a user is in upper case unless made with quotes.
func TestUsersAreNamedAsInSQL(t *testing.T) {
	for _, test := range []struct{ text, name string }{
		{"alice", "ALICE"}, {"ALICE", "ALICE"}, {"joe@example.com", "JOE@EXAMPLE.COM"}, {`"alice"`, "alice"}, {`"Joe@Example.com"`, "Joe@Example.com"},
		{`"a ""b"""`, `a "b"`}, {"", ""}, {`""`, ""}, {`"`, ""}, {`"alice`, ""}, {`alice"`, ""}, {`al"ice`, ""}, {`"al"ice"`, ""}, {"al\nice", ""}, {`" alice"`, ""},
	} {
		name, err := ParseUser(test.text)
		if name != test.name || (err == nil) != (test.name != "") {
			t.Errorf("ParseUser(%q) = %q, %v, want %q", test.text, name, err, test.name)
		}
	}
}
