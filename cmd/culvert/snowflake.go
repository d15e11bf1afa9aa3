package main

import (
	"net/url"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// snowflakeFlags are a provider: the credentials for the ingress of Snowpark Container Services: a
// programmatic access token, or a key pair.
type snowflakeFlags struct {
	SnowflakePATFile              string `name:"snowflake-pat-file" group:"Snowflake's ingress" placeholder:"FILE" help:"File with a programmatic access token for the ingress."`
	SnowflakePrivateKeyFile       string `group:"Snowflake's ingress" placeholder:"FILE" help:"Instead of that: private key (RSA, PKCS #8 in PEM) whose public half Snowflake has for the user. It gets short-lived tokens."`
	SnowflakePrivateKeyPassphrase string `name:"snowflake-private-key-passphrase-file" group:"Snowflake's ingress" placeholder:"FILE" help:"File with its passphrase, where it is encrypted."`
	SnowflakeAccount              string `group:"Snowflake's ingress" placeholder:"NAME" help:"Account of the key's user, as myorg-myaccount or in any other form."`
	SnowflakeUser                 string `group:"Snowflake's ingress" placeholder:"NAME" help:"User of the key."`
	SnowflakeRole                 string `group:"Snowflake's ingress" placeholder:"NAME" help:"Role that may use the endpoint, spelled as in SHOW ROLES, where it is not the user's default."`
	SnowflakeTokenURL             string `name:"snowflake-token-url" group:"Snowflake's ingress" placeholder:"URL" help:"Where the key gets tokens, if not at https://ACCOUNT.snowflakecomputing.com/oauth/token: with PrivateLink, say."`
	SnowflakeJWTAccount           string `name:"snowflake-jwt-account" group:"Snowflake's ingress" placeholder:"NAME" help:"How the key's JWT names the account, if not as --snowflake-account does."`

	account  snowflake.Account // as check has read it
	tokenURL *url.URL          // likewise
}

func (*snowflakeFlags) name() string { return "Snowflake" }

func (f *snowflakeFlags) credentialFiles() []credentialFile {
	return []credentialFile{
		{"--snowflake-pat-file", kindToken, f.SnowflakePATFile},
		{"--snowflake-private-key-file", kindKey, f.SnowflakePrivateKeyFile},
	}
}

func (*snowflakeFlags) loginFlag() string { return "--snowflake-private-key-file" }

// given are the flags that are set.
func (f *snowflakeFlags) given() []string {
	set := f.ofKey()
	if f.SnowflakePATFile != "" {
		set = append(set, "--snowflake-pat-file")
	}
	if f.SnowflakePrivateKeyFile != "" {
		set = append(set, "--snowflake-private-key-file")
	}
	slices.Sort(set)
	return set
}

// ofKey are those of them that go with a key.
func (f *snowflakeFlags) ofKey() []string {
	return given(map[string]bool{
		"--snowflake-private-key-passphrase-file": f.SnowflakePrivateKeyPassphrase != "",
		"--snowflake-account":                     f.SnowflakeAccount != "",
		"--snowflake-user":                        f.SnowflakeUser != "",
		"--snowflake-role":                        f.SnowflakeRole != "",
		"--snowflake-token-url":                   f.SnowflakeTokenURL != "",
		"--snowflake-jwt-account":                 f.SnowflakeJWTAccount != "",
	})
}

// check also reads what has a form: the account and the URL of logins.
func (f *snowflakeFlags) check() error {
	more := f.ofKey()
	switch {
	case secretForm.MatchString(f.SnowflakePATFile), secretForm.MatchString(f.SnowflakePrivateKeyFile):
		return wrong("write it into a file that only you can read, and give the file's name; whoever listed the processes has seen this secret",
			"--snowflake-pat-file, --snowflake-private-key-file: the value is a secret, not the name of a file")
	case f.SnowflakePATFile != "" && f.SnowflakePrivateKeyFile != "":
		return wrong("leave one out", "--snowflake-pat-file and --snowflake-private-key-file: the ingress takes only one of them")
	case f.SnowflakePATFile != "" && len(more) > 0:
		return wrong("leave it out: the token itself says whose it is, and for which role", "%s: it goes with a key, not with --snowflake-pat-file", strings.Join(more, ", "))
	case f.SnowflakePrivateKeyFile == "" && len(more) > 0:
		return wrong("add --snowflake-private-key-file", "%s: it has no meaning without a key", strings.Join(more, ", "))
	case f.SnowflakePrivateKeyFile == "":
		return nil
	case f.SnowflakeAccount == "":
		return wrong("add --snowflake-account myorg-myaccount", "--snowflake-private-key-file %s: the account of the key's user is missing", f.SnowflakePrivateKeyFile)
	case f.SnowflakeUser == "":
		return wrong("add --snowflake-user", "--snowflake-private-key-file %s: the key's user is missing", f.SnowflakePrivateKeyFile)
	case strings.ContainsAny(f.SnowflakeRole, " \t\"'"):
		return wrong("write it as SHOW ROLES does, without quotes", "--snowflake-role %s: it has spaces or quotes", f.SnowflakeRole)
	}
	account, err := snowflake.ParseAccount(f.SnowflakeAccount)
	if err != nil {
		return wrong("", "--snowflake-account %s: %w", redact(f.SnowflakeAccount), err)
	}
	f.account = account
	return f.checkTokenURL()
}

// checkTokenURL finds where logins go, and whether the environment names a proxy for that which can
// be used.
func (f *snowflakeFlags) checkTokenURL() error {
	u := f.account.TokenURL()
	if s := f.SnowflakeTokenURL; s != "" {
		var err error
		if u, err = url.Parse(s); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return wrong("write it as https://myorg-myaccount.privatelink.snowflakecomputing.com/oauth/token", "--snowflake-token-url %s: it is not an https:// URL of a host and a path", redact(s))
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = f.account.TokenURL().Path
		}
	}
	if _, err := tunnel.ProxyFromEnvironment(u); err != nil {
		return wrong("", "log in at %s: %w", u.Host, err)
	}
	f.tokenURL = u
	return nil
}

func (*snowflakeFlags) isHost(host string) bool { return snowflake.IsHost(host) }

// ingress may make one without credentials, which still says what the answers mean.
func (f *snowflakeFlags) ingress(gateway *url.URL, env ingressEnv) (ingress, error) {
	i := &snowflake.Ingress{Host: strings.ToLower(gateway.Hostname()), Names: flagOf, Logger: env.log}
	var err error
	switch {
	case f.SnowflakePATFile != "":
		i.PAT, err = snowflake.PATFile(credentials.File{Path: f.SnowflakePATFile, Name: "--snowflake-pat-file"}, env.log)
	case f.SnowflakePrivateKeyFile != "":
		i.KeyPair, err = f.keyPair(env)
		if env.metrics != nil {
			i.OnLogin = env.metrics.Logins("snowflake", gateway.Host)
		}
	}
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (f *snowflakeFlags) keyPair(env ingressEnv) (*snowflake.KeyPair, error) {
	key, err := snowflake.KeyFile(
		credentials.File{Path: f.SnowflakePrivateKeyFile, Name: "--snowflake-private-key-file"},
		credentials.File{Path: f.SnowflakePrivateKeyPassphrase, Name: "--snowflake-private-key-passphrase-file"}, env.log)
	if err != nil {
		return nil, err
	}
	return &snowflake.KeyPair{
		Key: key, Account: f.account, User: f.SnowflakeUser, Role: f.SnowflakeRole,
		JWTAccount: f.SnowflakeJWTAccount, TokenURL: f.tokenURL, HTTP: snowflake.LoginTransport{Roots: env.roots},
	}, nil
}
