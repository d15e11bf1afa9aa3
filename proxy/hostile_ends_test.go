package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// capsule is one of docs/tunnel.md, of less than 16 KiB.
func capsule(kind byte, value []byte) []byte {
	return append([]byte{kind, 0x40 | byte(len(value)>>8), byte(len(value))}, value...)
}

func jsonCapsule(kind byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return capsule(kind, b)
}

// openTo is an OPEN, with which data leaves.
func openTo(target string, ticket *tunnel.Ticket, data ...[]byte) []byte {
	b := jsonCapsule(0x05, tunnel.Open{Version: tunnel.Version, Target: target, Ticket: ticket})
	return append(b, capsule(0x01, bytes.Join(data, nil))...)
}

// An agent that has a token says anything, over a WebSocket.
func FuzzHostileAgent(f *testing.F) {
	p := attackPath(f)
	g := startGateway(f, p.gateway.Brokers.Bootstrap, func(g *Gateway) {
		g.TLS, g.Logger, g.Brokers.Resolver, g.Brokers.control, p.gateway = nil, nil, p, p.dial, g
		g.Brokers.Allow = []string{"*." + fakekafka.Domain + ":" + fmt.Sprint(p.port())}
	})
	address := strings.TrimPrefix(g.address, "https://")
	forged := &tunnel.Ticket{ClusterID: "cluster", NodeID: 1, Address: "10.0.0.1:9092", Expires: 1 << 40, MAC: make([]byte, 32)}
	for _, target := range []string{
		"bootstrap", "hello", "127.0.0.1:22", "[::ffff:127.0.0.1%a." + fakekafka.Domain + "]:" + fmt.Sprint(p.port()),
		p.brokers[0], "169.254.169.254:80", "localhost:9092", strings.Repeat("a", 12_000) + ":9092", "",
	} {
		f.Add(openTo(target, nil, metadataRequest(1)))
		f.Add(openTo(target, forged, metadataRequest(1)))
	}
	f.Add(openTo("bootstrap", nil, hide(requestFrame(kmsg.NewPtrListGroupsRequest(), 0, 7)), metadataRequest(7)))
	f.Add(append(capsule(0x02, nil), openTo("bootstrap", nil, handshakeV0("PLAIN", 1))...))
	f.Add(append(openTo("bootstrap", nil), capsule(0x40, make([]byte, 100))...))
	f.Add(jsonCapsule(0x09, tunnel.Error{Code: "\x1b[2J", Message: strings.Repeat("\x1b", 2000)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<14 {
			p.check(t, overWebSocket(t, address, b))
		}
	})
}

// overWebSocket sends b as one message, and returns what comes back.
func overWebSocket(t *testing.T, address string, b []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, _, err := (ws.Dialer{Protocols: []string{"culvert"}}).Upgrade(c, &url.URL{Scheme: "ws", Host: address, Path: tunnel.Path}); err != nil {
		t.Fatal(err)
	}
	ws.WriteFrame(c, ws.MaskFrame(ws.NewBinaryFrame(b)))
	ws.WriteFrame(c, ws.MaskFrame(ws.NewCloseFrame(nil)))
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if tunnel.IsTimeout(err) {
		t.Errorf("the stream hangs, after %q", got)
	}
	if bytes.Contains(got, []byte(fakekafka.Domain)) {
		return nil // to agents gateways name the brokers
	}
	return got
}

// What a gateway that the agent trusts says, over a WebSocket, crashes nothing and keeps, opens or
// writes no more than the bounds.
func TestAnAgentSurvivesItsGateway(t *testing.T) {
	opened := jsonCapsule(0x07, tunnel.Opened{Version: tunnel.Version, Gateway: "\x1b[2J", Reviewed: []int16{-1, 32767}})
	ticket := func(id int32, address string) []byte {
		return jsonCapsule(0x04, tunnel.Ticket{ClusterID: "c", NodeID: id, Address: address, Expires: 1 << 40, MAC: make([]byte, 32)})
	}
	for name, said := range map[string][]byte{
		"nodes without ports":     slicesJoin(opened, ticket(1, "broker-1:9092"), ticket(-19091, "broker-2:9092"), ticket(1<<31-1, "broker-3:9092"), capsule(0x03, nil)),
		"addresses that are none": slicesJoin(opened, ticket(2, strings.Repeat("a", 8000)+":9092"), ticket(3, "[fe80::1%lo]:22"), capsule(0x01, metadata(1, 3))),
		"two OPENED":              slicesJoin(ticket(1, "early:9092"), opened, opened),
		"an ERROR":                jsonCapsule(0x09, tunnel.Error{Code: "limit", Message: strings.Repeat("\x1b", 2000)}),
		"a capsule without end":   slicesJoin(opened, []byte{0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
	} {
		t.Run(name, func(t *testing.T) {
			host := fakeBroker(t, func(c net.Conn) { sayOnce(c, said) })
			table := tableInMemory()
			d := &tunnel.Dialer{URL: &url.URL{Scheme: "http", Host: host}, Transport: tunnel.TransportWS}
			defer d.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if c, err := d.Dial(ctx, tunnel.Open{Target: tunnel.TargetBootstrap}, nil); err == nil {
				c.OnTicket(table.addTicket)
				c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.Copy(io.Discard, c); tunnel.IsTimeout(err) {
					t.Error("the stream hangs")
				}
				c.Close()
			}
			checkTable(t, table)
		})
	}
}

// A gateway, or a state file, tells of any nodes.
func FuzzTickets(f *testing.F) {
	line := func(cluster string, id int32, address string) string {
		b, _ := json.Marshal(tunnel.Ticket{ClusterID: cluster, NodeID: id, Address: address, Expires: 1 << 40, MAC: []byte("mac")})
		return string(b)
	}
	f.Add(line("c", 1, "broker-1:9092") + "\n" + line("c", -19091, "broker-2:9092") + "\n" + line("d", 1<<31-1, "broker-3:9092"))
	f.Add(line("c", 2, strings.Repeat("a", 300)+":9092") + "\n" + line("", 3, "[fe80::1%lo]:22") + "\n" + line("\x1b[2J", 4, "127.1:80"))
	f.Fuzz(func(t *testing.T, lines string) {
		table := tableInMemory()
		var tickets []tunnel.Ticket
		for line := range strings.Lines(lines) {
			var tk tunnel.Ticket
			if json.Unmarshal([]byte(line), &tk) == nil {
				tickets = append(tickets, tk)
				table.addTicket(tk)
			}
		}
		if len(tickets) > 0 {
			table.preload("the gateway", tickets[0].ClusterID, tickets)
		}
		checkTable(t, table)
		cluster, kept := table.snapshot()
		if b, err := (state{}).with(clusterState{"up", cluster, kept}).encode(); err != nil || len(b) > maxState {
			t.Errorf("a state of %d bytes, %v", len(b), err)
		}
	})
}

func slicesJoin(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// sayOnce upgrades a connection to a WebSocket and says b, whatever is asked.
func sayOnce(c net.Conn, b []byte) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	request, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nCulvert-Gateway: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: culvert\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(request.Header.Get("Sec-WebSocket-Key")))
	ws.WriteFrame(c, ws.NewBinaryFrame(b))
	ws.WriteFrame(c, ws.NewCloseFrame(nil))
	io.Copy(io.Discard, c)
}

// tableInMemory is a table of nodes whose listeners are in memory.
func tableInMemory() *nodes {
	table := &nodes{
		nodeListeners: nodeListeners{
			NodePorts: NodePorts{Listens: []Listen{{Bind: "127.0.0.1:9092"}}, Base: 19092}, listen: listenInMemory,
			serve: func(ln net.Listener, _ int, _ int32) { ln.Close() }, log: slog.New(slog.DiscardHandler), metrics: readingMetrics(),
		},
		changed: func() {}, moved: func(move) {},
	}
	table.init()
	return table
}

func listenInMemory(network, address string) (net.Listener, error) {
	if strings.HasSuffix(address, ":0") {
		return net.Listen(network, address) // the placeholder, whose port must be known
	}
	return memnet.Listen(address), nil
}

// checkTable reports what a table must never hold.
func checkTable(t *testing.T, table *nodes) {
	t.Helper()
	table.mu.Lock()
	defer table.mu.Unlock()
	table.nodeListeners.mu.Lock()
	defer table.nodeListeners.mu.Unlock()
	if len(table.known) > maxNodes || len(table.opened) > maxNodes || len(table.tickets) > maxTickets {
		t.Errorf("%d nodes, %d listeners, %d tickets", len(table.known), len(table.opened), len(table.tickets))
	}
	for id, n := range table.known {
		if _, err := parseTarget(n.address); err != nil || id < 0 {
			t.Errorf("node %d at %q: %v", id, n.address, err)
		}
	}
	for address := range table.tickets {
		if _, err := parseTarget(address); err != nil {
			t.Errorf("a ticket for %q: %v", address, err)
		}
	}
	for id, opened := range table.opened {
		for _, n := range opened {
			e := n.told
			if e.port < 1 || e.port > 65535 || id < 0 || e.host != "127.0.0.1" {
				t.Errorf("node %d is said to be at %s, port %d", id, e.host, e.port)
			}
		}
	}
}

// A broker says anything to requests whose answers name brokers. Whatever a client can decode names
// no host but the agent's.
func FuzzHostileBroker(f *testing.F) {
	var said atomic.Pointer[[]byte]
	broker := fakeBroker(f, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for rest := *said.Load(); ; {
			request, err := readFrame(c)
			if err != nil || len(rest) == 0 {
				return
			}
			n := min(len(rest), 2+int(binary.BigEndian.Uint16(append(rest[:min(2, len(rest)):min(2, len(rest))], 0, 0))))
			body := rest[min(2, len(rest)):n]
			rest = rest[n:]
			c.Write(framed(append(bytes.Clone(request[4:8]), body...)))
		}
	})
	said.Store(new([]byte))
	var agent *Agent
	path := startAgent(f, NewDirect(&Brokers{Bootstrap: []string{broker}, dialIsAnswer: true}), func(a *Agent) {
		a.Logger, a.listenOn, agent = nil, listenInMemory, a
	})
	sized := func(bodies ...[]byte) (b []byte) {
		for _, body := range bodies {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
		}
		return b
	}
	for _, host := range []string{"broker-1.example", "[fe80::1%lo]", "169.254.169.254", strings.Repeat("a", 300), "a\x1b[2J", "", "127.0.0.1"} {
		for _, id := range []int32{0, 7, -1, -19091, 1<<31 - 1, 50_000} {
			m, c, d := kmsg.NewPtrMetadataResponse(), kmsg.NewPtrFindCoordinatorResponse(), kmsg.NewPtrDescribeClusterResponse()
			m.Version, c.Version, d.Version = 12, 4, 1
			m.ClusterID, d.ClusterID = new("c"), "c"
			m.Brokers = append(m.Brokers, kmsg.MetadataResponseBroker{NodeID: id, Host: host, Port: 9092})
			c.Coordinators = append(c.Coordinators, kmsg.FindCoordinatorResponseCoordinator{NodeID: id, Host: host, Port: 9092})
			d.Brokers = append(d.Brokers, kmsg.DescribeClusterResponseBroker{NodeID: id, Host: host, Port: 9092})
			f.Add(sized(append([]byte{0}, m.AppendTo(nil)...), append([]byte{0}, c.AppendTo(nil)...), append([]byte{0}, d.AppendTo(nil)...)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		said.Store(&b)
		checkClient(t, path.address)
		checkTable(t, &agent.nodes)
	})
}

// checkClient asks for brokers in three ways, and looks at what it can decode.
func checkClient(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, ask := range []struct {
		request kmsg.Request
		version int16
	}{{kmsg.NewPtrMetadataRequest(), 12}, {kmsg.NewPtrFindCoordinatorRequest(), 4}, {kmsg.NewPtrDescribeClusterRequest(), 1}} {
		c.Write(requestFrame(ask.request, ask.version, 1))
		frame, err := readFrame(c)
		if tunnel.IsTimeout(err) {
			t.Errorf("no answer and no end to %s", protocol.APIKey(ask.request.Key()))
		}
		if err != nil {
			return
		}
		r := ask.request.ResponseKind()
		r.SetVersion(ask.version)
		if len(frame) < 5 || frame[4] != 0 || r.ReadFrom(frame[5:]) != nil {
			continue
		}
		for _, host := range hostsIn(r) {
			if host != "" && host != "127.0.0.1" {
				t.Errorf("the client reads the host %q in %s", host, protocol.APIKey(ask.request.Key()))
			}
		}
	}
}

func hostsIn(r kmsg.Response) (hosts []string) {
	switch r := r.(type) {
	case *kmsg.MetadataResponse:
		for _, b := range r.Brokers {
			hosts = append(hosts, b.Host)
		}
	case *kmsg.FindCoordinatorResponse:
		for _, b := range r.Coordinators {
			hosts = append(hosts, b.Host)
		}
	case *kmsg.DescribeClusterResponse:
		for _, b := range r.Brokers {
			hosts = append(hosts, b.Host)
		}
	}
	return hosts
}

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
