package test

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// logins are the ways to log in at the brokers' SASL listener.
var logins = map[string]sasl.Mechanism{
	"PLAIN":         plain.Auth{User: "alice", Pass: "alice-secret"}.AsMechanism(),
	"SCRAM-SHA-256": scram.Auth{User: "bob", Pass: "bob-secret"}.AsSha256Mechanism(),
	"SCRAM-SHA-512": scram.Auth{User: "bob", Pass: "bob-secret"}.AsSha512Mechanism(),
	"OAUTHBEARER":   oauth.Auth{Token: unsecuredToken()}.AsMechanism(),
}

// TestClientsThatLogIn uses brokers that ask for a password, every three
// seconds again, and several principals through one agent at the same time.
func TestClientsThatLogIn(t *testing.T) {
	needReal(t)
	installClients(t, clients.SASLv0)
	cfg := kafka.Config{IDs: []int32{0}, SASL: true, Properties: []string{"connections.max.reauth.ms=3000"}}
	w, err := newWorld(t.Context(), t.TempDir(), cfg, (*kafka.Cluster).SASL, append(transports, snowflake)...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, w)
	w.each(t, append(transports, snowflake), func(t *testing.T, p *path) {
		for name, mechanism := range logins {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				stayLoggedIn(t, p, mechanism)
			})
		}
		// As clients did before Kafka 1.0: tokens without frames around them.
		p.roundtrips(t, clients.SASLv0)
	})
}

// stayLoggedIn produces for longer than a login lasts, over one connection.
func stayLoggedIn(t *testing.T, p *path, mechanism sasl.Mechanism) {
	topic := p.cluster.Topic(t, "login")
	client := p.franz(t, kgo.SASL(mechanism), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	records := numbered(topic, 20)
	for _, r := range records {
		produce(t, client, []*kgo.Record{r})
		time.Sleep(200 * time.Millisecond)
	}
	consume(t, client, len(records)).check(t, len(records))
}

// unsecuredToken is a JSON web token without a signature, which a broker takes
// that was not told better.
func unsecuredToken() string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	now := time.Now().Unix()
	return part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"sub":"carol","iat":%d,"exp":%d}`, now, now+3600)) + "."
}
