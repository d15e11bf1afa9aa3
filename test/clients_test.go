package test

import (
	"os"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestClients makes the round trip of every client that is a program of its
// own.
func TestClients(t *testing.T) {
	installClients(t, clients.Clients)
	eachTransport(t, func(t *testing.T, p *path) { p.roundtrips(t, clients.Clients) })
}

// TestClientsOfOldThatLogIn uses brokers that ask for a password, and clients
// that log in as was done before Kafka 1.0, by tokens without frames.
func TestClientsOfOldThatLogIn(t *testing.T) {
	needReal(t)
	installClients(t, clients.SASLv0)
	w, err := newWorld(t.Context(), t.TempDir(), kafka.Config{IDs: []int32{0}, SASL: true}, (*kafka.Cluster).SASL, "ws", "h3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	for _, p := range w.paths {
		t.Run(p.transport, func(t *testing.T) {
			p.roundtrips(t, clients.SASLv0)
			p.relay.Check(t)
		})
	}
}

func (p *path) roundtrips(t *testing.T, all []clients.Client) {
	for _, client := range all {
		t.Run(client.Name, func(t *testing.T) {
			topic := p.cluster.Topic(t, strings.ReplaceAll(client.Name, " ", "-")+"-"+p.transport)
			if client.Share {
				p.cluster.ShareFromEarliest(t, topic)
			}
			if _, err := client.Run(t.Context(), p.bootstrap, topic, topic, 300); err != nil {
				t.Error(err)
			}
			p.relay.Check(t)
		})
	}
}

// installClients installs what the clients need. What cannot be installed is
// said loudly and left out; in CI, where all must be there, it fails.
func installClients(t *testing.T, all []clients.Client) {
	needReal(t)
	for _, client := range all {
		if err := client.Install(t.Context()); err != nil {
			cache.Say("left out: %s: %v", client.Name, err)
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
		}
	}
}
