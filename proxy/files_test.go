package proxy

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// testFile writes a file that only we may read, which a setting of that name names.
func testFile(t *testing.T, name, content string) credentials.File {
	t.Helper()
	f := credentials.File{Path: filepath.Join(t.TempDir(), "file"), Name: name}
	writeFile(t, f, content)
	return f
}

func writeFile(t *testing.T, f credentials.File, content string) {
	t.Helper()
	if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testTokens(t *testing.T, content string) *credentials.Tokens {
	t.Helper()
	tokens, err := credentials.ReadTokens(testFile(t, "--token-file", content), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// tlsFixture is a CA, and a certificate that it has signed, with its key.
type tlsFixture struct {
	ca                        *testca.CA
	caFile, certFile, keyFile credentials.File
}

func newTLSFixture(t *testing.T, name string) tlsFixture {
	t.Helper()
	f := tlsFixture{ca: testca.New(t, name)}
	cert, key := f.ca.Pair(t, "culvert.example")
	f.caFile = testFile(t, "--"+name+"-ca-file", f.ca.PEM())
	f.certFile, f.keyFile = testFile(t, "--"+name+"-cert-file", cert), testFile(t, "--"+name+"-key-file", key)
	return f
}

func mustConfig(t *testing.T, config *tls.Config, err error) *tls.Config {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return config
}
