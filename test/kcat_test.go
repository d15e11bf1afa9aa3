package test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// kcat runs kcat (librdkafka) with stdin.
func kcat(t *testing.T, bootstrap, stdin string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("needs kcat (Debian: apt-get install kcat)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.Command(path, append([]string{"-b", bootstrap}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return proc.Run(ctx, cmd)
}

func TestKcat(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "kcat-"+p.transport)
		list, err := kcat(t, p.bootstrap, "", "-L", "-t", topic)
		if err != nil {
			t.Fatal(err)
		}
		for id := range 3 {
			wantIn(t, list, fmt.Sprintf("broker %d at %s", id, p.nodeAddress(id)))
		}
		kcatRoundTrip(t, p, topic)
	})
}

// kcatRoundTrip produces lines, and consumes them without and with a group.
func kcatRoundTrip(t *testing.T, p *path, topic string) {
	t.Helper()
	run := func(stdin string, args ...string) string {
		t.Helper()
		out, err := kcat(t, p.bootstrap, stdin, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	run(lines(50), "-P", "-t", topic, "-X", "acks=all", "-X", "enable.idempotence=true")
	want := strings.Split(strings.TrimSpace(lines(50)), "\n")
	wantIn(t, run("", "-C", "-t", topic, "-o", "beginning", "-e", "-q"), want...)
	wantIn(t, run("", "-G", topic, "-X", "auto.offset.reset=earliest", "-c", "50", "-q", topic), want...)
}
