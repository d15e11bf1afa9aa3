package test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
)

// These tests disturb what they use, so they run apart from the shared stand-in (see
// eachTransport): ingresses that cut, tokens that expire, gateways that restart.

// mustLoseNothing produces with producers of some kinds, and consumes in a group, during disturb.
// It fails the test if a record is lost or duplicated.
func (p *path) mustLoseNothing(t *testing.T, kinds []string, disturb func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, errors.New("producers not done within three minutes"))
	defer cancel()
	var sending errgroup.Group
	readers := make(map[string]chan *arrivals) // by topic
	for _, kind := range kinds {
		topic := p.cluster.Topic(t, "snowflake-"+kind)
		sending.Go(func() error { return producers[kind](t, ctx, p, topic) })
		client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		read := make(chan *arrivals, 1)
		go func() { read <- consume(t, client, producing) }()
		readers[topic] = read
	}
	disturb(ctx)
	if err := sending.Wait(); err != nil {
		t.Error(err)
	}
	for topic, read := range readers {
		(<-read).checkAtLeastOnce(t, producing)
		client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		consume(t, client, producing).check(t, producing)
	}
}

// TestASnowflakeServiceIsUpgraded restarts both instances of a service, one after the other, while
// new clients connect all the time. None of them may fail.
func TestASnowflakeServiceIsUpgraded(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{}, 2)
	_, pat := edge.newPAT(t, kafkaRole)
	p := edge.path(t, endpointHost, "auto", pat)
	v := &newClients{bootstrap: p.bootstrap}
	p.mustLoseNothing(t, []string{"franz-go", "Java"}, func(ctx context.Context) {
		clientCtx, stopClients := context.WithCancel(ctx)
		var clients sync.WaitGroup
		clients.Go(func() { v.run(clientCtx) })
		rollingRestart(t, ctx, edge.gateways, func() bool { return edge.ingress.Services[0].Ready() == 2 })
		await(t, time.Minute, "clients to be served", func() bool { return v.served.Load() >= 10 })
		stopClients()
		clients.Wait()
	})
	v.check(t)
	if n := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`); n > 0 {
		t.Errorf("%v connections were cut", n)
	}
}

// TestASnowflakeInstanceCrashes kills a gateway, which the ingress notices late, and then the
// agent, and restarts both.
func TestASnowflakeInstanceCrashes(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{}, 2)
	p := edge.path(t, endpointHost, "auto", edge.keyFlags())
	p.mustLoseNothing(t, []string{"franz-go"}, func(ctx context.Context) {
		time.Sleep(2 * time.Second)
		edge.gateways[0].process.Kill()
		time.Sleep(2 * time.Second)
		try(t, edge.gateways[0].start(ctx))
		time.Sleep(2 * time.Second)
		p.agent.Kill()
		try(t, p.start(ctx))
	})
}

// TestSnowflakeCutsWhatIsIdle has the ingress cut idle connections. Streams with KEEPALIVEs must
// stay; those whose KEEPALIVEs are too rare must be reset.
func TestSnowflakeCutsWhatIsIdle(t *testing.T) {
	bed := sharedTestbed(t).withShortTimeouts(t)
	t.Parallel()
	t.Run("after its 90 seconds", func(t *testing.T) {
		t.Parallel()
		cut := scaled(standin.DefaultIdleCut)
		edge := newStandInFor(t, bed, &standin.Ingress{IdleCut: cut}, 1)
		_, pat := edge.newPAT(t, kafkaRole)
		client := dialKafka(t, edge.path(t, endpointHost, "auto", pat).bootstrap)
		client.askVersions(t)
		if err := client.waitForEnd(t, 3*cut); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the idle connection ended with %v", err)
		}
		client.askVersions(t)
		if n := edge.ingress.Stats().IdleCuts; n > 0 {
			t.Errorf("%d connections were cut", n)
		}
	})
	t.Run("after one", func(t *testing.T) {
		t.Parallel()
		edge := newStandInFor(t, bed, &standin.Ingress{IdleCut: time.Second}, 1)
		_, pat := edge.newPAT(t, kafkaRole)
		p := edge.path(t, endpointHost, "auto", pat)
		client := dialKafka(t, p.bootstrap)
		client.askVersions(t)
		if err := client.waitForEnd(t, 30*time.Second); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the idle connection ended with %v, want a reset", err)
		}
		p.firstAnswer(t)
	})
}

// TestSnowflakeCutsWhatIsOld has the ingress end every connection after four seconds, even a busy
// one.
func TestSnowflakeCutsWhatIsOld(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{Lifetime: 4 * time.Second}, 2)
	_, pat := edge.newPAT(t, kafkaRole)
	p := edge.path(t, endpointHost, "auto", pat)
	p.mustLoseNothing(t, []string{"franz-go"}, func(context.Context) {})
	cuts := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`)
	if cuts == 0 {
		t.Error("no connection was cut")
	}
	t.Logf("%v connections were cut", cuts)
}

// TestSnowflakeBuffersResponses uses an HTTP/2 ingress, once as it should be and once with
// responses buffered until they are complete. Then auto must choose ws.
func TestSnowflakeBuffersResponses(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	for name, buffers := range map[string]bool{"streams": false, "buffers": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			edge := newStandInFor(t, bed, &standin.Ingress{HTTP2: true, Buffers: buffers}, 1)
			_, pat := edge.newPAT(t, kafkaRole)
			h2 := edge.path(t, endpointHost, "h2", pat)
			if buffers {
				mustRefuse(t, h2, noStreaming)
			} else {
				roundTrip(t, h2, "h2")
			}
			for _, host := range []string{endpointHost, clientHost} { // auto starts with another transport at Snowflake's hosts
				ingressCase{auto: "ws"}.checkAuto(t, edge.path(t, host, "auto", pat))
			}
		})
	}
}

// TestSnowflakeTokensExpire uses tokens of four seconds while new clients connect all the time.
// None may notice a renewal.
func TestSnowflakeTokensExpire(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{}, 2)
	edge.account.TokenLife = 4 * time.Second
	p := edge.path(t, endpointHost, "auto", edge.keyFlags())
	p.firstAnswer(t)
	flow, v := p.flow(t), &newClients{bootstrap: p.bootstrap}
	clientCtx, stopClients := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() { v.run(clientCtx) })
	await(t, time.Minute, "the fifth token", func() bool { return edge.account.Logins().Granted >= 5 && v.served.Load() >= 10 })
	stopClients()
	clients.Wait()
	flow.finish(t)
	v.check(t)
	if got := edge.ingress.Stats().Answers; got[401] > 0 || got[101] < 10 {
		t.Errorf("the ingress answered %v", got)
	}
}

// TestARevokedPATIsReplaced revokes a token and then replaces it in its file. The agent must not
// stop, even where the ingress does not say what is wrong.
func TestARevokedPATIsReplaced(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	for sentence, hides := range map[string]bool{"does not accept the programmatic access token": false, "shows no endpoint to this user": true} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			edge := newStandInFor(t, bed, &standin.Ingress{HidesRefusals: hides}, 1)
			pat, flags := edge.newPAT(t, kafkaRole)
			p := edge.path(t, endpointHost, "auto", flags)
			p.firstAnswer(t)
			edge.account.Revoke(pat)
			await(t, time.Minute, "the agent says it", func() bool { // spare streams were authenticated before
				_, err := p.connect(t).ask(patience)
				return err != nil && strings.Contains(p.agent.Output().String(), sentence)
			})
			edge.newPAT(t, kafkaRole)
			t.Logf("first answer %v after the token was replaced", p.firstAnswer(t).Round(time.Millisecond))
			roundTrip(t, p, "ws")
			if strings.Contains(p.agent.Output().String(), pat) {
				t.Error("the agent's log contains the token")
			}
		})
	}
}

// TestARoleWithoutTheEndpoint uses a valid token whose role has no grant on the endpoint.
func TestARoleWithoutTheEndpoint(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{}, 1)
	_, flags := edge.newPAT(t, otherRole)
	p := edge.path(t, endpointHost, "auto", flags)
	mustRefuse(t, p, "shows no endpoint to this user")
	wantIn(t, p.agent.Output().String(), "GRANT SERVICE ROLE")
}

// TestASuspendedServiceIsStarted suspends a service. The first request starts a gateway, which
// takes some seconds.
func TestASuspendedServiceIsStarted(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	edge := newStandInFor(t, bed, &standin.Ingress{}, 1)
	g := edge.gateways[0]
	try(t, g.close())
	started := make(chan error, 1)
	edge.ingress.Services[0].Resume = func() {
		time.AfterFunc(4*time.Second, func() { started <- g.start(context.WithoutCancel(t.Context())) })
	}
	_, flags := edge.newPAT(t, kafkaRole)
	p := edge.path(t, endpointHost, "auto", flags)
	topic := p.cluster.Topic(t, "suspended")
	produce(t, p.franz(t), numbered(topic, 10))
	try(t, <-started)
	wantIn(t, p.agent.Output().String(), "gets no answer from the service")
	if got := edge.ingress.Stats().Answers; got[503] == 0 || got[503] > 30 {
		t.Errorf("the ingress answered %v", got)
	}
	roundTrip(t, p, "ws")
}

// TestManyClientsCauseFewLogins has clients retry while the login cannot succeed, and limits the
// requests that reach Snowflake.
func TestManyClientsCauseFewLogins(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	// manyClients has 50 clients connect ten times a second each.
	manyClients := func(t *testing.T, p *path) {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range 50 {
			v := &newClients{bootstrap: p.bootstrap, pause: 100 * time.Millisecond}
			all.Go(func() { v.run(ctx) })
		}
		all.Wait()
	}
	t.Run("a key that is not registered", func(t *testing.T) {
		t.Parallel()
		edge := newStandInFor(t, bed, &standin.Ingress{}, 1)
		edge.account.SetUser(standin.User{Name: kafkaUser, Roles: []string{kafkaRole}})
		p := edge.path(t, endpointHost, "auto", edge.keyFlags())
		manyClients(t, p)
		got := edge.account.Logins()
		t.Logf("%+v", got)
		if got.Granted > 0 || got.Refused == 0 || got.Refused > 8 {
			t.Errorf("%+v in 8 seconds", got)
		}
		wantIn(t, p.agent.Output().String(), "SHA256:")
	})
	t.Run("a token that is not valid", func(t *testing.T) {
		t.Parallel()
		edge := newStandInFor(t, bed, &standin.Ingress{}, 1)
		pat, flags := edge.newPAT(t, kafkaRole)
		edge.account.Revoke(pat)
		manyClients(t, edge.path(t, endpointHost, "auto", flags))
		got := edge.ingress.Stats().Answers
		t.Logf("%v", got)
		if got[401] == 0 || got[401] > 30 {
			t.Errorf("the ingress answered %v in 8 seconds", got)
		}
	})
	t.Run("a good one", func(t *testing.T) {
		t.Parallel()
		edge := newStandInFor(t, bed, &standin.Ingress{}, 1)
		edge.account.TokenLife = time.Hour
		p := edge.path(t, endpointHost, "auto", edge.keyFlags())
		var all errgroup.Group
		for range 50 {
			v := &newClients{bootstrap: p.bootstrap}
			all.Go(v.ask)
		}
		try(t, all.Wait())
		if got := edge.account.Logins(); got != (standin.Logins{Granted: 1}) {
			t.Errorf("%+v, want one", got)
		}
	})
}
