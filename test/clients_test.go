package test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/clients"
)

// TestClients runs the round trip of every client that is a separate program.
func TestClients(t *testing.T) {
	all := slices.Concat(clients.Clients, clients.Java)
	installClients(t, all)
	eachWay(t, func(t *testing.T, p *path) { p.roundtrips(t, all) })
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

// installClients installs what the clients need. A client that cannot be installed is left out with
// a message. In CI, where all must be there, the test fails.
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
