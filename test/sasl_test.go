package test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// logins are the mechanisms of the brokers' SASL listener.
var logins = map[string]sasl.Mechanism{
	"PLAIN":         plain.Auth{User: "alice", Pass: "alice-secret"}.AsMechanism(),
	"SCRAM-SHA-256": scram.Auth{User: "bob", Pass: "bob-secret"}.AsSha256Mechanism(),
	"SCRAM-SHA-512": scram.Auth{User: "bob", Pass: "bob-secret"}.AsSha512Mechanism(),
	"OAUTHBEARER":   oauth.Auth{Token: unsecuredToken()}.AsMechanism(),
}

// TestClientsThatLogIn uses brokers that require authentication and end each session after three
// seconds. Several principals use one agent at the same time.
func TestClientsThatLogIn(t *testing.T) {
	needReal(t)
	installClients(t, clients.SASLv0)
	cfg := kafka.Config{IDs: []int32{0}, SASL: true, Properties: []string{"connections.max.reauth.ms=3000"}}
	bed, err := newTestbed(t.Context(), t.TempDir(), cfg, (*kafka.Cluster).SASL, append(transports, snowflake)...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, bed)
	bed.each(t, append(transports, snowflake), func(t *testing.T, p *path) {
		for name, mechanism := range logins {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				stayLoggedIn(t, p, mechanism)
			})
		}
		// Clients before Kafka 1.0 send tokens without frames.
		p.roundtrips(t, clients.SASLv0)
		p.hideRequests(t)
	})
}

// stayLoggedIn produces over one connection for longer than a session lasts.
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

// hideRequests logs in with a raw token and then sends a Metadata request. Kafka reads the length
// of its client id as null; culvert once took it for another token. The broker answers it in place
// of another request with the same correlation id. The leak detector sees whether the broker's
// addresses get through.
func (p *path) hideRequests(t *testing.T) {
	c, err := net.Dial("tcp", p.bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	handshake := kmsg.NewPtrSASLHandshakeRequest()
	handshake.Mechanism = "PLAIN"
	format := kmsg.NewRequestFormatter()
	for _, b := range [][]byte{format.AppendRequest(nil, handshake, 1), []byte("\x00\x00\x00\x13\x00alice\x00alice-secret")} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		size := make([]byte, 4)
		if _, err := io.ReadFull(c, size); err != nil {
			t.Fatalf("log in: %v", err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(size))); err != nil {
			t.Fatalf("log in: %v", err)
		}
	}
	metadata, offsets := kmsg.NewPtrMetadataRequest(), kmsg.NewPtrListOffsetsRequest()
	metadata.Version, offsets.Version = 1, 1
	hidden := format.AppendRequest(nil, metadata, 7)
	copy(hidden[12:14], []byte{0xff, 0xfe})
	c.Write(format.AppendRequest(hidden, offsets, 7))
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c) // until the agent or the broker closes it
}

// unsecuredToken returns a JSON web token without a signature, which brokers accept by default.
func unsecuredToken() string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	now := time.Now().Unix()
	return part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"sub":"carol","iat":%d,"exp":%d}`, now, now+3600)) + "."
}
