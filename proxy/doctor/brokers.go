package doctor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// maxResponse bounds what is read of a response: that to ApiVersions has some hundred bytes.
	maxResponse = 4 << 20
	// clientID is who the brokers' request logs say has asked.
	clientID = "culvert-doctor"
	// maxNodes bounds the brokers that are dialled. No cluster known has as many.
	maxNodes = 10_000
	// maxNamed is how many brokers one line names; each has a line of its own too.
	maxNamed = 12
)

// Brokers examines a cluster through up, which the caller closes: a bootstrap broker, what it says
// of the cluster, and every broker that it names. known are tickets for brokers that are known
// already; they matter where Metadata wants a login.
func (d *Doctor) Brokers(ctx context.Context, up proxy.Upstream, known []tunnel.Ticket) {
	e := &cluster{Doctor: d, up: up}
	if !d.hop(ctx, "bootstrap", e.bootstrap) {
		return
	}
	nodes := map[int32]node{}
	for _, t := range known {
		nodes[t.NodeID] = node{t.NodeID, t.Address, &t}
	}
	d.hop(ctx, "metadata", func(ctx context.Context) Finding { return e.metadata(ctx, nodes) })
	all := slices.SortedFunc(maps.Values(nodes), func(a, b node) int { return cmp.Compare(a.id, b.id) })
	findings := d.atOnce(len(all), func(i int) Finding {
		return timed(ctx, "broker "+strconv.Itoa(int(all[i].id)), func(ctx context.Context) Finding { return e.broker(ctx, all[i]) })
	})
	for _, f := range findings {
		d.report(f)
	}
	if d.Idle > 0 {
		f := e.idle(ctx)
		f.Hop = "idle"
		d.report(f)
	}
}

type cluster struct {
	*Doctor
	up proxy.Upstream
}

type node struct {
	id      int32
	address string
	ticket  *tunnel.Ticket
}

func (c *cluster) bootstrap(ctx context.Context) Finding {
	start := time.Now()
	conn, err := proxy.Open(ctx, c.up, "", nil, nil)
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	n, err := apiVersions(ctx, conn)
	if err != nil {
		f := c.failure(ctx, fmt.Errorf("ask a bootstrap broker for ApiVersions: %w", err))
		if f.Remedy == "" {
			f.Remedy = c.Names.Sprintf("do %s and %s of culvert gateway match a listener of the brokers?", hints.Bootstrap, hints.BrokerTLS)
		}
		return f
	}
	return ok("a bootstrap broker answers ApiVersions with %d API keys, %s after the dial", n, millis(time.Since(start)))
}

// metadata adds the brokers that a bootstrap broker names to nodes.
func (c *cluster) metadata(ctx context.Context, nodes map[int32]node) Finding {
	tickets := map[string]*tunnel.Ticket{}
	conn, err := proxy.Open(ctx, c.up, "", nil, func(t tunnel.Ticket) { tickets[t.Address] = &t })
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	id, brokers, err := proxy.AskForBrokers(ctx, conn, clientID)
	if errors.Is(err, proxy.ErrUnanswered) {
		return Finding{
			Result: Info, Text: "the brokers require a login, which clients have and this command does not",
			Remedy: fmt.Sprintf("connect a client once; only the %d brokers that the gateway knows from clients are checked", len(nodes)),
		}
	}
	if err != nil {
		return c.failure(ctx, fmt.Errorf("ask a bootstrap broker for Metadata: %w", err))
	}
	if id = printable.Text(id, printable.Name); id == "" {
		id = "without an id"
	}
	var names []string
	for _, b := range brokers {
		address := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		if len(nodes) < maxNodes {
			nodes[b.NodeID] = node{b.NodeID, address, tickets[address]}
		}
		names = append(names, fmt.Sprintf("%d at %s", b.NodeID, printable.Text(address, printable.Name)))
	}
	slices.Sort(names)
	if len(names) == 0 {
		return Finding{Result: Fail, Text: "cluster " + id + " names no brokers", Remedy: "have the brokers registered with their controllers?"}
	}
	more := ""
	if n := len(names) - maxNamed; n > 0 {
		names, more = names[:maxNamed], fmt.Sprintf(" and %d more", n)
	}
	return ok("cluster %s, brokers %s%s", id, strings.Join(names, ", "), more)
}

// broker dials the address that a broker advertises, from where the dial is made for clients: this
// is where clients without culvert end in silence.
func (c *cluster) broker(ctx context.Context, n node) Finding {
	start := time.Now()
	conn, err := proxy.Open(ctx, c.up, n.address, n.ticket, nil)
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	if _, err := apiVersions(ctx, conn); err != nil {
		f := c.failure(ctx, fmt.Errorf("%s: %w", n.address, err))
		if f.Remedy == "" {
			f.Remedy = "this is the address that the broker advertises: it must lead from the gateway to the broker"
		}
		return f
	}
	return ok("%s answers, %s after the dial", n.address, millis(time.Since(start)))
}

// idle leaves a connection alone, and sees whether it is there afterwards.
func (c *cluster) idle(ctx context.Context) Finding {
	start := time.Now()
	conn, err := proxy.Open(ctx, c.up, "", nil, nil)
	if err != nil {
		return c.failure(ctx, err)
	}
	defer conn.Close()
	if _, err := apiVersions(ctx, conn); err != nil {
		return c.failure(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetReadDeadline(time.Now().Add(c.Idle))
	_, err = conn.Read(make([]byte, 1))
	lasted := time.Since(start)
	switch {
	case ctx.Err() != nil:
		return Finding{Result: Info, Took: lasted, Text: fmt.Sprintf("interrupted: an idle connection has stayed open for %s so far", lasted.Round(time.Second))}
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return Finding{
			Result: Warn, Took: lasted, Text: fmt.Sprintf("an idle connection was cut after %s: %v", lasted.Round(time.Second), err),
			Remedy: "clients connect again by themselves; if the time is short, look for the limit of the ingress or of connections.max.idle.ms",
		}
	}
	conn.SetReadDeadline(time.Time{})
	if _, err := apiVersions(ctx, conn); err != nil {
		return c.failure(ctx, fmt.Errorf("after %v without requests: %w", c.Idle, err))
	}
	f := ok("a connection without requests stayed open for %v", c.Idle)
	f.Took = time.Since(start)
	return f
}

// apiVersions asks what every broker answers, before any login, and returns the number of API keys.
func apiVersions(ctx context.Context, c net.Conn) (int, error) {
	request := kmsg.NewPtrApiVersionsRequest() // of version 0
	response := kmsg.NewPtrApiVersionsResponse()
	if err := ask(ctx, c, request, response); err != nil {
		return 0, err
	}
	return len(response.ApiKeys), kerr.ErrorForCode(response.ErrorCode)
}

// ask sends a request and reads its response, both of a version without tagged fields.
func ask(ctx context.Context, c net.Conn, request kmsg.Request, response kmsg.Response) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	const correlationID = 1
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, request, correlationID)
	if _, err := c.Write(frame); err != nil {
		return err
	}
	var head [8]byte // size and correlation id
	if n, err := io.ReadFull(c, head[:]); err != nil {
		if n == 0 && proxy.ClosedUnanswered(err) {
			return proxy.ErrUnanswered
		}
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if id := binary.BigEndian.Uint32(head[4:]); size < 4 || size > maxResponse || id != correlationID {
		return fmt.Errorf("the answer is not a Kafka broker's: it begins with %q", head)
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	response.SetVersion(request.GetVersion())
	return response.ReadFrom(body)
}
