package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A log that a test can search.
type memoryLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *memoryLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *memoryLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *memoryLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// fakeBroker accepts connections and hands each to serve. It returns where.
func fakeBroker(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	ln := listenLoopback(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// answering is a broker that reads requests and answers each with what answer returns for it:
// everything behind the length, or nil for nothing.
func answering(answer func(key, version int16, id int32) []byte) func(net.Conn) {
	return func(c net.Conn) {
		for {
			var length [4]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(length[:]))
			if _, err := io.ReadFull(c, frame); err != nil {
				return
			}
			key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
			if b := answer(key, version, int32(binary.BigEndian.Uint32(frame[4:]))); b != nil {
				c.Write(framed(b))
			}
		}
	}
}

func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// requestFrame is a request as a client sends it.
func requestFrame(r kmsg.Request, version int16, id int32) []byte {
	r.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, r, id)
}

// metadata is a Metadata v1 response that names n brokers.
func metadata(id int32, n int) []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version = 1
	for i := range n {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = int32(i), fakekafka.Host(int32(i)), 9092
		r.Brokers = append(r.Brokers, b)
	}
	return r.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
}

// What a client sends that is no Kafka, or more than it may, ends its connection with a sentence in
// the log, before anything is dialled.
func TestOtherProtocolsAreRefusedWithAReason(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, 1<<30)
	for _, test := range []struct {
		name string
		sent []byte
		want string // in the log
		back string // the start of what the client reads
	}{
		{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "TLS ClientHello", ""},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP request", "HTTP/1.1 400 "},
		{"PROXY", []byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), "PROXY protocol", ""},
		{"negative length", []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, "length -1", ""},
		{"zero length", make([]byte, 20), "length 0", ""},
		{"tiny length", []byte{0, 0, 0, 7, 0, 3, 0, 1, 0, 0, 0}, "length 7", ""},
		{"huge length", append(huge, 0, 3, 0, 1, 0, 0, 0, 1), "length 1073741824", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			broker := fakeBroker(t, func(net.Conn) { t.Error("a broker was dialled") })
			log := &memoryLog{}
			quiet := func(a *Agent) { a.Logger = log.logger() }
			path := startAgent(t, quietUpstream{NewDirect(&Brokers{Bootstrap: []string{broker}})}, quiet)
			c := dialAgent(t, path.address)
			c.Write(test.sent)
			got, _ := io.ReadAll(c) // ends, one way or the other
			if !strings.HasPrefix(string(got), test.back) || test.back == "" && len(got) > 0 {
				t.Errorf("the client read %q, want it to begin with %q", got, test.back)
			}
			waitFor(t, "the log to say "+test.want, func() bool { return strings.Contains(log.String(), test.want) })
		})
	}
}

// quietUpstream says hello without a dial, so that a test can tell every dial.
type quietUpstream struct{ Upstream }

func (quietUpstream) hello(context.Context) (tunnel.Welcome, error) {
	return tunnel.Welcome{}, nil
}

func (quietUpstream) spare(int) {}

func dialAgent(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func TestASlowHeaderTimesOut(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	log := &memoryLog{}
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) {
		a.Logger, a.headTimeout = log.logger(), 100*time.Millisecond
	})
	c := dialAgent(t, path.address)
	for _, b := range requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7)[:10] {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	if _, err := io.ReadAll(c); tunnel.IsTimeout(err) {
		t.Error("the connection stayed open")
	}
	waitFor(t, "the log", func() bool { return strings.Contains(log.String(), "did not arrive within") })
}

// A response that is not the one that is due, or that cannot be decoded, resets the client. No byte
// of it is relayed.
func TestBadResponsesAreNotRelayed(t *testing.T) {
	name := fakekafka.Host(0)
	for _, test := range []struct {
		name   string
		answer func(id int32) []byte
		want   string
	}{
		{"another correlation id", func(id int32) []byte { return metadata(id+1, 1) }, "correlation id"},
		{"truncated Metadata", func(id int32) []byte { return metadata(id, 2)[:60] }, "decode Metadata v1 response"},
		{"longer than its frame", func(id int32) []byte { return metadata(id, 2)[:20] }, "decode Metadata v1 response"},
		{"no correlation id", func(int32) []byte { return []byte{1, 2} }, "length 2"},
		{"TLS alert", func(int32) []byte { return []byte("\x15\x03\x03\x00\x02\x02\x28") }, ""},
	} {
		for _, transport := range transports {
			t.Run(test.name+" over "+transport, func(t *testing.T) {
				broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return test.answer(id) }))
				log := &memoryLog{}
				var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}})
				if transport != "direct" {
					up = tunnelTo(t, startGateway(t, []string{broker}, nil).address, transport)
				}
				path := startAgent(t, up, func(a *Agent) { a.Logger = log.logger() })
				c := dialAgent(t, path.address)
				c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
				got, err := io.ReadAll(c)
				if len(got) > 0 || bytes.Contains(got, []byte(name)) {
					t.Errorf("the client read %q", got)
				}
				if err == nil || tunnel.IsTimeout(err) {
					t.Errorf("the client's read ended with %v, want a reset", err)
				}
				waitFor(t, "the log to say "+test.want, func() bool { return strings.Contains(log.String(), test.want) })
			})
		}
	}
}

// A plaintext agent before brokers that want TLS gets an alert, which must not reach the client as
// a length of 352 MB.
func TestABrokerThatRequiresTLSIsReported(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 4))
		c.Write([]byte("\x15\x03\x03\x00\x02\x02\x28"))
		io.Copy(io.Discard, c)
	})
	eachTransport(t, func(t *testing.T, transport string) {
		agentLog, gatewayLog := &memoryLog{}, &memoryLog{}
		logs := []*memoryLog{agentLog}
		var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}})
		if transport != "direct" {
			logs = append(logs, gatewayLog)
			up = tunnelTo(t, startGateway(t, []string{broker}, func(g *Gateway) { g.Logger = gatewayLog.logger() }).address, transport)
		}
		path := startAgent(t, up, func(a *Agent) { a.Logger = agentLog.logger() })
		c := dialAgent(t, path.address)
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
		if got, err := io.ReadAll(c); len(got) > 0 || err == nil || tunnel.IsTimeout(err) {
			t.Errorf("the client read %q, %v, want a reset", got, err)
		}
		for _, log := range logs {
			waitFor(t, "the log", func() bool { return warns(log.String(), []string{"require TLS (--broker-tls)?"}) })
		}
	})
}

func TestUnreviewedVersionsAreRefused(t *testing.T) {
	for _, test := range []struct {
		name         string
		key, version int16
		want         string
	}{
		{"newer version", 3, 99, "request Metadata v99"},
		{"negative version", 3, -1, "request Metadata v-1"},
		{"unknown key", 200, 0, "API key 200"},
		{"controllers' own", 52, 1, "request Vote v1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			broker := fakeBroker(t, answering(func(key, version int16, id int32) []byte {
				if key == test.key && version == test.version {
					t.Error("the request was forwarded")
				}
				return metadata(id, 1)
			}))
			log := &memoryLog{}
			path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.Logger = log.logger() })
			c := dialAgent(t, path.address)
			// What was in flight before is still answered.
			c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
			head := binary.BigEndian.AppendUint16(nil, uint16(test.key))
			head = binary.BigEndian.AppendUint16(head, uint16(test.version))
			c.Write(framed(append(head, 0, 0, 0, 2, 0xff, 0xff)))
			got, err := io.ReadAll(c)
			if len(got) < 8 || got[7] != 1 || tunnel.IsTimeout(err) {
				t.Errorf("the client read %q, %v, want the response before the refusal", got, err)
			}
			waitFor(t, "the log", func() bool { return strings.Contains(log.String(), test.want) })
		})
	}
}

func TestNewerApiVersionsIsAnsweredHere(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialAgent(t, path.address)
	c.Write(framed([]byte("\x00\x12\x00\x63\x00\x00\x00\x07\x00\x04test\x00")))
	want := framed([]byte("\x00\x00\x00\x07\x00\x23\x00\x00\x00\x01\x00\x12\x00\x00\x00\x05"))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the client read % x, %v, want % x", got, err, want)
	}
}

// A bootstrap address that refuses resets the client, within the deadline of a dial, and says why.
func TestUnreachableBrokersResetTheClient(t *testing.T) {
	gone := listenLoopback(t)
	gone.Close()
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			log := &memoryLog{}
			var up Upstream = NewDirect(&Brokers{Bootstrap: []string{gone.Addr().String()}})
			if transport != "direct" {
				up = tunnelTo(t, startGateway(t, []string{gone.Addr().String(), "unresolvable.invalid:9092"}, nil).address, transport)
			}
			path := startAgent(t, up, func(a *Agent) { a.Logger = log.logger() })
			c := dialAgent(t, path.address)
			c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
			if got, err := io.ReadAll(c); len(got) > 0 || err == nil || tunnel.IsTimeout(err) {
				t.Errorf("the client read %q, %v, want a reset", got, err)
			}
			waitFor(t, "the log", func() bool { return strings.Contains(log.String(), "connection refused") })
		})
	}
}

func TestProbeOpensNoStream(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	gateway := startGateway(t, []string{broker}, nil)
	path := startAgent(t, tunnelTo(t, gateway.address, "ws"), nil)
	for range 3 {
		dialAgent(t, path.address).Close()
	}
	c := dialAgent(t, path.address)
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	waitFor(t, "the stream", func() bool { return gauge(t, gateway, "culvert_streams") == 1 })
}
