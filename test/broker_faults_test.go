package test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// producing is how many records each producer sends while brokers restart, at rate a second.
const (
	producing = 5000
	rate      = 400
)

// producers send the numbered records to a topic. They return an error if a record was not
// acknowledged.
var producers = map[string]func(*testing.T, context.Context, *path, string) error{
	"franz-go": produceFranz,
	"Java":     produceJava,
}

// TestNoRecordIsLostWhenBrokersRestart moves leaders, and kills and restarts a broker, while
// idempotent producers of two kinds and over all transports send with acks=all.
func TestNoRecordIsLostWhenBrokersRestart(t *testing.T) {
	bed := sharedTestbed(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Minute, errors.New("producers not done within two minutes"))
	defer cancel()
	topics := make(map[string]*path)
	var all errgroup.Group
	for _, p := range bed.paths {
		for kind, produce := range producers {
			topic := bed.cluster.Topic(t, kind+"-"+p.transport)
			topics[topic] = p
			all.Go(func() error { return produce(t, ctx, p, topic) })
		}
	}
	time.Sleep(3 * time.Second)
	moveLeaders(t, bed.cluster, slices.Collect(maps.Keys(topics)))
	time.Sleep(time.Second)
	bed.cluster.Kill(2)
	// At once, and at the same time: after nine seconds the controller takes the broker out of
	// Metadata. On a busy machine the doctor may come too late even so.
	together(t, "doctor", slices.Collect(maps.Values(bed.paths)), func(t *testing.T, p *path) {
		r := p.doctorOnce(t)
		if r.finds("ok", "metadata", "broker-2."+kafka.Domain) {
			r.wantExit(t, 1)
			r.want(t, "fail", "broker 2", "")
		} else {
			r.wantExit(t, 0)
		}
		r.want(t, "ok", "broker 1", "")
	})
	if err := bed.cluster.Restart(ctx, 2); err != nil {
		t.Error(err)
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	for topic, p := range topics {
		t.Run(topic, func(t *testing.T) {
			reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			consume(t, reader, producing).check(t, producing)
			p.relay.Check(t)
		})
	}
	bed.logIfFailed(t)
}

// produceFranz stops at the first record that was not acknowledged.
func produceFranz(t *testing.T, ctx context.Context, p *path, topic string) error {
	client := p.franz(t, kgo.ProducerLinger(5*time.Millisecond))
	ticks := time.NewTicker(time.Second / rate)
	defer ticks.Stop()
	var failed atomic.Pointer[error]
	for _, record := range numbered(topic, producing) {
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		<-ticks.C
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// produceJava makes VerifiableProducer retry, which is not its default.
func produceJava(t *testing.T, ctx context.Context, p *path, topic string) error {
	config := filepath.Join(t.TempDir(), topic+".properties")
	if err := os.WriteFile(config, []byte("retries=2147483647\nenable.idempotence=true\n"), 0o600); err != nil {
		return err
	}
	out, err := p.cluster.Tool(ctx, kafka.VerifiableProducer, "", "--bootstrap-server", p.bootstrap, "--topic", topic,
		"--acks", "-1", "--max-messages", strconv.Itoa(producing), "--throughput", strconv.Itoa(rate), "--command-config", config)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "producer_send_error") {
			return errors.Join(err, errors.New(line))
		}
	}
	return err
}

// moveLeaders makes another replica the leader of each topic's partitions.
func moveLeaders(t *testing.T, c *kafka.Cluster, topics []string) {
	t.Helper()
	admin := c.Admin(t)
	moves := make(kadm.AlterPartitionAssignmentsReq)
	partitions := make(kadm.TopicsSet)
	for _, topic := range topics {
		moves.Assign(topic, 0, []int32{1, 2, 0})
		moves.Assign(topic, 1, []int32{2, 0, 1})
		moves.Assign(topic, 2, []int32{0, 1, 2})
		partitions.Add(topic, 0, 1, 2)
	}
	if _, err := admin.AlterPartitionAssignments(t.Context(), moves); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, partitions); err != nil {
		t.Fatal(err)
	}
}

// TestGroupRebalances has a second member join and leave while records flow.
func TestGroupRebalances(t *testing.T) {
	protocols := map[string][]kgo.Opt{"classic": nil, "KIP-848": {kgo.ServerSideBalancer()}}
	eachTransport(t, func(t *testing.T, p *path) {
		for name, options := range protocols {
			t.Run(name, func(t *testing.T) { rebalance(t, p, p.cluster.Topic(t, "rebalance-"+p.transport+"-"+name), options) })
		}
	})
}

func rebalance(t *testing.T, p *path, topic string, options []kgo.Opt) {
	member := func() *kgo.Client {
		return p.franz(t, append(options, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	}
	producer := p.franz(t)
	arrived := newArrivals()
	first, second := member(), member()
	sent := 0
	// both returns when every record sent has come and each member has had some of them.
	both := func(members ...*kgo.Client) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("not every member got records"))
		defer cancel()
		got := make([]int, len(members))
		for everyone := false; !everyone; {
			records := numbered(topic, sent+30)[sent:]
			sent += len(records)
			produce(t, producer, records)
			everyone = true
			for i, m := range members {
				got[i] += poll(ctx, m, arrived)
				everyone = everyone && got[i] > 0
			}
			if ctx.Err() != nil {
				t.Fatalf("%v: %v", context.Cause(ctx), got)
			}
		}
	}
	both(first, second)
	second.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(arrived.seen) < sent && ctx.Err() == nil {
		poll(ctx, first, arrived)
	}
	arrived.checkAtLeastOnce(t, sent)
}

// poll reads for half a second and returns how many records came.
func poll(ctx context.Context, client *kgo.Client, arrived *arrivals) int {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	fetches := client.PollFetches(ctx)
	fetches.EachRecord(func(r *kgo.Record) { arrived.add(r.Partition, r.Value) })
	return fetches.NumRecords()
}
