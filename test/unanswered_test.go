package test

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// TestBrokersThatCloseAreExplained has clients ask Apache Kafka for what it does not answer: each
// time it only closes the connection. Agent and gateway say once what that looks like and what it
// usually is, and not for each try of the client.
func TestBrokersThatCloseAreExplained(t *testing.T) {
	needReal(t)
	versions, metadata, produce := kmsg.NewPtrApiVersionsRequest(), kmsg.NewPtrMetadataRequest(), kmsg.NewPtrProduceRequest()
	metadata.Version, produce.Acks, produce.TimeoutMillis = 1, 1, 1000
	for _, test := range []struct {
		name      string
		cfg       kafka.Config
		listener  func(*kafka.Cluster) string
		sent      []kmsg.Request
		err, hint string
	}{
		{"Produce v0", kafka.Config{IDs: []int32{0}}, (*kafka.Cluster).Bootstrap, []kmsg.Request{metadata, produce},
			`"err":"a bootstrap broker closed the connection while Produce v0 awaited its answer"`, `"hint":"does this broker answer Produce v0 at all?`},
		{"SASL", kafka.Config{IDs: []int32{0}, SASL: true}, (*kafka.Cluster).SASL, []kmsg.Request{versions, metadata},
			`"err":"a bootstrap broker closed the connection while Metadata v1 awaited its answer"`, `"hint":"it may want SASL (security.protocol=SASL_… at the client)"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			bed, err := newTestbed(t.Context(), t.TempDir(), test.cfg, test.listener, "ws", direct)
			if err != nil {
				t.Fatal(err)
			}
			closeWith(t, bed)
			for _, p := range bed.paths {
				for range 3 {
					sendUntilClosed(t, p.bootstrap, test.sent)
				}
				logs := map[string]*proc.Output{"agent": p.agent.Output()}
				if p.transport != direct {
					logs["gateway"] = p.gateway.process.Output()
				}
				for end, output := range logs {
					wantLineOnce(t, end+" over "+p.transport, output, test.err, test.hint)
				}
			}
		})
	}
}

// sendUntilClosed sends requests in turn. The last one must get no answer but the connection's end.
func sendUntilClosed(t *testing.T, address string, requests []kmsg.Request) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for i, r := range requests {
		if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, r, int32(i))); err != nil {
			t.Fatal(err)
		}
		if i == len(requests)-1 {
			break
		}
		var size uint32
		if err := binary.Read(c, binary.BigEndian, &size); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(size)); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if got, err := io.ReadAll(c); len(got) > 0 {
		t.Errorf("the client read %q, %v, want an end", got, err)
	}
}

// wantLineOnce reports whether a line with these texts is not logged exactly once.
func wantLineOnce(t *testing.T, who string, output *proc.Output, texts ...string) {
	t.Helper()
	count := func() (n int) {
		for line := range strings.Lines(output.String()) {
			all := true
			for _, text := range texts {
				all = all && strings.Contains(line, text)
			}
			if all {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); count() == 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := count(); n != 1 {
		t.Errorf("the %s logged %d lines with %q, want 1:\n%s", who, n, texts, output)
	}
}
