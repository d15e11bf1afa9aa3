package clients

import (
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestClientsWorkDirectly is the control of the tests through culvert: a failure here is not
// culvert's fault.
func TestClientsWorkDirectly(t *testing.T) {
	kafka.Need(t)
	c := kafka.Start(t, kafka.Config{})
	for _, client := range slices.Concat(Clients, Java) {
		t.Run(client.Name, func(t *testing.T) {
			topic := c.Topic(t, strings.ReplaceAll(client.Name, " ", "-"))
			if client.Share {
				c.ShareFromEarliest(t, topic)
			}
			out, err := client.Run(t.Context(), c.Internal(), topic, topic, 300)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(strings.TrimSpace(out))
		})
	}
}

func TestSASLv0ClientsWorkDirectly(t *testing.T) {
	kafka.Need(t)
	c := kafka.Start(t, kafka.Config{IDs: []int32{0}, SASL: true, DirectSASL: true})
	for _, client := range SASLv0 {
		t.Run(client.Name, func(t *testing.T) {
			topic := c.Topic(t, strings.ReplaceAll(client.Name, " ", "-"))
			out, err := client.Run(t.Context(), c.SASL(), topic, topic, 300)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(strings.TrimSpace(out))
		})
	}
}
