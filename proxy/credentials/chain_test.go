package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func inNumbers(i int) string { return fmt.Sprintf("intermediate %d", i) }

func withChain(chain []*x509.Certificate, headers ...string) *http.Request {
	r := httpRequest(headers...)
	r.TLS = &tls.ConnectionState{PeerCertificates: chain}
	return r
}

func TestAChainIsBoundedBeforeItIsVerified(t *testing.T) {
	ours := testca.New(t, "ours")
	same := func(int) string { return "intermediate" }
	renewed := ours.Intermediate(t, "intermediate 1")
	for _, test := range []struct {
		what  string
		chain []*x509.Certificate
		fail  string
	}{
		{"no intermediate", ours.Chain(t, 0, inNumbers), ""},
		{"as many as may be", ours.Chain(t, maxChain-1, inNumbers), ""},
		{"the root too", append(ours.Chain(t, maxChain-2, inNumbers), ours.Cert), ""},
		{"one that is there twice", append(ours.Chain(t, 3, inNumbers), renewed.Cert), ""},
		{"one too many", ours.Chain(t, maxChain, inNumbers), "sent 11 certificates and may send 10"},
		{"a hundred", ours.Chain(t, 100, inNumbers), "sent 101 certificates and may send 10"},
		{"all of one name", ours.Chain(t, maxChain-1, same), "more than 16 possible links"},
		{"none", nil, "the peer sent no certificate"},
	} {
		ca, err := ReadCA(testFile(t, "--client-ca-file", ours.PEM()), nil)
		if err != nil {
			t.Fatal(err)
		}
		verified := ca.verify(test.chain, x509.ExtKeyUsageClientAuth, "")
		_, err = (&Policy{ClientCA: ca}).Authenticate(withChain(test.chain))
		for _, err := range []error{verified, err} {
			if test.fail == "" && err != nil || test.fail != "" && (err == nil || !strings.Contains(err.Error(), test.fail) && test.chain != nil) {
				t.Errorf("%s: %v, want %q", test.what, err, test.fail)
			}
		}
		if want := map[bool]int{true: 1}[test.fail == ""]; ca.chains.checked != want {
			t.Errorf("%s: signatures of %d chains were checked, want %d", test.what, ca.chains.checked, want)
		}
	}
}

func TestTheTokenComesBeforeTheCertificate(t *testing.T) {
	ours := testca.New(t, "ours")
	ca, err := ReadCA(testFile(t, "--client-ca-file", ours.PEM()), nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, _ := testTokens(t, "alice=one")
	c := &Policy{ClientCA: ca, Tokens: tokens}
	chain := ours.Chain(t, maxChain-1, inNumbers)
	for range 100 {
		for _, headers := range [][]string{nil, {"Authorization", "Bearer two"}} {
			_, err := c.Authenticate(withChain(chain, headers...))
			if _, forbidden := errors.AsType[tunnel.Forbidden](err); err == nil || forbidden {
				t.Fatalf("%q: %v, want an error about the token", headers, err)
			}
		}
	}
	if n := ca.chains.checked; n != 0 {
		t.Errorf("%d chains were verified of a peer without a token", n)
	}
}

func TestAChainIsVerifiedOnce(t *testing.T) {
	ours, theirs := testca.New(t, "ours"), testca.New(t, "theirs")
	f := testFile(t, "--client-ca-file", ours.PEM())
	ca, err := ReadCA(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &Policy{ClientCA: ca}
	ask := func(what string, r *http.Request, good bool, checked int) {
		t.Helper()
		for range 100 {
			if _, err := c.Authenticate(r); (err == nil) != good {
				t.Fatalf("%s: %v, want let in: %t", what, err, good)
			}
		}
		if n := ca.chains.checked; n != checked {
			t.Errorf("%s: %d chains were verified, want %d", what, n, checked)
		}
	}
	good, foreign := withChain(ours.Chain(t, 1, inNumbers)), withChain(theirs.Chain(t, 1, inNumbers))
	ask("good", good, true, 1)
	ask("foreign", foreign, false, 2)
	writeFile(t, f, ours.PEM()+"\n") // read again, and the same
	ask("good, file touched", good, true, 2)
	writeFile(t, f, theirs.PEM())
	ask("good, and its authority taken out", good, false, 3)
	ask("foreign, and its authority put in", foreign, true, 4)
	other := withChain(append(good.TLS.PeerCertificates[:1:1], foreign.TLS.PeerCertificates[1:]...))
	ask("the same certificate with another chain", other, false, 5)
}

func TestACachedResultEndsWithTheCertificate(t *testing.T) {
	ours := testca.New(t, "ours")
	ca, err := ReadCA(testFile(t, "--client-ca-file", ours.PEM()), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := ours.Chain(t, 1, inNumbers)
	roots, err := ca.pool.get()
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.chains.verify(roots, good); err != nil {
		t.Fatal(err)
	}
	for _, v := range ca.chains.results {
		if !v.until.Equal(good[0].NotAfter) && !v.until.Equal(good[1].NotAfter) && !v.until.Equal(ours.Cert.NotAfter) {
			t.Errorf("the result is kept until %v, and the certificate until %v", v.until, good[0].NotAfter)
		}
	}
	synctest.Test(t, func(t *testing.T) { // where it is the year 2000, and the certificate is not valid yet
		var v chainCache
		for range 3 {
			if err := v.verify(roots, good); err == nil || len(err.Error()) > maxRefusal {
				t.Errorf("a certificate that is not valid yet: %v", err)
			}
		}
		time.Sleep(refusalLifetime + time.Second)
		v.verify(roots, good)
		if v.checked != 2 {
			t.Errorf("verified %d times, want once, and once more after the refusal expired", v.checked)
		}
		time.Sleep(time.Until(good[0].NotAfter.Add(-30 * time.Minute)))
		if err := v.verify(roots, good); err != nil {
			t.Errorf("a certificate that is valid by now: %v", err)
		}
		time.Sleep(time.Hour)
		if err := v.verify(roots, good); err == nil {
			t.Error("a certificate that has expired meanwhile is let in")
		}
	})
}

func TestTheChainCacheIsBounded(t *testing.T) {
	var v chainCache
	for i := range 2 * maxCachedChains {
		v.store([32]byte{byte(i), byte(i >> 8)}, chainResult{})
		if len(v.results) > maxCachedChains {
			t.Fatalf("%d chains are cached, want %d at most", len(v.results), maxCachedChains)
		}
	}
}

// What is shown in a handshake is bounded there too, so that no connection holds more; a file of
// ours that peers would refuse is refused at the start.
func TestAHandshakeRefusesALongChain(t *testing.T) {
	server, agent := newTLSFixture(t, "tls"), testca.New(t, "agent")
	long := agent
	text := ""
	for i := range maxChain {
		long = long.Intermediate(t, fmt.Sprint(i))
		text = testca.PEM(long.Cert) + text
	}
	cert, key := long.Pair(t, "agent-1")
	files := ClientTLS{CAFile: server.caFile, CertFile: testFile(t, "--gateway-cert-file", cert+text), KeyFile: testFile(t, "--gateway-key-file", key)}
	_, err := files.Config("culvert.example")
	if err == nil || !strings.Contains(err.Error(), "--gateway-cert-file") || !strings.Contains(err.Error(), "it has 11 certificates and peers accept 10") {
		t.Errorf("a file of 11 certificates: %v", err)
	}
	pair, err := tls.X509KeyPair([]byte(cert+text), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	config, err := ClientTLS{CAFile: server.caFile}.Config("culvert.example")
	client := mustConfig(t, config, err)
	client.Certificates = []tls.Certificate{pair}
	config, err = ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile, ClientCAFile: testFile(t, "--listen-client-ca-file", agent.PEM())}.Config()
	listener := mustConfig(t, config, err)
	config, err = ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile}.Config()
	gateway := mustConfig(t, config, err)
	AskForCertificate(gateway)
	for what, config := range map[string]*tls.Config{"agent": listener, "gateway": gateway} {
		if _, err := handshake(t, client, config); err == nil || !strings.Contains(err.Error(), "sent 11 certificates and may send 10") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := handshake(t, &tls.Config{InsecureSkipVerify: true}, gateway); err != nil {
		t.Errorf("no certificate: %v", err)
	}
}
