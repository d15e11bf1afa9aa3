package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Each end says in its last line what became of the connections.
func TestTheLastLineSaysWhatBecameOfTheConnections(t *testing.T) {
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	for what, test := range map[string]struct {
		broker func(net.Conn)
		want   string
	}{
		"answers": {answering(func(_, _ int16, id int32) []byte { return metadata(id, 0) }), "level=INFO msg=stopped why=\"context canceled\" after=NN connections_ended=1 connections_cut=0\n"},
		"silent":  {silent, "level=WARN msg=\"stopped: NN did not end in time and were NN\" why=\"context canceled\" after=NN connections_ended=0 connections_cut=1\n"},
	} {
		for _, stopped := range []string{"agent", "direct", "gateway"} {
			t.Run(what+"/"+stopped, func(t *testing.T) {
				log := &memoryLog{}
				broker := fakeBroker(t, test.broker)
				var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}})
				var gateway running
				if stopped != "direct" {
					gateway = startGateway(t, []string{broker}, func(g *Gateway) {
						if g.DrainTimeout = 200 * time.Millisecond; stopped == "gateway" {
							g.Logger = log.logger()
						}
					})
					up = tunnelTo(t, gateway.address, "ws")
				}
				agent := startAgent(t, up, func(a *Agent) {
					if a.DrainTimeout = 200 * time.Millisecond; stopped != "gateway" {
						a.Logger = log.logger()
					}
				})
				c := dialKafka(t, agent.address)
				request := kmsg.NewPtrMetadataRequest()
				c.send(request, 1)
				if what == "answers" {
					if _, err := c.receive(request); err != nil {
						t.Fatal(err)
					}
				} else {
					waitFor(t, "the request to be in flight", func() bool { return gauge(t, agent, "culvert_connections") > 0 })
				}
				if stopped == "gateway" {
					gateway.stop()
				} else {
					agent.stop()
				}
				lines := strings.SplitAfter(strings.TrimSuffix(log.String(), "\n"), "\n")
				last := lines[len(lines)-1] + "\n"
				for i, part := range strings.Split(test.want, "NN") {
					_, rest, found := strings.Cut(last, part)
					if !found {
						t.Fatalf("the last line is %q, want part %d of %q", last, i, test.want)
					}
					last = rest
				}
			})
		}
	}
}
