package test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/test/ingress"
)

// idleCut is shorter than the time between KEEPALIVEs, which is 15 seconds.
const idleCut = 3 * time.Second

// TestAnIdleCutIsAReset has ingresses cut idle streams. The client must see a reset: an orderly end
// would mean that the broker had closed the connection.
func TestAnIdleCutIsAReset(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	for name, c := range map[string]struct {
		program ingress.Program
		over    string
	}{
		"nginx":   {ingress.Nginx{Streams: true, BodyLimit: "0", IdleCut: idleCut}, "ws h2"},
		"HAProxy": {ingress.HAProxy{IdleCut: idleCut}, "ws h2"},
		"Envoy":   {ingress.Envoy{IdleCut: idleCut}, "ws h2 h3"},
	} {
		i := ingress.Start(t, c.program, bed.ingressConfig(plain))
		for transport := range strings.FieldsSeq(c.over) {
			t.Run(name+" "+transport, func(t *testing.T) {
				t.Parallel()
				p := bed.pathThrough(t, plain, i.URL, transport)
				client := dialKafka(t, p.bootstrap)
				client.askVersions(t)
				begin := time.Now()
				if err := client.waitForEnd(t, 30*time.Second); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the idle connection ended with %v, want a reset", err)
				}
				t.Logf("cut after %.1f s", time.Since(begin).Seconds())
				dialKafka(t, p.bootstrap).askVersions(t)
			})
		}
	}
}

// TestKeepalivesPreventIdleCuts uses ingresses whose idle limit, a minute or a tenth of it, is
// longer than the KEEPALIVE interval. They must cut nothing.
func TestKeepalivesPreventIdleCuts(t *testing.T) {
	bed := sharedTestbed(t).withShortTimeouts(t)
	ingress.Need(t)
	t.Parallel()
	plain := bed.plainGateway(t)
	cut := scaled(time.Minute)
	for name, c := range map[string]struct {
		program ingress.Program
		over    string
	}{
		"nginx":   {ingress.Nginx{Streams: true, BodyLimit: "0", IdleCut: cut}, "ws h2"},
		"HAProxy": {ingress.HAProxy{IdleCut: cut}, "ws h2"},
		"Envoy":   {ingress.Envoy{IdleCut: cut}, "ws h2 h3"},
	} {
		i := ingress.Start(t, c.program, bed.ingressConfig(plain))
		for transport := range strings.FieldsSeq(c.over) {
			t.Run(name+" "+transport, func(t *testing.T) {
				t.Parallel()
				client := dialKafka(t, bed.pathThrough(t, plain, i.URL, transport).bootstrap)
				client.askVersions(t)
				if err := client.waitForEnd(t, 3*cut); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("the idle connection ended with %v", err)
				}
				client.askVersions(t)
			})
		}
	}
}

// rawClient is a connection on which only the test sends.
type rawClient struct{ net.Conn }

func dialKafka(t *testing.T, address string) rawClient {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return rawClient{c}
}

// askVersions sends ApiVersions and reads the response.
func (c rawClient) askVersions(t *testing.T) {
	t.Helper()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	request := kmsg.NewPtrApiVersionsRequest()
	if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, request, 7)); err != nil {
		t.Fatal(err)
	}
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	if id := binary.BigEndian.Uint32(head[4:]); id != 7 {
		t.Fatalf("correlation id %d, want 7", id)
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:4]))-4); err != nil {
		t.Fatal(err)
	}
}

// waitForEnd returns how the connection ended, or a timeout.
func (c rawClient) waitForEnd(t *testing.T, patience time.Duration) error {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	n, err := c.Read(make([]byte, 1))
	if n > 0 {
		t.Fatal("unexpected byte")
	}
	return err
}

// TestNoRecordIsLostWhenIngressesCut has ingresses cut busy streams again and again. Each transport
// has an idempotent producer and a consumer.
func TestNoRecordIsLostWhenIngressesCut(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	for name, c := range map[string]struct {
		program ingress.Program
		over    string
		disturb func(*testing.T, *ingress.Ingress)
	}{
		"Envoy with a lifetime": {ingress.Envoy{Lifetime: 4 * time.Second}, "ws h2 h3 auto", func(*testing.T, *ingress.Ingress) {}},
		"nginx reloaded":        {ingress.Nginx{Streams: true, BodyLimit: "0", ReloadCut: 2 * time.Second}, "ws h2 auto", reloadTwice},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Minute, errors.New("producers not done within two minutes"))
			defer cancel()
			i := ingress.Start(t, c.program, bed.ingressConfig(plain))
			var sending errgroup.Group
			paths := make(map[string]*path) // by topic
			for transport := range strings.FieldsSeq(c.over) {
				p, topic := bed.pathThrough(t, plain, i.URL, transport), bed.cluster.Topic(t, "cut-"+transport)
				paths[topic] = p
				sending.Go(func() error { return produceFranz(t, ctx, p, topic) })
			}
			readers := make(map[string]chan *arrivals)
			for topic, p := range paths {
				readers[topic] = make(chan *arrivals, 1)
				client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
				go func() { readers[topic] <- consume(t, client, producing) }()
			}
			c.disturb(t, i)
			if err := sending.Wait(); err != nil {
				t.Error(err)
			}
			for topic, p := range paths {
				(<-readers[topic]).checkAtLeastOnce(t, producing)
				reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
				consume(t, reader, producing).check(t, producing)
				cuts := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`)
				if cuts == 0 {
					t.Errorf("no stream over %s was cut", p.transport)
				}
				t.Logf("%v connections over %s were cut", cuts, p.transport)
			}
		})
	}
}

// reloadTwice reloads an ingress while clients are busy. Its old worker cuts open connections after
// two seconds.
func reloadTwice(t *testing.T, i *ingress.Ingress) {
	for range 2 {
		time.Sleep(4 * time.Second)
		if err := i.Reload(); err != nil {
			t.Error(err)
		}
	}
}

// TestABodyLimitCutsUploads has nginx keep its default limit of one mebibyte for a request's body,
// so each POST can upload no more. A producer that retries gets all records through.
//
// At the limit nginx stops reading without an error. The upload stalls until the next KEEPALIVE, 15
// seconds at most; then nginx cuts the stream.
func TestABodyLimitCutsUploads(t *testing.T) {
	bed := sharedTestbed(t).withShortTimeouts(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	i := ingress.Start(t, ingress.Nginx{Streams: true}, bed.ingressConfig(plain))
	for transport, cut := range map[string]bool{"ws": false, "h2": true} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			p := bed.pathThrough(t, plain, i.URL, transport)
			roundTrip(t, p, transport)
			cuts := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`)
			if (cuts > 0) != cut {
				t.Errorf("%v connections were cut", cuts)
			}
			t.Logf("%v connections were cut\n%s", cuts, p.agent.Output())
		})
	}
}

// TestAutoUnderABodyLimit runs auto behind an ingress that supports only h2 and cuts it after each
// mebibyte. After two cuts h2 counts as failed. Nothing else works, so auto uses it again, and all
// records get through.
func TestAutoUnderABodyLimit(t *testing.T) {
	bed := sharedTestbed(t).withShortTimeouts(t)
	ingress.Need(t)
	t.Parallel()
	plain := bed.plainGateway(t)
	i := ingress.Start(t, ingress.Nginx{Streams: true, NoWebSocket: true}, bed.ingressConfig(plain))
	p := bed.pathThrough(t, plain, i.URL, "auto")
	const count, size = 600, 16 << 10
	p.firstAnswer(t)
	before, topic := p.tunnel(t), p.cluster.Topic(t, "limit")
	begin := time.Now()
	client := p.franz(t, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(200<<10), kgo.MaxBufferedRecords(60))
	produce(t, client, filled(topic, count, size))
	reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	consume(t, reader, count).check(t, count)
	cuts := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`)
	if cuts < 3 {
		t.Errorf("%v connections were cut, want one for each mebibyte to each of three brokers", cuts)
	}
	after := p.tunnel(t)
	if before.Transport != "h2" || after.Transport != "h2" || !after.Since.After(before.Since) {
		t.Errorf("auto was at %+v, and is at %+v", before, after)
	}
	t.Logf("%v connections were cut in %v", cuts, time.Since(begin).Round(100*time.Millisecond))
}
