package dialer_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/dialer"
)

func TestWrongSettingsAreNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	urls := []string{"https://kafka.example.com"}
	token := func() (string, error) { return "secret", nil }
	for _, test := range []struct {
		config dialer.Config
		want   string
	}{
		{dialer.Config{}, "GatewayURLs is empty"},
		{dialer.Config{GatewayURLs: []string{"kafka.example.com:443"}}, "not an https:// URL (write it as https://kafka.example.com"},
		{dialer.Config{GatewayURLs: []string{"http://kafka.example.com"}}, "would be sent unencrypted"},
		{dialer.Config{GatewayURLs: []string{"https://kafka.example.com:0"}}, "the port is not a number"},
		{dialer.Config{GatewayURLs: []string{"https://kafka.example.com?a=b"}}, "a query or a fragment"},
		{dialer.Config{GatewayURLs: []string{"https://user:hidden@kafka.example.com"}}, "must not contain secrets"},
		{dialer.Config{GatewayURLs: []string{"https://user:hidden@kafka:example:com/"}}, "GatewayURLs"},
		{dialer.Config{GatewayURLs: urls, Transport: "h1"}, `Transport "h1": want auto or h3, ws, h2`},
		{dialer.Config{GatewayURLs: urls, TokenFile: missing, Token: token}, "TokenFile and Token"},
		{dialer.Config{GatewayURLs: urls, TokenFile: missing}, "TokenFile " + missing},
		{dialer.Config{GatewayURLs: urls, TokenFile: empty}, "TokenFile " + empty},
		{dialer.Config{GatewayURLs: urls, CAFile: missing}, "CAFile " + missing},
		{dialer.Config{GatewayURLs: urls, CertFile: missing}, "CertFile and KeyFile"},
		{dialer.Config{GatewayURLs: urls, CertFile: missing, KeyFile: missing}, "CertFile " + missing},
		{dialer.Config{GatewayURLs: urls, TLS: &tls.Config{}, CAFile: missing}, "CAFile, CertFile and KeyFile are not used with it"},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PATFile: missing}}, "Snowflake.PATFile " + missing},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PATFile: empty}}, "Snowflake.PATFile " + empty},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PATFile: missing, User: "u"}}, "belong to a key"},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PrivateKeyFile: missing, User: "u"}}, "a key needs PrivateKeyFile, Account and User"},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PrivateKeyFile: missing, User: "u", Account: "a b"}}, "Snowflake.Account"},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PrivateKeyFile: missing, User: "u", Account: "org-acc", TokenURL: "http://x"}}, "Snowflake.TokenURL"},
		{dialer.Config{GatewayURLs: urls, Snowflake: dialer.Snowflake{PrivateKeyFile: missing, User: "u", Account: "org-acc"}}, "Snowflake.PrivateKeyFile " + missing},
	} {
		d, err := dialer.New(test.config)
		switch {
		case err == nil:
			t.Errorf("%+v is accepted", test.config)
			d.Close()
		case !strings.Contains(err.Error(), test.want):
			t.Errorf("error is %q, want %q in it", err, test.want)
		case strings.Contains(err.Error(), "hidden"):
			t.Errorf("%q repeats a password", err)
		}
	}
}
