package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// testFile writes a file that only we may read and says it was named by flag.
func testFile(t *testing.T, flag, content string) File {
	t.Helper()
	f := File{Path: filepath.Join(t.TempDir(), "file"), Flag: flag}
	writeFile(t, f, content)
	return f
}

func writeFile(t *testing.T, f File, content string) {
	t.Helper()
	if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testTokens(t *testing.T, content string) (*TokenFile, File) {
	t.Helper()
	f := testFile(t, "--token-file", content)
	tokens, err := NewTokenFile(f, nil)
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
		_, err := NewTokenFile(testFile(t, "--token-file", "ok=1\n"+line), nil)
		if err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "--token-file") {
			t.Errorf("%q: %v, want an error with flag and line", line, err)
			continue
		}
		if strings.Contains(err.Error(), "nter") || strings.Contains(err.Error(), "two words") {
			t.Errorf("%q: the error shows it: %v", line, err)
		}
	}
	if _, err := NewTokenFile(testFile(t, "--token-file", "# nothing\n"), nil); err == nil {
		t.Error("an empty token file was accepted")
	}
	_, err := NewTokenFile(File{Path: "/nowhere/t", Flag: "--token-file"}, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "read --token-file /nowhere/t: ") {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestATokenComesInOneOfTwoHeaders(t *testing.T) {
	tokens, _ := testTokens(t, "alice=one\nbob=two\nbob=three\n")
	c := &Credentials{Tokens: tokens}
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
	c := &Credentials{Tokens: tokens}
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

func TestABrokenFileLeavesItsLastContentInForce(t *testing.T) {
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

func TestATokenFileThatEverybodyReadsIsWarnedAbout(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes mean nothing here")
	}
	var log bytes.Buffer
	f := testFile(t, "--token-file", "one")
	if err := os.Chmod(f.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewTokenFile(f, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), f.Path) {
		t.Errorf("no warning in %q", &log)
	}
}

func TestWithoutCredentialsNobodyComesInUnlessToldSo(t *testing.T) {
	if _, err := new(Credentials).Authenticate(httpRequest()); err == nil {
		t.Error("zero Credentials let somebody in")
	}
	identity, err := (&Credentials{InsecureNoAuth: true}).Authenticate(httpRequest())
	if identity != anonymous || err != nil {
		t.Errorf("InsecureNoAuth: %q, %v", identity, err)
	}
	tokens, _ := testTokens(t, "one")
	if _, err := (&Credentials{Tokens: tokens, InsecureNoAuth: true}).Authenticate(httpRequest()); err == nil {
		t.Error("InsecureNoAuth switched tokens off")
	}
}

func TestAllowedUsersOnlyNarrow(t *testing.T) {
	tokens, _ := testTokens(t, "agent=one")
	c := &Credentials{Tokens: tokens, AllowUsers: []string{"ALICE"}}
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

func TestTicketKeysComeOneALine(t *testing.T) {
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

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign makes a certificate; without a certificate of its own, a self-signed one.
func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) client(t *testing.T, name string) *x509.Certificate {
	cert, _ := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return cert
}

func (a *authority) pem() string { return certPEM(a.cert) }

// pair signs a certificate that is good at either end of a connection.
func (a *authority) pair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	return a.pairUntil(t, name, time.Now().Add(time.Hour))
}

func (a *authority) pairUntil(t *testing.T, name string, until time.Time) (cert, key string) {
	t.Helper()
	c, k := a.sign(t, &x509.Certificate{
		NotAfter: until,
		Subject:  pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM(c), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func TestACertificateAndATokenMustBothPass(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ca, err := NewCAFile(testFile(t, "--client-ca-file", ours.pem()), nil)
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
	good, foreign := ours.client(t, "agent-1"), theirs.client(t, "agent-1")
	onlyCert, both := &Credentials{ClientCA: ca}, &Credentials{ClientCA: ca, Tokens: tokens}
	token := []string{"Authorization", "Bearer one"}
	for _, test := range []struct {
		what     string
		c        *Credentials
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

func TestTheNameInACertificateIsItsFirst(t *testing.T) {
	a := newAuthority(t, "ours")
	sanOnly, _ := a.sign(t, &x509.Certificate{DNSNames: []string{"agent.example"}})
	if name, err := certificateName(sanOnly); name != "agent.example" || err != nil {
		t.Errorf("certificateName = %q, %v", name, err)
	}
	if _, err := certificateName(&x509.Certificate{}); err == nil {
		t.Error("a certificate without a name was accepted")
	}
}

// A file that has just been written is read again at each use for a while. The
// warning must not come as often.
func TestOpenSecretIsWarnedOfOnce(t *testing.T) {
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
	if n := strings.Count(log.String(), "can be read by everybody"); n != 1 && runtime.GOOS != "windows" {
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
