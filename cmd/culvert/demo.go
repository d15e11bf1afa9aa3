package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	demoRecords = 300
	// stepTimeout bounds each of the first two steps, which take about a second: a demo must not
	// hang.
	stepTimeout = 30 * time.Second
)

// demoCmd is culvert demo. Everything that it prints really happens, on this machine and without a
// network.
type demoCmd struct {
	Once      bool   `group:"The demo" help:"Exit when everything has been shown. The exit code is 0 if every record has arrived."`
	Transport string `group:"The demo" placeholder:"NAME" default:"auto" help:"auto, h3, ws or h2. With h3 and h2 there is no ingress: Snowflake's supports neither."`
	Listen    string `group:"The demo" placeholder:"BIND[=HOST]" default:"127.0.0.1:9092" help:"Bootstrap address, as in culvert agent. If the default is taken, another one is chosen."`
}

func (*demoCmd) Help() string {
	return `Example:
  culvert demo
  kcat -b 127.0.0.1:9092 -C -t demo -e`
}

// Run shows the three steps. The last one lasts until a signal ends ctx, which is then no error.
func (c *demoCmd) Run(ctx context.Context, a *app) error {
	listen, err := c.check()
	if err != nil {
		return err
	}
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	out, done := a.progress()
	defer done()
	w := &walkthrough{out: out, failed: failed}
	w.say("culvert demo: Kafka behind an endpoint that accepts only HTTPS, all in this process.")
	// Before anything starts: an error after a page of output would be overlooked.
	if err := checkListenFree(listen); err != nil {
		return err
	}
	bed := &testbed{transport: c.Transport, listen: listen, log: unlessDebug(ctx, a.log, slog.LevelWarn), failed: failed}
	err = c.show(ctx, w, bed)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // a signal, or the part that failed; err is what followed from that
	}
	w.now(fmt.Sprintf("ending; clients have %v", demoDrain))
	bed.stop()
	if errors.Is(err, errSignal) && w.complete {
		return nil
	}
	return err
}

// check parses the settings and refuses wrong ones.
func (c *demoCmd) check() (l proxy.Listen, err error) {
	if err := checkTransportName(c.Transport); err != nil {
		return l, err
	}
	return parseListen(c.Listen, proxy.BrokerNames{})
}

// show goes through the steps. Those before the last are complete when it sets complete: from then
// on a signal is the way to end the demo, not a failure.
func (c *demoCmd) show(ctx context.Context, w *walkthrough, bed *testbed) error {
	if err := w.withoutCulvert(ctx, bed); err != nil {
		return err
	}
	if err := w.withCulvert(ctx, bed); err != nil {
		return err
	}
	if w.complete = true; c.Once {
		w.say("\nDone. Without --once, everything stays up for a client of your own.")
		return nil
	}
	return w.yourTurn(ctx, bed)
}

// walkthrough prints what happens.
type walkthrough struct {
	out      *progress
	failed   context.CancelCauseFunc // ends the demo when nobody reads it any more
	complete bool                    // all that can fail has been shown
}

func (w *walkthrough) say(format string, args ...any) {
	if _, err := fmt.Fprintf(w.out, format+"\n", args...); err != nil {
		w.failed(err)
	}
}

// head begins a part of the demo.
func (w *walkthrough) head(title string) { w.say("\n%s", w.out.paint(bold, title)) }

// now says what is being done, while that lasts.
func (w *walkthrough) now(doing string) { w.out.show("  ... " + doing) }

// withoutCulvert shows both problems by the errors that a client gets.
func (w *walkthrough) withoutCulvert(ctx context.Context, bed *testbed) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	w.now("starting three brokers and a gateway")
	if err := bed.startGatewayEnd(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	w.say("Behind it are three brokers, whose names resolve only in their own network:")
	for id := range int32(demoBrokers) {
		w.say("  %s", fakekafka.Host(id))
	}
	w.head("1. WITHOUT CULVERT")
	w.say("A Kafka client connects to the endpoint, %s, with TLS:", bed.endpoint)
	client := kafkaClient{bootstrap: bed.endpoint.Host, tls: &tls.Config{RootCAs: bed.roots}}
	if err := w.showFailure(ctx, client); err != nil {
		return err
	}
	w.say("Problem one: Kafka is not HTTP. Suppose that somebody forwards a port past the endpoint.")
	w.say("The client connects to broker 0, is told where the other brokers are, and goes there:")
	client = kafkaClient{bootstrap: bed.cluster.Bootstrap()[0]}
	if err := w.showFailure(ctx, client); err != nil {
		return err
	}
	w.say("Problem two: brokers tell clients their own addresses, which cannot be reached from here.")
	return nil
}

// showFailure prints the error of a client that cannot work. That it works is the error here: some
// resolvers answer every name.
func (w *walkthrough) showFailure(ctx context.Context, client kafkaClient) error {
	w.now("connecting")
	err := client.attempt(ctx)
	if err == nil {
		return fmt.Errorf("demo: a client reached the brokers without culvert: does a resolver here answer names in %s?", fakekafka.Domain)
	}
	fmt.Fprint(w.out, strings.Replace(wrap("error: "+sanitize(clientError(err)), "  "), "error:", w.out.paint(red, "error:"), 1))
	return nil
}

// withCulvert has the same client work through culvert.
func (w *walkthrough) withCulvert(ctx context.Context, bed *testbed) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	w.head("2. WITH CULVERT")
	w.now("starting an agent, which tries the transports")
	if err := bed.startAgent(ctx); err != nil {
		return fmt.Errorf("demo: start the agent: %w", err)
	}
	w.drawPath(bed.transport)
	for _, sentence := range bed.portsMoved {
		w.say("%s", sentence)
	}
	w.say("The same client, with nothing changed but its bootstrap address, %s:", bed.bootstrap)
	if err := w.useKafka(ctx, kafkaClient{bootstrap: bed.bootstrap}); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return w.latency(bed)
}

// drawPath shows what a connection passes, and says why that depends on the transport.
func (w *walkthrough) drawPath(transport string) {
	w.say("An agent beside the client, a gateway beside the brokers, HTTPS between them:")
	switch transport {
	case tunnel.TransportH3:
		w.say("  client -- agent == HTTP/3 ==> gateway -- brokers")
		w.say("No ingress here: Snowflake's has no UDP, so the agent connects to the gateway itself.")
		return
	case tunnel.TransportH2:
		w.say("  client -- agent == HTTP/2 ==> gateway -- brokers")
		w.say("No ingress here: Snowflake's speaks HTTP/1.1, so the agent connects to the gateway itself.")
		return
	}
	w.say("  client -- agent == WebSocket over TLS ==> ingress -- gateway -- brokers")
	w.say("The ingress stands in for Snowflake's: it accepts whoever presents a token of the account,")
	if transport == tunnel.TransportAuto {
		w.say("and has no UDP. The agent tried HTTP/3 first, got no answer, and took WebSocket.")
		return
	}
	w.say("and speaks HTTP/1.1 and WebSocket, nothing else.")
}

// useKafka creates a topic, produces and consumes.
func (w *walkthrough) useKafka(ctx context.Context, client kafkaClient) error {
	w.now("creating topic " + demoTopic)
	brokers, err := client.createTopic(ctx)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", demoTopic, err)
	}
	w.say("  created   topic %s, %d partitions, %d replicas", demoTopic, demoPartitions, demoBrokers)
	w.say("  was told  brokers at %s", strings.Join(brokers, ", "))
	w.now(fmt.Sprintf("producing %d records", demoRecords))
	if err := client.produce(ctx, demoRecords); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	w.say("  produced  %d records with acks=all, one at a time, all acknowledged", demoRecords)
	w.now("joining group " + demoGroup + " and consuming")
	counts, err := client.consume(ctx, demoRecords)
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	w.say("  consumed  %d records in group %s: none lost, none twice, in order", demoRecords, demoGroup)
	w.say("            (%s in partitions 0 to %d)", strings.Trim(fmt.Sprint(counts), "[]"), demoPartitions-1)
	return nil
}

// latency shows the time that requests took, as both ends measured it.
func (w *walkthrough) latency(bed *testbed) error {
	w.say("Both ends time each request; the difference is what the tunnel costs. Means in ms:")
	w.say("  %10s %9s %9s %9s %9s", "", "requests", "agent", "gateway", "tunnel")
	for _, key := range []string{"Metadata", "Produce", "Fetch"} {
		agent, err := measured(bed.agentMetrics, key)
		if err != nil {
			return err
		}
		gateway, err := measured(bed.gatewayMetrics, key)
		if err != nil {
			return err
		}
		w.say("  %s", latencyRow(key, agent, gateway))
	}
	return nil
}

// latencyRow is a row of the table of latency. The tunnel's time is what the two figures before it
// say. Brokers hold a Fetch on purpose: the difference of two waits would be noise.
func latencyRow(key string, agent, gateway timing) string {
	const shown = 10 * time.Microsecond
	a, g, tunnel := agent.mean.Round(shown), gateway.mean.Round(shown), "-"
	if key != "Fetch" {
		tunnel = fmt.Sprintf("%.2f", millis(max(0, a-g)))
	}
	return fmt.Sprintf("%-10s %9d %9.2f %9.2f %9s", key, agent.requests, millis(a), millis(g), tunnel)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// yourTurn says how to use what is running, and waits until ctx is done.
func (w *walkthrough) yourTurn(ctx context.Context, bed *testbed) error {
	if err := errors.Join(bed.startAdmin(ctx), bed.startTraffic(ctx)); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	w.head("3. YOUR TURN")
	w.say("Everything stays up until Ctrl-C, with records in memory. A client keeps a few records per")
	w.say("second flowing through topic %s. To watch them, open", trafficTopic)
	w.say("  %s  the agent's page", bed.pages[0])
	w.say("  %s  the gateway's page", bed.pages[1])
	w.say("In another terminal:")
	w.say("  %s", bed.top())
	w.say("  kcat -b %s -L", bed.bootstrap)
	w.say("  kcat -b %s -C -t %s -o beginning -e", bed.bootstrap, demoTopic)
	w.say("  kafka-console-producer.sh --bootstrap-server %s --topic %s", bed.bootstrap, demoTopic)
	w.say("  kafka-console-consumer.sh --bootstrap-server %s --topic %s --from-beginning", bed.bootstrap, demoTopic)
	w.say("or, in your own code, bootstrap.servers=%s and nothing else.", bed.bootstrap)
	w.say("For your own cluster: culvert gateway --help, culvert agent --help")
	<-ctx.Done()
	return nil
}
