package main

import (
	"net/url"
	"testing"
)

// Credentials go to a provider's own hosts or, where no gateway is at one, to all.
func TestWhichGatewaysAreBehindAnIngress(t *testing.T) {
	const pat = "pat.txt"
	const own, other, third = "https://ab1cd.snowflakecomputing.app", "https://kafka.example.com", "https://10.1.2.3:8443"
	for _, test := range []struct {
		pat      string
		gateways []string
		behind   []bool
	}{
		{"", []string{own, other}, []bool{true, false}},
		{"", []string{other}, []bool{false}},
		{pat, []string{own, other}, []bool{true, false}},
		{pat, []string{other, third}, []bool{true, true}},
		{pat, []string{"https://AB1CD.SNOWFLAKE.APP.", other}, []bool{true, false}},
	} {
		f := &providerFlags{Snowflake: snowflakeFlags{SnowflakePATFile: test.pat}}
		var all []*url.URL
		for _, gateway := range test.gateways {
			u, err := url.Parse(gateway)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, u)
		}
		for i, u := range all {
			if got := f.providerOf(u, all) != nil; got != test.behind[i] {
				t.Errorf("PAT %q, gateways %s: %s is behind an ingress: %t", test.pat, test.gateways, u, got)
			}
		}
	}
}
