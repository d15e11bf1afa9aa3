package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/cache"
)

// Programs of others, as docs/compatibility.md lists them, that take seconds.

// TestQuixStreams copies records exactly once, with a state store whose changelog topic it creates.
func TestQuixStreams(t *testing.T) {
	bed := sharedTestbed(t)
	venv, err := cache.Python(t.Context(), "quixstreams==3.28.1", "confluent-kafka==2.12.2")
	if err != nil {
		t.Skip(err)
	}
	bed.each(t, []string{"ws"}, func(t *testing.T, p *path) {
		from, to := p.cluster.Topic(t, "quix-from"), p.cluster.Topic(t, "quix-to")
		produce(t, p.franz(t), numbered(from, 1000))
		cmd := exec.Command(filepath.Join(venv, "bin", "python"), filepath.Join("testdata", "quix.py"), p.bootstrap, from, to, t.TempDir())
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
		app := runInBackground(t, cmd)
		consume(t, readCommitted(t, p, to), 1000).check(t, 1000)
		if err := app.Terminate(patience); err != nil {
			t.Errorf("Quix Streams ended with %v", err)
		}
	})
}

// TestRsyslog ships the lines of a file.
func TestRsyslog(t *testing.T) {
	bed := sharedTestbed(t)
	if module, err := filepath.Glob("/usr/lib*/*/rsyslog/omkafka.so"); len(module) == 0 || err != nil {
		t.Skip("needs rsyslog's output for Kafka (Debian: apt-get install rsyslog-kafka)")
	}
	bed.each(t, []string{"ws"}, func(t *testing.T, p *path) {
		topic, dir := p.cluster.Topic(t, "rsyslog"), t.TempDir()
		var log strings.Builder
		for i := range 1000 {
			fmt.Fprintln(&log, i)
		}
		settings := fmt.Sprintf(`
module(load="imfile" mode="polling" pollingInterval="1")
module(load="omkafka")
global(workDirectory="%[1]s")
template(name="line" type="string" string="%%msg%%")
input(type="imfile" file="%[1]s/log" tag="log" ruleset="kafka")
ruleset(name="kafka") {
  action(type="omkafka" broker="%[2]s" topic="%[3]s" template="line" confParam=["acks=all", "compression.codec=lz4"])
}
`, dir, p.bootstrap, topic)
		try(t, writeFiles(dir, map[string][]byte{"log": []byte(log.String()), "rsyslog.conf": []byte(settings)}))
		runInBackground(t, exec.Command("rsyslogd", "-n", "-f", filepath.Join(dir, "rsyslog.conf"), "-i", filepath.Join(dir, "pid")))
		consume(t, readCommitted(t, p, topic), 1000).check(t, 1000)
	})
}

// readCommitted reads a topic from its beginning.
func readCommitted(t *testing.T, p *path, topic string) *kgo.Client {
	t.Helper()
	return p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}
