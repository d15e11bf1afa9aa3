package main

import (
	"fmt"
	"net/url"
	"strings"
)

// parseGateways reads the URLs: of gateways, or of brokers to dial from here. A
// comma separates brokers as it does URLs, so what has no scheme continues a
// list of brokers.
func parseGateways(list []string) (gateways []*url.URL, brokers []string, err error) {
	direct := false
	for _, s := range values(strings.Split(strings.Join(list, ","), ",")) {
		hosts, isTCP := strings.CutPrefix(s, "tcp://")
		if isTCP || direct && !strings.Contains(s, "://") {
			direct = true
			brokers = append(brokers, strings.TrimSuffix(hosts, "/"))
			continue
		}
		direct = false
		u, err := parseGateway(s)
		if err != nil {
			return nil, nil, err
		}
		gateways = append(gateways, u)
	}
	switch {
	case len(gateways) == 0 && len(brokers) == 0:
		return nil, nil, wrong("give the gateway's, as in --gateway-url https://kafka.example.com, or tcp://BROKER:PORT for no tunnel", "--gateway-url is missing")
	case len(gateways) > 0 && len(brokers) > 0:
		return nil, nil, wrong("start one agent for each", "--gateway-url %s and tcp://%s: an agent goes through gateways or to brokers, not both",
			gateways[0], strings.Join(brokers, ","))
	}
	return gateways, brokers, nil
}

func parseGateway(s string) (*url.URL, error) {
	const form = "write it as https://kafka.example.com, https://kafka.example.com:8443/prefix or tcp://kafka-0:9092"
	u, err := url.Parse(s)
	if err != nil {
		return nil, wrong(form, "--gateway-url %s: it is no URL", s)
	}
	switch {
	case u.Scheme == "http":
		return nil, wrong(fmt.Sprintf("is it https://%s? A gateway without TLS is reached through the ingress that ends TLS for it", strings.TrimSuffix(u.Host, ":80")),
			"--gateway-url %s: tokens and records would go unencrypted", s)
	case u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		return nil, wrong(form, "--gateway-url %s: it is no https:// URL", s)
	case u.User != nil:
		return nil, wrong("put the token into a file: --token-file", "--gateway-url %s: a URL is no place for secrets", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, wrong(form, "--gateway-url %s: it has a query or a fragment", s)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if _, _, err := splitAddress("host:"+port, 1); err != nil {
			return nil, wrong(form, "--gateway-url %s: %w", s, err)
		}
	}
	return u, nil
}
