package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/rewrite"
	"github.com/culvert-proxy/culvert/test/kafkamodel"
)

// reading is one connection of a client to a broker that is a model of Kafka's, through our relay.
// Whatever the client sends, both must agree on which request each response answers.
type reading struct {
	sent    []byte // by the client
	split   int    // into writes of so many bytes; 0 is one write
	inTurn  bool   // the client waits for each answer before it sends the next frame
	lenient bool   // as a gateway, or else as an agent
	broker  func() kafkamodel.Config
}

// Bits of a fuzzed mode.
const (
	modeSASL = 1 << iota
	modeLenient
	modeReauthenticate // SaslHandshake starts another login
	modeErrors         // tokens of OAUTHBEARER are answered with errors
	modeFrames         // the input is frames of up to 255 bytes, each behind one byte of length
)

func readingOf(b []byte, split, mode uint8) reading {
	if mode&modeFrames != 0 {
		b = asFrames(b)
	}
	return reading{sent: b, split: int(split), lenient: mode&modeLenient != 0, broker: func() kafkamodel.Config { return brokerOf(mode) }}
}

func asFrames(b []byte) (all []byte) {
	for len(b) > 0 {
		n := min(int(b[0]), len(b)-1)
		all = append(all, framed(b[1:1+n])...)
		b = b[1+n:]
	}
	return all
}

const marker = "the answer to frame "

// brokerOf is a broker whose answers say to how many of its requests it has responded before.
func brokerOf(mode uint8) kafkamodel.Config {
	answers := uint32(0)
	return kafkamodel.Config{
		SASL:           mode&modeSASL != 0,
		Mechanisms:     []string{"PLAIN", "SCRAM-SHA-256", "OAUTHBEARER", "GSSAPI", "OTHER"},
		Reauthenticate: func(int) bool { return mode&modeReauthenticate != 0 },
		Authenticate: func(mechanism string, token []byte, round int) kafkamodel.Step {
			if mode&modeErrors != 0 && mechanism == "OAUTHBEARER" && round < len(token)%4 {
				return kafkamodel.Step{Result: kafkamodel.Continue, Answer: []byte(`{"status":"invalid_token"}`)}
			}
			return kafkamodel.Rounds(mechanism, token, round)
		},
		Respond: func(e kafkamodel.Event) []byte {
			if key := protocol.APIKey(e.Key); key == protocol.SASLHandshake || key == protocol.APIVersions {
				return nil
			}
			answers++
			return binary.BigEndian.AppendUint32([]byte(marker), answers-1)
		},
	}
}

// check relays the connection, and reports where the two readings differ.
func (r reading) check(t *testing.T) {
	t.Helper()
	events := kafkamodel.New(r.broker()).Receive(r.sent) // as if nobody were between them
	var want []byte
	var answered []kafkamodel.Event
	for _, e := range events {
		want = append(want, e.Response...)
		if bytes.Contains(e.Response, []byte(marker)) {
			answered = append(answered, e)
		}
	}
	looked := 0 // at how many of the answers
	got := r.relay(func(frame []byte, request protocol.Request) {
		_, number, found := bytes.Cut(frame, []byte(marker))
		if !found {
			return
		}
		looked++
		e := answered[binary.BigEndian.Uint32(number)]
		if e.Key != int16(request.Key) || e.Version != request.Version || e.CorrelationID != request.CorrelationID {
			t.Errorf("the answer to key %d v%d, correlation id %d was taken for one to %+v", e.Key, e.Version, e.CorrelationID, request)
		}
	})
	noneInFlight(t, readingMetrics())
	switch {
	case r.lenient && !bytes.Equal(got, want):
		t.Errorf("the client read %q, want %q", got, want)
	case !bytes.HasPrefix(want, got):
		t.Errorf("the client read %q, want the beginning of %q", got, want)
	case !r.lenient && bytes.Count(got, []byte(marker)) > looked:
		t.Errorf("the client read %q, of which %d answers were looked at", got, looked)
	}
}

// relay returns what the client reads. seen is given each response that is looked at, and the
// request that it is taken to answer.
func (r reading) relay(seen func([]byte, protocol.Request)) []byte {
	client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
	far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
	c := newConn(near, looking{seen, r.lenient}.settings())
	c.connect(far)
	var all sync.WaitGroup
	all.Go(func() { c.run(context.Background()) })
	all.Go(func() { serveModel(broker, kafkamodel.New(r.broker())) })
	var got []byte
	if r.inTurn {
		got = r.sendInTurn(client)
	} else {
		all.Go(func() { r.send(client) })
	}
	rest, _ := io.ReadAll(client)
	client.Close()
	all.Wait()
	return append(got, rest...)
}

// looking is a policy that looks at each response and changes none.
type looking struct {
	seen    func(frame []byte, request protocol.Request)
	gateway bool
}

func (p looking) settings() connSettings {
	return connSettings{
		policy:      p,
		report:      reporter{readingMetrics(), slog.New(slog.DiscardHandler), &logLimiter{}, &brokerWatch{}, "", ""},
		headTimeout: defaultHeadTimeout,
	}
}

func (looking) screen(protocol.Request) ([]byte, error) { return nil, nil }
func (looking) touches(protocol.APIKey, int16) bool     { return true }
func (p looking) lenient() bool                         { return p.gateway }
func (looking) timed(protocol.APIKey, time.Duration)    {}

func (p looking) relay(f *protocol.Flow, request protocol.Request, size int64) (rewrite.Result, error) {
	b, err := f.Peek(int(size), 1<<20)
	if err != nil {
		return rewrite.Result{}, err
	}
	p.seen(b, request)
	return rewrite.Result{}, f.PassThrough(size)
}

// sendInTurn sends frame by frame, and returns the answers.
func (r reading) sendInTurn(c *memnet.Conn) (got []byte) {
	broker := kafkamodel.New(r.broker())
	for b := r.sent; len(b) > 0; {
		n := 4 + int(binary.BigEndian.Uint32(b))
		c.Write(b[:n])
		for _, e := range broker.Receive(b[:n]) {
			answer := make([]byte, len(e.Response))
			k, _ := io.ReadFull(c, answer)
			got = append(got, answer[:k]...)
		}
		b = b[n:]
	}
	c.CloseWrite()
	return got
}

// readingMetrics is made once: a registry costs more than a connection.
var readingMetrics = sync.OnceValue(func() *metrics.Metrics {
	return metrics.New(prometheus.NewRegistry(), metrics.Agent, "test")
})

func (r reading) send(c *memnet.Conn) {
	for b := r.sent; len(b) > 0; {
		n := len(b)
		if r.split > 0 {
			n = min(n, r.split)
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
	c.CloseWrite()
}

// serveModel is a broker's end. One that has closed, or that hangs, reads on: a close that leaves
// bytes unread is a reset, which may discard the answers before it, for clients without a proxy too.
func serveModel(c net.Conn, broker *kafkamodel.Broker) {
	defer c.Close()
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		for _, e := range broker.Receive(buf[:n]) {
			c.Write(e.Response)
		}
		if broker.Closed() {
			closeWrite(c)
		}
		if err != nil {
			return
		}
	}
}

// readings are connections that were, or could be, read in two ways.
func readings() map[string]struct {
	sent []byte
	mode uint8
} {
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	req := func(key, version int16, id int32) []byte { return requestFrame(kmsg.RequestForKey(key), version, id) }
	token := func(s string) []byte { return framed([]byte(s)) }
	versions, lists := req(18, 0, 1), req(16, 0, 2)
	withHead := func(head string) []byte { return token(head) }
	return map[string]struct {
		sent []byte
		mode uint8
	}{
		"requests":                      {join(versions, lists, req(3, 1, 3), req(3, 12, 4)), 0},
		"PLAIN in a flight":             {join(versions, handshakeV0("PLAIN", 2), token("\x00u\x00p"), req(3, 1, 3)), modeSASL},
		"a hidden request":              {join(handshakeV0("PLAIN", 1), token("\x00u\x00p"), hide(req(2, 1, 7)), req(3, 1, 7)), modeSASL},
		"SCRAM":                         {join(handshakeV0("SCRAM-SHA-256", 1), token("n,,n=u,r=x"), token("c=biws"), req(3, 1, 2)), modeSASL},
		"OAUTHBEARER":                   {join(handshakeV0("OAUTHBEARER", 1), token("n,,\x01a"), token("\x01"), req(3, 1, 2)), modeSASL},
		"OAUTHBEARER errors":            {join(handshakeV0("OAUTHBEARER", 1), token("abc"), token("abc"), token("abc"), token("abcd"), req(3, 1, 2)), modeSASL | modeErrors},
		"GSSAPI":                        {join(handshakeV0("GSSAPI", 1), token("\x60ap-req"), token(""), token("\x05\x04layers"), req(3, 1, 2), req(3, 1, 3)), modeSASL},
		"GSSAPI, a request for a token": {join(handshakeV0("GSSAPI", 1), token("\x60ap-req"), req(3, 1, 2), req(3, 1, 2)), modeSASL},
		"another mechanism":             {join(handshakeV0("OTHER", 1), token("a"), token("b"), req(3, 1, 2)), modeSASL},
		"not offered":                   {join(handshakeV0("NONE", 1), token("a"), req(3, 1, 2)), modeSASL},
		"a login again":                 {join(handshakeV0("PLAIN", 1), token("\x00u\x00p"), handshakeV0("PLAIN", 2), token("\x00u\x00p"), req(3, 1, 2)), modeSASL | modeReauthenticate},
		"a login refused":               {join(handshakeV0("PLAIN", 1), token("\x00u\x00p"), handshakeV0("PLAIN", 2), req(3, 1, 2)), modeSASL},
		"no SASL":                       {join(handshakeV0("PLAIN", 1), req(3, 1, 2)), 0},
		"SaslAuthenticate":              {join(req(17, 1, 1), req(36, 0, 2), req(3, 1, 3)), modeSASL},
		"any version":                   {join(withHead("\x00\x12\x00\x63\x00\x00\x00\x01\xff\xff\x00"), req(3, 1, 2)), 0},
		"no acks":                       {join(withHead("\x00\x00\x00\x09\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00"), req(3, 1, 2)), 0},
		"no acks behind a count of -1":  {join(withHead("\x00\x00\x00\x09\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\x0f\x00\x00\x00\x00\x00\x00\x01\x01\x00"), req(3, 1, 2)), 0},
		"too short":                     {join(req(3, 1, 1), token("?"), req(3, 1, 2)), 0},
		"no length":                     {join(req(3, 1, 1), token(""), req(3, 1, 2)), 0},
		"a negative length":             {join(req(3, 1, 1), []byte{0xff, 0xff, 0xff, 0xff}), 0},
	}
}

func TestRequestsAreReadAsABrokerReadsThem(t *testing.T) {
	for name, r := range readings() {
		for _, lenient := range []uint8{0, modeLenient} {
			for _, split := range []uint8{0, 1, 7} {
				t.Run(fmt.Sprintf("%s, lenient %t, split %d", name, lenient > 0, split), func(t *testing.T) {
					readingOf(r.sent, split, r.mode|lenient).check(t)
				})
			}
		}
	}
}

// A client that waits for each answer, as all do in a login, gets all of them through an agent,
// too.
func TestLoginsWithRawTokensComeThrough(t *testing.T) {
	honest := []string{
		"requests", "PLAIN in a flight", "SCRAM", "OAUTHBEARER", "OAUTHBEARER errors", "GSSAPI", "a login again",
		"a login refused", "no SASL", "SaslAuthenticate", "no acks",
	}
	all := readings()
	for _, name := range honest {
		for _, lenient := range []uint8{0, modeLenient} {
			r := readingOf(all[name].sent, 0, all[name].mode|lenient)
			r.inTurn = true
			var want []byte
			for _, e := range kafkamodel.New(r.broker()).Receive(r.sent) {
				want = append(want, e.Response...)
			}
			if got := r.relay(func([]byte, protocol.Request) {}); !bytes.Equal(got, want) {
				t.Errorf("%s, lenient %t: the client read %q, want %q", name, lenient > 0, got, want)
			}
		}
	}
}

func FuzzRequestsAreReadAsABrokerReadsThem(f *testing.F) {
	for _, r := range readings() {
		f.Add(r.sent, uint8(0), r.mode)
		f.Add(r.sent, uint8(3), r.mode|modeLenient)
		var short []byte
		for b := r.sent; len(b) >= 4; {
			n := int(binary.BigEndian.Uint32(b))
			if n > 255 || n > len(b)-4 {
				break
			}
			short = append(append(short, byte(n)), b[4:4+n]...)
			b = b[4+n:]
		}
		f.Add(short, uint8(0), r.mode|modeFrames)
		f.Add(short, uint8(0), r.mode|modeFrames|modeLenient)
	}
	f.Fuzz(func(t *testing.T, b []byte, split, mode uint8) {
		if len(b) < 1<<14 { // both directions fit into memnet's buffers, so that nobody waits for the other
			readingOf(b, split, mode).check(t)
		}
	})
}
