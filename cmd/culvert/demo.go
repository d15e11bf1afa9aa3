package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	demoRecords = 300
	// actTimeout bounds an act, which takes a second.
	actTimeout = 30 * time.Second
)

// demoCmd is culvert demo: a story in three acts, all of which really happens.
type demoCmd struct {
	Once      bool   `group:"The demo" help:"End when all is shown. The exit code is 0 if every record has arrived."`
	Transport string `group:"The demo" placeholder:"NAME" default:"auto" help:"auto, h3, ws or h2. With h3 and h2 there is no ingress: Snowflake's has neither."`
	Listen    string `group:"The demo" placeholder:"BIND[=HOST]" default:"127.0.0.1:9092" help:"Bootstrap address, as that of culvert agent. If the default is taken, another one is chosen."`
}

func (*demoCmd) Help() string {
	return `Example:
  culvert demo
  kcat -b 127.0.0.1:9092 -C -t demo -e`
}

// Run tells the story, the last act of which lasts until the process is told to
// stop.
func (c *demoCmd) Run(ctx context.Context, a *app) error {
	listen, err := c.check()
	if err != nil {
		return err
	}
	t := &story{w: a.stdout}
	t.say("culvert demo: Kafka behind a door that lets in HTTPS only, all in this process.")
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	if err := mustBeFree(listen); err != nil {
		return err
	}
	s := &stage{transport: c.Transport, listen: listen, log: unlessDebug(ctx, a.log, slog.LevelWarn), failed: failed}
	defer s.stop()
	err = c.tell(ctx, t, s)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // and not what followed from it
	}
	if errors.Is(err, errSignal) && t.over {
		return nil
	}
	return err
}

// check refuses settings that have the wrong form.
func (c *demoCmd) check() (l proxy.Listen, err error) {
	if err := checkTransportName(c.Transport); err != nil {
		return l, err
	}
	return parseListen(c.Listen)
}

func (c *demoCmd) tell(ctx context.Context, t *story, s *stage) error {
	if err := t.without(ctx, s); err != nil {
		return err
	}
	if err := t.with(ctx, s); err != nil {
		return err
	}
	if t.over = true; c.Once {
		t.say("\nDone. Without --once all of it stays up for a client of yours.")
		return nil
	}
	t.yourTurn(ctx, s)
	return nil
}

// story prints what happens.
type story struct {
	w    io.Writer
	over bool // all is shown
}

func (t *story) say(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

// without shows both problems by the errors that a client gets.
func (t *story) without(ctx context.Context, s *stage) error {
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	if err := s.startInside(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	t.say("Behind it are three brokers, with names that only their own network resolves:")
	for id := range int32(demoBrokers) {
		t.say("  %s", fakekafka.Host(id))
	}
	t.say("\n1. WITHOUT CULVERT")
	t.say("A Kafka client tries the door, %s, with TLS:", s.door)
	client := kafkaClient{bootstrap: s.door.Host, tls: &tls.Config{RootCAs: s.roots}}
	if err := t.fails(ctx, client); err != nil {
		return err
	}
	t.say("Problem one: Kafka is not HTTP. Say that somebody forwards a port past the door.")
	t.say("The client reaches broker 0, is told where the others are, and goes there:")
	client = kafkaClient{bootstrap: s.cluster.Bootstrap()[0]}
	if err := t.fails(ctx, client); err != nil {
		return err
	}
	t.say("Problem two: brokers answer with addresses of their own, which lead nowhere here.")
	return nil
}

// fails shows the error of a client that cannot do its work.
func (t *story) fails(ctx context.Context, client kafkaClient) error {
	err := client.attempt(ctx)
	if err == nil {
		return fmt.Errorf("demo: a client got past the door without culvert: what resolves names in %s here?", fakekafka.Domain)
	}
	fmt.Fprint(t.w, wrap("error: "+sanitize(plain(err)), "  "))
	return nil
}

// with has the same client do its work through culvert.
func (t *story) with(ctx context.Context, s *stage) error {
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	t.say("\n2. WITH CULVERT")
	if err := s.startAgent(ctx); err != nil {
		return fmt.Errorf("demo: start the agent: %w", err)
	}
	t.picture(s)
	for _, sentence := range s.moved {
		t.say("%s", sentence)
	}
	t.say("The same client, with nothing changed but its bootstrap address, %s:", s.bootstrap)
	if err := t.work(ctx, kafkaClient{bootstrap: s.bootstrap}); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return t.latency(s)
}

// picture shows the way that a connection takes.
func (t *story) picture(s *stage) {
	t.say("An agent beside the client, a gateway beside the brokers, HTTPS between them:")
	switch s.transport {
	case tunnel.TransportH3:
		t.say("  client -- agent == HTTP/3 ==> gateway -- brokers")
		t.say("No ingress here: Snowflake's has no UDP, so the gateway is reached directly.")
		return
	case tunnel.TransportH2:
		t.say("  client -- agent == HTTP/2 ==> gateway -- brokers")
		t.say("No ingress here: Snowflake's is known for HTTP/1.1, so the gateway is reached directly.")
		return
	}
	t.say("  client -- agent == WebSocket over TLS ==> ingress -- gateway -- brokers")
	if s.transport == tunnel.TransportAuto {
		t.say("The ingress stands in for Snowflake's: it lets in who shows a token of the account,")
		t.say("and has no UDP. The agent tried HTTP/3 first, got no answer, and took WebSocket.")
		return
	}
	t.say("The ingress stands in for Snowflake's: it lets in who shows a token of the account,")
	t.say("and knows HTTP/1.1, WebSocket, and nothing else.")
}

func (t *story) work(ctx context.Context, client kafkaClient) error {
	brokers, err := client.createTopic(ctx)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", demoTopic, err)
	}
	t.say("  created   topic %s, %d partitions, %d replicas", demoTopic, demoPartitions, demoBrokers)
	t.say("  was told  brokers at %s", strings.Join(brokers, ", "))
	if err := client.produce(ctx, demoRecords); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	t.say("  produced  %d records with acks=all, one at a time, all acknowledged", demoRecords)
	counts, err := client.consume(ctx, demoRecords)
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	t.say("  consumed  %d records in group %s: none lost, none twice, in order", demoRecords, demoGroup)
	t.say("            (%s in partitions 0 to %d)", strings.Trim(fmt.Sprint(counts), "[]"), demoPartitions-1)
	return nil
}

// latency shows what the two ends have measured.
func (t *story) latency(s *stage) error {
	t.say("Both ends time each request; the difference is what the tunnel costs. Means in ms:")
	t.say("  %10s %9s %9s %9s %9s", "", "requests", "agent", "gateway", "tunnel")
	for _, key := range []string{"Metadata", "Produce", "Fetch"} {
		agent, err := measured(s.agentMetrics, key)
		if err != nil {
			return err
		}
		gateway, err := measured(s.gatewayMetrics, key)
		if err != nil {
			return err
		}
		t.say("  %-10s %9d %9.2f %9.2f %9.2f", key, agent.requests, millis(agent.mean), millis(gateway.mean), millis(agent.mean-gateway.mean))
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// yourTurn says how to use what is up, until ctx is done.
func (t *story) yourTurn(ctx context.Context, s *stage) {
	t.say("\n3. YOUR TURN")
	t.say("All of it stays up until Ctrl-C, with records in memory. In another terminal:")
	t.say("  kcat -b %s -L", s.bootstrap)
	t.say("  kcat -b %s -C -t %s -o beginning -e", s.bootstrap, demoTopic)
	t.say("  kafka-console-producer.sh --bootstrap-server %s --topic %s", s.bootstrap, demoTopic)
	t.say("  kafka-console-consumer.sh --bootstrap-server %s --topic %s --from-beginning", s.bootstrap, demoTopic)
	t.say("or, in your own code, bootstrap.servers=%s and nothing else.", s.bootstrap)
	t.say("For your own cluster: culvert gateway --help, culvert agent --help")
	<-ctx.Done()
}
