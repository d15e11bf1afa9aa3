package test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// ecosystem installs programs that build on Kafka's clients.
func ecosystem(t *testing.T) *kafka.Ecosystem {
	t.Helper()
	needReal(t)
	root, err := cache.Root()
	if err != nil {
		t.Fatal(err)
	}
	e, err := kafka.InstallEcosystem(t.Context(), filepath.Join(root, "test", "clients", "java", "Count.java"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// runInBackground runs a program until the test ends.
func runInBackground(t *testing.T, cmd *exec.Cmd) *proc.Process {
	t.Helper()
	p, err := proc.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s log:\n%s", filepath.Base(cmd.Path), p.Output())
		}
	})
	return p
}

// writeProperties writes a Java properties file.
func writeProperties(t *testing.T, properties map[string]string) string {
	t.Helper()
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		fmt.Fprintf(&b, "%s=%s\n", key, properties[key])
	}
	file := filepath.Join(t.TempDir(), "x.properties")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestStreams counts each record exactly once, through topics that Streams creates. The address
// that an application advertises to its other instances is not culvert's business and stays as it
// is.
func TestStreams(t *testing.T) {
	e := ecosystem(t)
	const server = "application-1.example.invalid:8080"
	eachTransport(t, func(t *testing.T, p *path) {
		from, to := p.cluster.Topic(t, "streams-from-"+p.transport), p.cluster.Topic(t, "streams-to-"+p.transport)
		produce(t, p.franz(t), numbered(from, 300))
		app := runInBackground(t, e.Command("Count", p.bootstrap, from, to, t.TempDir(), server))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		host, _, _ := strings.Cut(server, ":")
		if line, err := app.Output().WaitLine(ctx, "runs:"); err != nil || !strings.Contains(line, host) {
			t.Errorf("application servers: %s, %v", line, err)
		}
		counts := make(map[string]int)
		reader := p.franz(t, kgo.ConsumeTopics(to), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		for sum(counts) < 300 && ctx.Err() == nil {
			reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				counts[string(r.Key)], _ = strconv.Atoi(string(r.Value))
			})
		}
		if n := sum(counts); n != 300 {
			t.Errorf("counted %d records, want 300: %v", n, counts)
		}
	})
}

func sum(counts map[string]int) (n int) {
	for c := range maps.Values(counts) {
		n += c
	}
	return n
}

// TestConnect copies the lines of a file to a topic and on to another file.
func TestConnect(t *testing.T) {
	e := ecosystem(t)
	eachTransport(t, func(t *testing.T, p *path) {
		topic, dir := p.cluster.Topic(t, "connect-"+p.transport), t.TempDir()
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		if err := os.WriteFile(in, []byte(lines(100)), 0o600); err != nil {
			t.Fatal(err)
		}
		worker := writeProperties(t, map[string]string{
			"bootstrap.servers":            p.bootstrap,
			"key.converter":                "org.apache.kafka.connect.storage.StringConverter",
			"value.converter":              "org.apache.kafka.connect.storage.StringConverter",
			"offset.storage.file.filename": filepath.Join(dir, "offsets"),
			"listeners":                    "http://127.0.0.1:0",
		})
		source := writeProperties(t, map[string]string{"name": topic + "-source", "connector.class": "FileStreamSource", "file": in, "topic": topic})
		sink := writeProperties(t, map[string]string{"name": topic + "-sink", "connector.class": "FileStreamSink", "file": out, "topics": topic})
		runInBackground(t, e.Command("org.apache.kafka.connect.cli.ConnectStandalone", worker, source, sink))
		want := strings.Split(strings.TrimSpace(lines(100)), "\n")
		for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			text, _ := os.ReadFile(out) // not there yet
			if strings.Count(string(text), "\n") >= len(want) {
				wantIn(t, string(text), want...)
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d lines arrived", strings.Count(string(text), "\n"), len(want))
			}
		}
	})
}

// TestMirrorMaker copies a topic from one cluster to another. Each has its own agent on this
// machine.
func TestMirrorMaker(t *testing.T) {
	e := ecosystem(t)
	west := sharedTestbed(t)
	east, err := newTestbed(t.Context(), t.TempDir(), kafka.Config{IDs: []int32{0}, ClusterID: "mirrored-cluster-00001"}, (*kafka.Cluster).Bootstrap, "h3")
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, east)
	from, to := west.paths["ws"], east.paths["h3"]
	topic := west.cluster.Topic(t, "mirror")
	produce(t, from.franz(t), numbered(topic, 500))
	settings := map[string]string{
		"clusters":                            "west,east",
		"west.bootstrap.servers":              from.bootstrap,
		"east.bootstrap.servers":              to.bootstrap,
		"west->east.enabled":                  "true",
		"west->east.topics":                   topic,
		"east->west.enabled":                  "false",
		"refresh.topics.interval.seconds":     "5",
		"consumer.auto.offset.reset":          "earliest",
		"dedicated.mode.enable.internal.rest": "false",
	}
	for _, factor := range []string{"", "checkpoints.topic.", "heartbeats.topic.", "offset-syncs.topic.", "offset.storage.", "status.storage.", "config.storage."} {
		settings[factor+"replication.factor"] = "1"
	}
	runInBackground(t, e.Command("org.apache.kafka.connect.mirror.MirrorMaker", writeProperties(t, settings)))
	reader := to.franz(t, kgo.ConsumeTopics("west."+topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.UnknownTopicRetries(-1), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(200*time.Millisecond))
	consume(t, reader, 500).check(t, 500)
	from.relay.Check(t)
	to.relay.Check(t)
	east.logIfFailed(t)
	west.logIfFailed(t)
}
