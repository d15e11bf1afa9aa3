package snowflake

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// An Account is an account's two names.
type Account struct {
	Host string // of its URL
	JWT  string // in the issuer and the subject of a JWT
}

// accountSuffixes are those of the hosts of accounts.
var accountSuffixes = []string{".snowflakecomputing.com", ".snowflakecomputing.cn"}

// accountForm matches an account identifier.
var accountForm = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// sqlForm matches ORGANIZATION.ACCOUNT, as SQL writes it, and not a locator: the second part of
// that is a region, and the names of all regions have a dash.
var sqlForm = regexp.MustCompile(`^([a-z0-9_]+)\.([a-z0-9_]+)$`)

// ParseAccount reads an account identifier in any of its forms: myorg-myaccount, MYORG.MYACCOUNT, a
// locator with or without region and cloud, with .privatelink or .global behind it; or the
// account's URL.
func ParseAccount(s string) (Account, error) {
	name, suffix, err := identifierIn(strings.ToLower(strings.TrimSpace(s)))
	if err != nil {
		return Account{}, err
	}
	if m := sqlForm.FindStringSubmatch(name); m != nil && m[2] != "global" && m[2] != "privatelink" {
		name = m[1] + "-" + m[2]
	}
	a := Account{Host: strings.ReplaceAll(name, "_", "-") + suffix, JWT: jwtAccount(name)}
	if !accountForm.MatchString(name) || !isHostName(a.Host) {
		return Account{}, badAccount("it is not an account identifier")
	}
	return a, nil
}

// identifierIn is the identifier in a host or URL, and the suffix behind it.
func identifierIn(s string) (name, suffix string, err error) {
	suffix = accountSuffixes[0]
	_, rest, isURL := strings.Cut(s, "://")
	if isURL {
		if org, account, ok := inSnowsight(rest); ok {
			return org + "-" + account, suffix, nil
		}
		u, err := url.Parse("https://" + rest)
		if err != nil || u.Host == "" {
			return "", "", badAccount("it is not a URL")
		}
		s = u.Hostname()
	} else {
		s = strings.TrimSuffix(s, "/")
	}
	if IsHost(s) {
		return "", "", badAccount("it is the host of an endpoint, as in the gateway's URL, and not of an account")
	}
	for _, known := range accountSuffixes {
		if before, ok := strings.CutSuffix(s, known); ok {
			return before, known, nil
		}
	}
	if isURL || strings.HasSuffix(s, ".com") {
		return "", "", badAccount("it is not the URL of an account")
	}
	return s, suffix, nil
}

// inSnowsight finds the account in app.snowflake.com/myorg/myaccount/…, the URL of Snowflake's web
// interface.
func inSnowsight(rest string) (org, account string, ok bool) {
	path, ok := strings.CutPrefix(rest, "app.snowflake.com/")
	if !ok {
		return "", "", false
	}
	org, path, _ = strings.Cut(path, "/")
	account, _, _ = strings.Cut(path, "/")
	return org, account, org != "" && account != "" && !strings.ContainsAny(org+account, ".-?#")
}

// jwtAccount is an account as Snowflake's documentation has it in JWTs: in upper case, without what
// follows a locator.
func jwtAccount(name string) string {
	cut := "."
	if strings.Contains(name, ".global") {
		cut = "-"
	}
	name, _, _ = strings.Cut(name, cut)
	return strings.ToUpper(strings.ReplaceAll(name, ".", "-"))
}

// isHostName reports whether a lower-case name may be in the DNS.
func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// badAccount is an error about an account identifier, with the SQL that shows it.
func badAccount(why string) error {
	return &hints.Error{
		Err:    errors.New(why),
		Remedy: "write it as myorg-myaccount; SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME(); says what it is",
	}
}

// TokenURL is where an account exchanges JWTs for tokens.
func (a Account) TokenURL() *url.URL {
	return &url.URL{Scheme: "https", Host: a.Host, Path: "/oauth/token"}
}

// String is for logs and errors.
func (a Account) String() string { return fmt.Sprintf("%s (%s)", a.JWT, a.Host) }

// IsHost reports whether a host name is one that Snowflake gives to public endpoints.
func IsHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.HasSuffix(host, ".snowflakecomputing.app") || strings.HasSuffix(host, ".snowflake.app")
}

// isSnowflakes reports whether a host, with a port or without, is one of Snowflake's.
func isSnowflakes(host string) bool {
	host = (&url.URL{Host: strings.ToLower(host)}).Hostname()
	for _, suffix := range []string{".snowflakecomputing.com", ".snowflakecomputing.cn", ".snowflake.com"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return IsHost(host)
}
