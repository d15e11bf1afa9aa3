package tunnel

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

// variable returns the name of the environment variable for URLs such as the gateway's.
func variable(gateway *url.URL) string {
	return strings.ToUpper(gateway.Scheme) + "_PROXY"
}

// ProxyFromEnvironment returns the proxy that HTTPS_PROXY or HTTP_PROXY names. It returns nil if
// there is none, if NO_PROXY lists the gateway, or if the gateway is on loopback. It returns an
// error with a hint if a [Dialer] cannot use the proxy.
func ProxyFromEnvironment(gateway *url.URL) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	env.CGI = false // the CGI variable REQUEST_METHOD does not concern us
	value := &env.HTTPSProxy
	if gateway.Scheme == "http" {
		value = &env.HTTPProxy
	}
	// The parser treats a URL that it cannot read as no proxy, or reads "http" as the proxy's host.
	// So give it a valid one, to learn whether a proxy was meant for this gateway.
	meant, valid := *value, isProxyURL(*value)
	if *value != "" && !valid {
		*value = "http://proxy"
	}
	u, _ := env.ProxyFunc()(gateway)
	switch {
	case u == nil:
		return nil, nil
	case !valid:
		if err := remedies.MissingBrackets("", hostOf(meant), ""); err != nil {
			return nil, fmt.Errorf("%s is not a proxy URL: %w", variable(gateway), err)
		}
		return nil, hints.New(fmt.Errorf("%s is not a proxy URL", variable(gateway)), "write it as "+variable(gateway)+
			"=http://USER:PASSWORD@host:port, with special characters in the password percent-encoded: "+encodings)
	}
	return checkProxy(u)
}

// encodings are the characters that end a password too early, or make a URL invalid.
const encodings = `%40 for @, %23 for #, %5C for \, %2F for /, %3F for ?, %25 for %`

// hostOf returns what stands in a proxy's URL behind the last at sign, without a path, even if it is
// not a URL.
func hostOf(value string) string {
	if _, rest, ok := strings.Cut(value, "://"); ok {
		value = rest
	}
	value = value[strings.LastIndexByte(value, '@')+1:]
	host, _, _ := strings.Cut(value, "/")
	return host
}

// isProxyURL reports whether the value of a variable is a URL, or HOST:PORT, in which nothing but the
// user stands before an at sign. A password with a bare # would be the port of a host that is the
// user.
func isProxyURL(value string) bool {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	return err == nil && u.Host != "" && !strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}

// ProxyMistakes returns what the environment says about proxies that other programs heed and this one
// does not, if it may concern the gateway. Each error has a hint, and neither has a secret.
func ProxyMistakes(gateway *url.URL) []error {
	env := httpproxy.FromEnvironment()
	env.CGI = false
	set := env.HTTPSProxy
	if gateway.Scheme == "http" {
		set = env.HTTPProxy
	}
	env.HTTPSProxy, env.HTTPProxy = "http://proxy", "http://proxy"
	if u, _ := env.ProxyFunc()(gateway); u == nil {
		return nil // no proxy is wanted for this gateway
	}
	if set == "" {
		for _, name := range []string{"ALL_PROXY", "all_proxy"} {
			if os.Getenv(name) != "" {
				return []error{hints.New(errors.New(name+" is ignored"), "to use that proxy, set "+variable(gateway)+" to the same value")}
			}
		}
		return nil
	}
	var mistakes []error
	for entry := range strings.SplitSeq(env.NoProxy, ",") {
		if form := workingForm(strings.TrimSpace(entry)); form != "" {
			mistakes = append(mistakes, hints.New(fmt.Errorf("NO_PROXY: %q is ignored", strings.TrimSpace(entry)), "%s", form))
		}
	}
	return mistakes
}

// workingForm returns how to write an entry of NO_PROXY that matches nothing as it is, or "" if it is
// right.
func workingForm(entry string) string {
	if several := strings.FieldsFunc(entry, func(c rune) bool { return c == ';' || c == ' ' || c == '\t' || c == '|' }); len(several) > 1 {
		return "separate entries with commas: " + strings.Join(several, ",")
	}
	if _, host, ok := strings.Cut(entry, "://"); ok {
		return "write the host without a scheme: " + host
	}
	rest := strings.TrimPrefix(entry, "*.")
	switch {
	case entry == "*", !strings.Contains(rest, "*"):
		return ""
	case prefixOf(entry) != "":
		return "write it as " + prefixOf(entry)
	}
	return "* is allowed only at the beginning, as in *.example.com; for IP addresses, write a prefix, as in 10.0.0.0/8"
}

// prefixOf returns 10.1.0.0/16 for 10.1.*, and "" for what is not of this form.
func prefixOf(entry string) string {
	octets := strings.Split(entry, ".")
	fixed := 0
	for fixed < len(octets) && octets[fixed] != "*" {
		if _, err := strconv.ParseUint(octets[fixed], 10, 8); err != nil {
			return ""
		}
		fixed++
	}
	if fixed == 0 || fixed > 3 || len(octets) > 4 || strings.Trim(strings.Join(octets[fixed:], ""), "*") != "" {
		return ""
	}
	address := strings.Join(append(octets[:fixed:fixed], "0", "0", "0", "0")[:4], ".")
	return address + "/" + strconv.Itoa(8*fixed)
}
