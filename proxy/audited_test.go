package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/audit"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// auditLine is a line of the audit log as its reader has it.
type auditLine map[string]any

// has reports whether the line has these values, as text.
func (l auditLine) has(want map[string]string) bool {
	for k, v := range want {
		if fmt.Sprint(l[k]) != v {
			return false
		}
	}
	return true
}

// auditFile is the audit log of a gateway under test.
type auditFile string

// audited makes a gateway write an audit log.
func audited(t *testing.T) (auditFile, func(*Gateway)) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(path, audit.Counts{Written: func() {}, Lost: func(int) { t.Error("audit lines were lost") }, Omitted: func() {}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return auditFile(path), func(g *Gateway) { g.Audit = l }
}

func (f auditFile) lines(t *testing.T) (all []auditLine) {
	t.Helper()
	content, err := os.ReadFile(string(f))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, l)
	}
	return all
}

// await returns the first line with these values.
func (f auditFile) await(t *testing.T, want map[string]string) (found auditLine) {
	t.Helper()
	waitFor(t, fmt.Sprintf("an audit line with %v", want), func() bool {
		for _, l := range f.lines(t) {
			if l.has(want) {
				found = l
				return true
			}
		}
		return false
	})
	return found
}

// read reads a stream to its end, and closes it.
func read(c *tunnel.Conn) {
	go func() {
		io.Copy(io.Discard, c)
		c.CloseWrite()
		c.Close()
	}()
}

func TestEachStreamHasAnAuditLine(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			file, withAudit := audited(t)
			broker := plainBroker(t)
			r := startRevoking(t, broker, "laptop=the-secret\nbuild=the-other\n", withAudit)
			d := r.dialler(t, transport, "the-secret")
			request := requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1)

			c := stream(t, d)
			if err := askOver(c, 2); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, c)
			c.Close()
			ended := file.await(t, map[string]string{"event": "stream_ended", "cause": "client_fin"})
			if !ended.has(map[string]string{
				"identity": "laptop", "transport": transport, "kind": "broker", "target": "bootstrap", "address": broker,
				"from_client_bytes": fmt.Sprint(2 * len(request)), "to_client_bytes": fmt.Sprint(2 * len(framed(metadata(1, 1)))),
			}) || !strings.HasPrefix(fmt.Sprint(ended["client_addr"]), "127.0.0.1:") {
				t.Errorf("the stream's line is %v", ended)
			}
			for _, field := range []string{"time", "opened"} {
				if at, err := time.Parse(time.RFC3339, fmt.Sprint(ended[field])); err != nil || time.Since(at) > time.Hour {
					t.Errorf("%s is %v: %v", field, ended[field], err)
				}
			}

			if cut, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, request); err != nil {
				t.Fatal(err)
			} else if err := readAnswerTo(cut, 1); err != nil {
				t.Fatal(err)
			} else {
				cut.Close()
			}
			file.await(t, map[string]string{"event": "stream_ended", "cause": "tunnel_cut"})

			forbidden, err := d.Dial(t.Context(), tunnel.Open{Target: "169.254.169.254:80"}, request)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, forbidden)
			forbidden.Close()
			refused := file.await(t, map[string]string{"event": "stream_refused"})
			if !refused.has(map[string]string{"identity": "laptop", "target": "169.254.169.254:80", "cause": "target", "kind": "broker"}) || refused["opened"] != nil {
				t.Errorf("the refused stream's line is %v", refused)
			}

			r.dialler(t, transport, "the-wrong-one").Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
			login := file.await(t, map[string]string{"event": "login_refused"})
			if !login.has(map[string]string{"transport": transport, "cause": "credentials"}) || login["identity"] != nil || login["error"] == nil {
				t.Errorf("the refused login's line is %v", login)
			}

			read(stream(t, r.dialler(t, transport, "the-other")))
			writeFile(t, r.file, "laptop=the-secret\n")
			file.await(t, map[string]string{"event": "stream_ended", "identity": "build", "cause": "revoked"})

			read(stream(t, d))
			r.stop()
			file.await(t, map[string]string{"event": "stream_ended", "identity": "laptop", "cause": "drain"})

			content, _ := os.ReadFile(string(file))
			for _, secret := range []string{"the-secret", "the-other", "the-wrong-one"} {
				if strings.Contains(string(content), secret) {
					t.Errorf("the audit log has the token %q", secret)
				}
			}
			streams := 0
			for _, l := range file.lines(t) {
				if l["event"] == "stream_ended" {
					streams++
				}
			}
			if streams != 4 {
				t.Errorf("%d lines of streams for 4 streams:\n%s", streams, content)
			}
		})
	}
}

// A limit that is reached is in the audit log with the identity, and what a peer writes is bounded
// and printable there.
func TestLimitsAndHostileTextInTheAuditLog(t *testing.T) {
	file, withAudit := audited(t)
	r := startRevoking(t, plainBroker(t), "laptop=the-secret\n", func(g *Gateway) {
		withAudit(g)
		g.Limits.StreamsPerIdentity = 1
	})
	d := r.dialler(t, "ws", "the-secret")
	d.Ingress = forwardedBy("203.0.113.7, \u202eevil" + strings.Repeat("x", 1000))
	stream(t, d)
	second, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	if err == nil {
		io.Copy(io.Discard, second)
		second.Close()
	}
	limited := file.await(t, map[string]string{"event": "stream_refused", "cause": "limit", "identity": "laptop"})
	said := fmt.Sprint(limited["forwarded_for"])
	if !strings.HasPrefix(said, "203.0.113.7, ") || strings.Contains(said, "\u202e") || len(said) > 256 {
		t.Errorf("forwarded_for is %q", said)
	}
}

// forwardedBy is an ingress that wants this X-Forwarded-For of its agents, and so is an agent that
// writes it.
type forwardedBy string

func (f forwardedBy) Authorize(_ context.Context, h http.Header) error {
	h.Set("X-Forwarded-For", string(f))
	return nil
}

func (forwardedBy) Refused(http.Header, *tunnel.AnswerError) bool { return false }

// A load balancer's PROXY header names the client in the log, in the audit log and in limits; one of
// anybody else is refused and said in all three places.
func TestAPROXYHeaderIsInTheAuditLog(t *testing.T) {
	file, withAudit := audited(t)
	r := startRevoking(t, plainBroker(t), "laptop=the-secret\n", func(g *Gateway) {
		withAudit(g)
		g.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.77/32")}
	})
	connect := func(from net.IP, header string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(ctx, network, addr)
			if err == nil {
				_, err = io.WriteString(c, header)
			}
			return c, err
		}
	}
	const header = "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
	d := r.dialler(t, "ws", "the-secret")
	d.DialContext = connect(net.IPv4(127, 0, 0, 77), header)
	read(stream(t, d))
	wrong := r.dialler(t, "ws", "the-wrong-one")
	wrong.DialContext = d.DialContext
	wrong.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	login := file.await(t, map[string]string{"event": "login_refused", "client_addr": "203.0.113.7:4711"})
	if !strings.HasPrefix(fmt.Sprint(login["proxy_addr"]), "127.0.0.77:") || !strings.Contains(r.log.String(), "client_addr=203.0.113.7:4711") {
		t.Errorf("the refused login's line is %v; the log:\n%s", login, r.log)
	}

	forger := r.dialler(t, "ws", "the-secret")
	forger.DialContext = connect(net.IPv4(127, 0, 0, 1), header)
	if _, err := forger.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil); err == nil {
		t.Error("a header of somebody who is no load balancer is accepted")
	}
	refused := file.await(t, map[string]string{"event": "connection_refused", "cause": "proxy_header"})
	if !strings.HasPrefix(fmt.Sprint(refused["client_addr"]), "127.0.0.1:") || !strings.Contains(fmt.Sprint(refused["error"]), "127.0.0.1 sent a PROXY protocol header, and is not in --proxy-protocol") {
		t.Errorf("the refused connection's line is %v", refused)
	}
	if n := series(t, r.running, "culvert_refused_total", "proxy_header"); n == 0 {
		t.Error("the refusal is not counted")
	}
	if !containsAll(r.log.String(), "connection refused", "is not in --proxy-protocol") {
		t.Errorf("the log does not say why:\n%s", r.log)
	}

	r.stop()
	ended := file.await(t, map[string]string{"event": "stream_ended"})
	if ended["client_addr"] != "203.0.113.7:4711" || !strings.HasPrefix(fmt.Sprint(ended["proxy_addr"]), "127.0.0.77:") {
		t.Errorf("the stream's line is %v", ended)
	}
}

// Connections of forwards are in the audit log as those to brokers are, by the name of the forward.
func TestForwardsAreInTheAuditLog(t *testing.T) {
	file, withAudit := audited(t)
	target := serveTCP(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 3))
		io.WriteString(c, "hello")
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	address, _, r := forwardTo(t, "ws", target, func(g *Gateway) {
		withAudit(g)
		g.Authenticate = func(*http.Request) (string, error) { return "laptop", nil }
	})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "ask")
	io.ReadAll(c)
	c.Close()
	ended := file.await(t, map[string]string{"event": "stream_ended", "kind": "forward"})
	if !ended.has(map[string]string{
		"identity": "laptop", "target": "registry", "address": target, "from_client_bytes": "3", "to_client_bytes": "5", "transport": "ws",
	}) || ended["node_id"] != nil || ended["cause"] == nil {
		t.Errorf("the line of a forward is %v", ended)
	}
	up := tunnelTo(t, r.address, "ws")
	defer up.close()
	askFor(t, up, tunnel.TargetForward+"something-else", nil)
	refused := file.await(t, map[string]string{"event": "stream_refused", "kind": "forward"})
	if !refused.has(map[string]string{"target": "something-else", "cause": "target"}) {
		t.Errorf("the line of a forward that nobody offers is %v", refused)
	}
}
