package chart

import (
	"strings"
	"testing"
)

func TestNotesSayHowToConnectAClient(t *testing.T) {
	tls := `, tls: {existingSecret: tls}`
	for _, c := range []struct {
		values string
		want   []string
	}{
		{``, []string{"Nothing is installed: set agent.enabled or gateway.enabled"}},
		{goodAgent + `}`, []string{
			"bootstrap.servers=culvert-agent.orders.svc:9092\n",
			"kubectl -n orders port-forward deploy/culvert-agent 9092 19092 19093 19094\n  kcat -b 127.0.0.1:9092 -L",
			"helm -n orders test culvert --logs",
			"only pods of namespace orders\nmay connect; others: agent.networkPolicy.from.",
		}},
		{goodAgent + `, advertisedHost: kafka.orders.example.com, networkPolicy: {enabled: false}}`, []string{
			"bootstrap.servers=kafka.orders.example.com:9092", "Whoever reaches these ports uses the agent's credentials",
		}},
		{goodAgent + `, listenTLS: {existingSecret: tls}, brokerNames: "b{id}.example.com"}`, []string{
			"security.protocol=SSL, or SASL_SSL\n\nand reach each broker on the same port as b{id}.example.com.", "port-forward deploy/culvert-agent 9092\n",
		}},
		{goodGateway + `, ingress: {enabled: true, host: kafka.example.com, path: /kafka}}`, []string{
			"https://kafka.example.com/kafka\n", "culvert agent --gateway-url https://kafka.example.com/kafka --token-file token.txt",
			`get secret t -o jsonpath='{.data.tokens}'`, "The ticket key was made by Helm",
		}},
		{goodRoute + `, path: /kafka}}`, []string{
			"  https://kafka.example.com/kafka\n", "culvert agent --gateway-url https://kafka.example.com/kafka --token-file token.txt",
			`kubectl -n orders get httproute culvert-gateway -o jsonpath='{range .status.parents[*].conditions[*]}{.type}={.status} {.message}{"\n"}{end}'`,
		}},
		{goodRoute + `}` + tls + `}`, []string{"the Gateway needs a BackendTLSPolicy for service culvert-gateway."}},
		{goodAgent + `, forwards: {schema-registry: 8081}}`, []string{
			"\nschema-registry is at culvert-agent.orders.svc:8081.\n", "9092 19092 19093 19094 8081\n  kcat",
		}},
		{goodGateway + tls + `, service: {type: LoadBalancer, udp: separate}, ticketKey: {existingSecret: k}}`, []string{
			"kubectl -n orders get service culvert-gateway culvert-gateway-udp\n", "--gateway-url https://HOST --token-file",
		}},
		{goodGateway + tls + `}`, []string{"https://culvert-gateway.orders.svc, in this cluster"}},
		{goodGateway + `}`, []string{"the HTTPS ingress that you put before http://culvert-gateway.orders.svc:80."}},
	} {
		texts, err := render(parseValues(t, c.values), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.values, err)
		}
		for _, want := range c.want {
			if !strings.Contains(texts["NOTES.txt"], want) {
				t.Errorf("%s: notes do not say %q:\n%s", c.values, want, texts["NOTES.txt"])
			}
		}
		for line := range strings.Lines(texts["NOTES.txt"]) {
			if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
				t.Errorf("%s: blanks at the end of %q", c.values, line)
			}
		}
	}
}
