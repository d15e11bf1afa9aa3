package tunnel

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// What other programs heed and Go does not is said, together with what works.
func TestWhatTheEnvironmentSaysInVain(t *testing.T) {
	const proxy = "HTTPS_PROXY=http://user:secret@proxy.example:3128"
	for _, tt := range []struct {
		env  []string
		url  string
		want []string // error, hint, error, hint …
	}{
		{nil, "https://gateway.example", nil},
		{[]string{proxy}, "https://gateway.example", nil},
		{[]string{"ALL_PROXY=http://user:secret@proxy.example:3128"}, "https://gateway.example",
			[]string{"ALL_PROXY is ignored", "to use that proxy, set HTTPS_PROXY to the same value"}},
		{[]string{"all_proxy=socks5://proxy.example"}, "http://gateway.example", []string{"all_proxy is ignored", "to use that proxy, set HTTP_PROXY to the same value"}},
		{[]string{"ALL_PROXY=http://proxy.example", proxy}, "https://gateway.example", nil},
		{[]string{"ALL_PROXY=http://proxy.example", "NO_PROXY=.example"}, "https://gateway.example", nil},
		{[]string{"ALL_PROXY=http://proxy.example"}, "https://127.0.0.1", nil},
		{[]string{"NO_PROXY=10.*"}, "https://gateway.example", nil}, // there is no proxy
		{[]string{proxy, "NO_PROXY=10.*,localhost"}, "https://gateway.example", []string{`NO_PROXY: "10.*" is ignored`, "write it as 10.0.0.0/8"}},
		{[]string{proxy, "no_proxy=192.168.*.*, 10.1.2.*"}, "https://gateway.example", []string{
			`NO_PROXY: "192.168.*.*" is ignored`, "write it as 192.168.0.0/16", `NO_PROXY: "10.1.2.*" is ignored`, "write it as 10.1.2.0/24"}},
		{[]string{proxy, "NO_PROXY=localhost;gateway.example"}, "https://gateway.example", []string{
			`NO_PROXY: "localhost;gateway.example" is ignored`, "separate entries with commas: localhost,gateway.example"}},
		{[]string{proxy, "NO_PROXY=localhost gateway.example"}, "https://gateway.example", []string{
			`NO_PROXY: "localhost gateway.example" is ignored`, "separate entries with commas: localhost,gateway.example"}},
		{[]string{proxy, "NO_PROXY=https://gateway.example"}, "https://gateway.example", []string{
			`NO_PROXY: "https://gateway.example" is ignored`, "write the host without a scheme: gateway.example"}},
		{[]string{proxy, "NO_PROXY=gateway*"}, "https://gateway.example", []string{`NO_PROXY: "gateway*" is ignored`,
			"* is allowed only at the beginning, as in *.example.com; for IP addresses, write a prefix, as in 10.0.0.0/8"}},
		{[]string{proxy, "NO_PROXY=localhost, 127.0.0.1,*.internal,.corp,10.0.0.0/8,[::1]:80, "}, "https://gateway.example", nil},
	} {
		t.Run(strings.Join(tt.env, " "), func(t *testing.T) {
			for _, set := range tt.env {
				name, value, _ := strings.Cut(set, "=")
				t.Setenv(name, value)
			}
			u, _ := url.Parse(tt.url)
			var got []string
			for _, err := range ProxyMistakes(u) {
				got = append(got, err.Error(), hintsOf(err))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for i := 0; i+1 < len(tt.want); i += 2 {
				if strings.HasPrefix(tt.want[i], "NO_PROXY") && !proxied(t, u) {
					t.Errorf("%s is said to be ignored, and no proxy is used", tt.want[i])
				}
			}
		})
	}
}

// proxied reports whether a proxy is used for u.
func proxied(t *testing.T, u *url.URL) bool {
	t.Helper()
	through, err := ProxyFromEnvironment(u)
	if err != nil {
		t.Fatal(err)
	}
	return through != nil
}
