package chart

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const ticketKeySecret = "culvert-gateway-ticket-key"

// ticketKey returns the gateway's ticket key as the chart renders it.
func ticketKey(t *testing.T, values string, c cluster) string {
	t.Helper()
	texts, err := render(parseValues(t, values), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[*corev1.Secret](decode(t, "gateway.yaml", texts["gateway.yaml"])) {
		if s.Name == ticketKeySecret {
			return string(s.Data["ticket.key"])
		}
	}
	return ""
}

func TestTicketKeySurvivesAnUpgrade(t *testing.T) {
	first, second := ticketKey(t, goodGateway+"}", newCluster()), ticketKey(t, goodGateway+"}", newCluster())
	if len(first) < 32 || first == second {
		t.Errorf("keys of two releases are %q and %q, want two different valid ones", first, second)
	}
	installed := newCluster(&corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: ticketKeySecret, Namespace: namespace},
		Data:       map[string][]byte{"ticket.key": []byte(first)},
	})
	if got := ticketKey(t, goodGateway+"}", installed); got != first {
		t.Errorf("key after an upgrade is %q, was %q", got, first)
	}
	if got := ticketKey(t, goodGateway+", ticketKey: {value: mine}}", installed); got != "mine" {
		t.Errorf("key is %q, want the given one", got)
	}
	if got := ticketKey(t, goodGateway+", ticketKey: {existingSecret: other}}", installed); got != "" {
		t.Errorf("the chart creates key %q despite the existing Secret", got)
	}
}

func TestTokensOfTheValuesBecomeAFile(t *testing.T) {
	o := objects(t, parseValues(t, `gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {values: {laptop: secret-1, ci: secret-2}}}`))
	for _, s := range all[*corev1.Secret](o) {
		if s.Name == "culvert-gateway-tokens" {
			if got, want := s.StringData["tokens"], "ci=secret-2\nlaptop=secret-1\n"; got != want {
				t.Errorf("tokens file %q, want %q", got, want)
			}
			return
		}
	}
	t.Error("no Secret of tokens")
}

// Only Secrets may contain secrets: not a Deployment, not the notes.
func TestSecretsStayInSecrets(t *testing.T) {
	texts, err := render(parseValues(t, `
gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {values: {laptop: s3cret-a}}, ticketKey: {value: s3cret-b}}
agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-2, token: {value: s3cret-c}, snowflake: {pat: {value: s3cret-d}}}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		for document := range strings.SplitSeq(text, "\n---\n") {
			if strings.Contains(document, "s3cret") && !strings.Contains(document, "\nkind: Secret\n") {
				t.Errorf("%s: a secret in\n%s", name, document)
			}
		}
	}
}
