package dialer

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
)

// Snowflake are credentials for the ingress of Snowpark Container Services: a programmatic access
// token, or a key pair and whose it is. The zero value has none.
type Snowflake struct {
	PATFile string // file with a programmatic access token

	PrivateKeyFile string // instead of that: RSA key, PKCS #8 in PEM, whose public half the user has
	PassphraseFile string // file with the key's passphrase, where it is encrypted
	Account        string // of the key's user, as myorg-myaccount or in any other form
	User           string
	Role           string // empty means the user's default role
	JWTAccount     string // how the key's JWT names the account, if not as Account does
	TokenURL       string // where the key gets tokens, if not at the account's own host: with PrivateLink, say
}

// snowflakeLogin is a Snowflake whose files have been read. Without credentials it still says what
// the answers of the ingress mean.
type snowflakeLogin struct {
	pat     func() (string, error)
	key     func() (*rsa.PrivateKey, error)
	account snowflake.Account
	url     *url.URL
	roots   func() (*x509.CertPool, error)
	of      Snowflake
	log     *slog.Logger
}

// login reads the files. roots returns whom to trust for logins.
func (s Snowflake) login(roots func() (*x509.CertPool, error), log *slog.Logger) (l snowflakeLogin, err error) {
	l = snowflakeLogin{of: s, roots: roots, log: log}
	file := func(name, path string) credentials.File {
		return credentials.File{Path: path, Name: "Snowflake." + name}
	}
	switch {
	case s.PATFile != "" && s != Snowflake{PATFile: s.PATFile}:
		return l, errors.New("Snowflake.PATFile: the other fields of Snowflake belong to a key, and are not used with it")
	case s.PATFile != "":
		l.pat, err = snowflake.PATFile(file("PATFile", s.PATFile), log)
		return l, err
	case s == Snowflake{}:
		return l, nil
	case s.PrivateKeyFile == "", s.Account == "", s.User == "":
		return l, errors.New("Snowflake: a key needs PrivateKeyFile, Account and User")
	}
	if l.account, err = snowflake.ParseAccount(s.Account); err != nil {
		return l, fmt.Errorf("Snowflake.Account: %w", err)
	}
	if s.TokenURL != "" {
		l.url, err = url.Parse(s.TokenURL)
		if err != nil || l.url.Scheme != "https" || l.url.Hostname() == "" || l.url.User != nil {
			return l, errors.New("Snowflake.TokenURL: not an https:// URL without secrets")
		}
	}
	l.key, err = snowflake.KeyFile(file("PrivateKeyFile", s.PrivateKeyFile), file("PassphraseFile", s.PassphraseFile), log)
	return l, err
}

// ingress returns what to use for a gateway, one of all, or nil. Where some have names of
// Snowflake's, the others do not get the credentials: see [Config.Snowflake].
func (l snowflakeLogin) ingress(gateway *url.URL, all []*url.URL) *snowflake.Ingress {
	given := l.pat != nil || l.key != nil
	anyKnown := slices.ContainsFunc(all, func(u *url.URL) bool { return snowflake.IsHost(u.Hostname()) })
	if !snowflake.IsHost(gateway.Hostname()) && (anyKnown || !given) {
		return nil
	}
	i := &snowflake.Ingress{Host: strings.ToLower(gateway.Hostname()), PAT: l.pat, Names: settingNames, Logger: l.log}
	if l.key != nil {
		i.KeyPair = &snowflake.KeyPair{
			Key: l.key, Account: l.account, User: l.of.User, Role: l.of.Role,
			JWTAccount: l.of.JWTAccount, TokenURL: l.url, HTTP: snowflake.LoginTransport{Roots: l.roots},
		}
	}
	return i
}
