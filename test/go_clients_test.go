package test

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/clients"
)

// TestGoClientsDialThemselves runs the round trip of clients in Go that use proxy/dialer instead of
// an agent. They get no address of a broker: they begin at the gateway's bootstrap brokers, and dial
// the names that the brokers advertise, which only the gateway can resolve.
func TestGoClientsDialThemselves(t *testing.T) {
	bed := sharedTestbed(t)
	installClients(t, clients.InProcess)
	options := map[string][]string{}
	for _, transport := range append(transports, "auto") {
		options[transport] = []string{"gateway=https://" + bed.gateway.listen, "transport=" + transport}
	}
	edge := bed.paths[snowflake].standIn
	if _, err := edge.patFlags(edge.account.NewPAT(kafkaUser, kafkaRole, time.Hour)); err != nil {
		t.Fatal(err)
	}
	options[snowflake] = []string{"gateway=" + edge.url(clientHost), "pat=" + edge.ownFile("pat")}
	for way, options := range options {
		for _, client := range clients.InProcess {
			t.Run(way+"/"+client.Name, func(t *testing.T) {
				t.Parallel()
				client := client.With(append(options, "ca="+bed.file("ca.pem"), "token="+bed.file("token"))...)
				topic := bed.cluster.Topic(t, "in-process-"+way+"-"+strings.ReplaceAll(client.Name, " ", "-"))
				if _, err := client.Run(t.Context(), "none.invalid:9092", topic, topic, 300); err != nil {
					t.Error(err)
				}
				bed.logIfFailed(t)
			})
		}
	}
}
