package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

// v2 makes a header of version 2: its command and version, its family and transport, the length
// that it claims, and what follows.
func v2(command, family byte, length int, rest ...byte) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(length)), rest...))
}

// addresses4 is the address part of version 2 for TCP over IPv4: 203.0.113.7:4711 to 192.0.2.1:443.
var addresses4 = []byte{203, 0, 113, 7, 192, 0, 2, 1, 4711 >> 8, 4711 & 0xff, 443 >> 8, 443 & 0xff}

const header4 = "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"

// proxyRefusals keeps what a Server refuses because of PROXY headers.
type proxyRefusals struct {
	mu  sync.Mutex
	all []string
}

func (p *proxyRefusals) add(err error, from Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, from.Addr+" "+from.Proxy+" "+err.Error()+" | "+hintsOf(err))
}

func (p *proxyRefusals) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.all...)
}

// behind makes a rig's gateway believe PROXY headers from networks.
func (p *proxyRefusals) behind(networks ...string) func(*rig) {
	return func(r *rig) {
		r.server.Names, r.server.OnProxyHeader = flagOf, p.add
		for _, n := range networks {
			r.server.ProxyProtocol = append(r.server.ProxyProtocol, netip.MustParsePrefix(n))
		}
	}
}

// sending makes a rig's agent connect through a load balancer that sends a header, in pieces of n
// bytes; 0 means at once, together with what comes first.
func sending(header string, n int) func(*rig) {
	return func(r *rig) {
		r.dialer.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, r.addr)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				return &firstWrite{Conn: c, before: header}, nil
			}
			for b := []byte(header); len(b) > 0; b = b[min(n, len(b)):] {
				if _, err := c.Write(b[:min(n, len(b))]); err != nil {
					return nil, err
				}
				time.Sleep(100 * time.Microsecond) // so that most pieces are read by themselves
			}
			return c, nil
		}
	}
}

// firstWrite sends something in front of what is written first, in the same segment.
type firstWrite struct {
	net.Conn
	before string
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if f.before == "" {
		return f.Conn.Write(p)
	}
	n, err := f.Conn.Write(append([]byte(f.before), p...))
	n -= len(f.before)
	f.before = ""
	return n, err
}

func TestTheAddressInAPROXYHeaderIsTheClients(t *testing.T) {
	const client6 = "[2001:db8::7]:4711"
	v6 := netip.MustParseAddr("2001:db8::7").As16()
	addresses6 := append(append(v6[:], v6[:]...), addresses4[8:]...)
	for name, test := range map[string]struct {
		header, want string
		pieces       int
	}{
		"v1, IPv4":                        {header: header4, want: "203.0.113.7:4711"},
		"v1, IPv4, by itself":             {header: header4, want: "203.0.113.7:4711", pieces: 107},
		"v1, IPv6":                        {header: "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", want: client6},
		"v1, IPv4 in IPv6":                {header: "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 4711 443\r\n", want: "203.0.113.7:4711"},
		"v1, unknown":                     {header: "PROXY UNKNOWN\r\n"},
		"v1, unknown, with addresses":     {header: "PROXY UNKNOWN 203.0.113.7 192.0.2.1 4711 443\r\n"},
		"v2, IPv4":                        {header: v2(0x21, 0x11, 12, addresses4...), want: "203.0.113.7:4711"},
		"v2, IPv6":                        {header: v2(0x21, 0x21, 36, addresses6...), want: client6},
		"v2, one byte at a time":          {header: v2(0x21, 0x11, 12, addresses4...), want: "203.0.113.7:4711", pieces: 1},
		"v2, LOCAL, as of a health check": {header: v2(0x20, 0x00, 0)},
		"v2, LOCAL with an address":       {header: v2(0x20, 0x11, 12, addresses4...)},
		"v2, with 4 KB of TLVs":           {header: v2(0x21, 0x11, 4096, append(bytes.Clone(addresses4), bytes.Repeat([]byte{4}, 4084)...)...), want: "203.0.113.7:4711"},
		"v2, a TLV longer than all":       {header: v2(0x21, 0x11, 12+3, append(bytes.Clone(addresses4), 5, 0xff, 0xff)...), want: "203.0.113.7:4711"},
	} {
		for _, kind := range []string{"plain", "h2c", "ws", "h2"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				var refused proxyRefusals
				r := newRig(t, kind, refused.behind("192.0.2.0/24", "127.0.0.1/32"), sending(test.header, test.pieces))
				c, s := r.dial()
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				if test.want == "" {
					if !strings.HasPrefix(s.peer.Addr, "127.0.0.1:") || s.peer.Proxy != "" {
						t.Errorf("the peer is %q, of the load balancer %q; want its own address", s.peer.Addr, s.peer.Proxy)
					}
					return
				}
				if s.peer.Addr != test.want || s.RemoteAddr().String() != test.want || !strings.HasPrefix(s.peer.Proxy, "127.0.0.1:") {
					t.Errorf("the peer is %q (%v), of the load balancer %q; want %s of 127.0.0.1", s.peer.Addr, s.RemoteAddr(), s.peer.Proxy, test.want)
				}
				if said := refused.said(); len(said) > 0 {
					t.Errorf("refused: %q", said)
				}
			})
		}
	}
}

// Every connection of a load balancer that does not begin as it must is closed, and the reason is
// told once.
func TestAPROXYHeaderThatIsWrongOrMissingIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ send, want string }{
		"no header, HTTP":           {"GET /culvert HTTP/1.1\r\nHost: x\r\n\r\n", "127.0.0.1 is in --proxy-protocol, and sent no PROXY protocol header | does the load balancer send one"},
		"no header, HTTP/2":         {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "sent no PROXY protocol header"},
		"no header, TLS":            {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "sent no PROXY protocol header"},
		"v1 without an end":         {"PROXY TCP4 " + strings.Repeat("1", 8000), "read the PROXY protocol header of 127.0.0.1: proxyproto: "},
		"v1 with a name":            {"PROXY TCP4 kafka.example 192.0.2.1 4711 443\r\n", "127.0.0.1: proxyproto: "},
		"v1 with a zone":            {"PROXY TCP6 fe80::1%eth0 fe80::1 4711 443\r\n", "127.0.0.1: proxyproto: "},
		"v1 with a port too large":  {"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n", "127.0.0.1: proxyproto: "},
		"v1 without a port":         {"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n", "127.0.0.1: proxyproto: "},
		"v1 with two spaces":        {"PROXY TCP4  203.0.113.7 192.0.2.1 4711 443\r\n", "127.0.0.1: proxyproto: "},
		"v2 with a giant length":    {v2(0x21, 0x11, 65535, addresses4...), "127.0.0.1: proxyproto: "},
		"v2 too short for its kind": {v2(0x21, 0x11, 8, addresses4[:8]...), "127.0.0.1: proxyproto: "},
		"v2 of version 3":           {v2(0x31, 0x11, 12, addresses4...), "127.0.0.1: proxyproto: "},
		"v2 of an unknown command":  {v2(0x2f, 0x11, 12, addresses4...), "127.0.0.1: proxyproto: "},
		"v2 of an unspecified kind": {v2(0x21, 0x00, 0), "127.0.0.1: proxyproto: "},
		"v2 over UDP":               {v2(0x21, 0x12, 12, addresses4...), "it names no TCP address of a client"},
		"v2 of a Unix socket":       {v2(0x21, 0x31, 216, make([]byte, 216)...), "127.0.0.1: "},
		"two headers":               {header4 + header4, "203.0.113.7:4711 127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []string{"plain", "ws"} {
				var refused proxyRefusals
				r := newRig(t, kind, refused.behind("127.0.0.0/8"))
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				io.WriteString(c, test.send)
				if b, err := io.ReadAll(c); len(b) > 0 || IsTimeout(err) {
					t.Errorf("%s: answered %q, %v; want the end", kind, b, err)
				}
				if said := refused.said(); len(said) != 1 || !strings.Contains(said[0], test.want) {
					t.Errorf("%s: refused because of %q, want once %q", kind, said, test.want)
				}
			}
		})
	}
}

// Whoever is not named as a load balancer needs no header, and must not send one: there may be none
// at all.
func TestAPROXYHeaderOfSomebodyElseIsRefused(t *testing.T) {
	for _, networks := range [][]string{nil, {"192.0.2.0/24", "2001:db8::/32"}} {
		for _, kind := range []string{"plain", "ws"} {
			for _, header := range []string{header4, v2(0x21, 0x11, 12, addresses4...)} {
				var refused proxyRefusals
				r := newRig(t, kind, refused.behind(networks...))
				r.dial() // without a header
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				io.WriteString(c, header+"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				if b, err := io.ReadAll(c); bytes.Contains(b, []byte("200")) || IsTimeout(err) {
					t.Errorf("%s, %v: answered %q, %v; want the end", kind, networks, b, err)
				}
				want := "127.0.0.1 sent a PROXY protocol header, and is not in --proxy-protocol | if it is your load balancer, name it with --proxy-protocol 127.0.0.1;"
				if said := refused.said(); len(said) != 1 || !strings.Contains(said[0], want) {
					t.Errorf("%s, %v: refused because of %q, want once %q", kind, networks, said, want)
				}
			}
		}
	}
}

// fromBalancer is a listener over memory whose connections come from a load balancer.
type fromBalancer struct{ net.Listener }

type balancerConn struct{ *memnet.Conn }

func (balancerConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 4), Port: 40000}
}

func (f fromBalancer) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return balancerConn{c.(*memnet.Conn)}, nil
}

// Connections that wait for their header block no other, are counted with the unauthenticated ones,
// and are closed as these are. A health check that sends nothing is no news.
func TestConnectionsThatWaitForAPROXYHeaderAreBounded(t *testing.T) {
	for name, beginning := range map[string]string{
		"nothing": "", "one byte": "P", "half a v1": header4[:20], "half a v2": v2(0x21, 0x11, 12, addresses4[:4]...),
		"v2 of 4 KB": v2(0x21, 0x11, 4096, addresses4...), "a header, and nothing more": header4,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refused proxyRefusals
				r, ln := newMemRig(t, refused.behind("10.0.0.0/8"), withToken, func(r *rig) { r.listener = fromBalancer{r.listener} })
				defer r.stop()
				dial := r.dialer.DialContext
				r.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := dial(ctx, network, addr)
					if err == nil {
						_, err = io.WriteString(c, header4)
					}
					return c, err
				}
				health, err := ln.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				health.Close()
				var waiting []net.Conn
				for range maxUnauthenticated + 10 {
					c, err := ln.Dial(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					io.WriteString(c, beginning)
					waiting = append(waiting, c)
				}
				synctest.Wait()
				if n := r.server.unauthenticated.len(); n > maxUnauthenticated {
					t.Errorf("%d connections wait, more than %d", n, maxUnauthenticated)
				}
				c, s := r.dial() // is not kept out
				if s.peer.Addr != "203.0.113.7:4711" || s.peer.Proxy != "10.0.0.4:40000" {
					t.Errorf("the agent behind them is %+v", s.peer)
				}
				c.Close()
				s.returned()
				began := time.Now()
				for _, c := range waiting {
					io.Copy(io.Discard, c)
					c.Close()
				}
				if took := time.Since(began); took > defaultTiming.handshake {
					t.Errorf("they were closed after %v, want %v at most", took, defaultTiming.handshake)
				}
				synctest.Wait()
				if n := r.server.unauthenticated.len(); n != 0 {
					t.Errorf("%d closed connections are still counted", n)
				}
				for _, said := range refused.said() {
					if name == "nothing" || !strings.Contains(said, "read the PROXY protocol header") {
						t.Errorf("refused: %s", said)
					}
				}
			})
		})
	}
}

// Behind a load balancer, the limit of unauthenticated connections tells clients apart by their own
// addresses.
func TestPROXYHeadersTellSourcesApart(t *testing.T) {
	var refused proxyRefusals
	r := newRig(t, "plain", refused.behind("127.0.0.1/32"))
	for i := range 3 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "PROXY TCP4 203.0.113.%d 192.0.2.1 4711 443\r\n", 7+i/2)
	}
	want := sources{netip.MustParsePrefix("203.0.113.7/32"): 2, netip.MustParsePrefix("203.0.113.8/32"): 1}
	u := &r.server.unauthenticated
	waitUntil(t, func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return fmt.Sprint(u.sources) == fmt.Sprint(want)
	})
}

// chunks is a connection that delivers bytes in pieces.
type chunks struct {
	net.Conn // nil
	data     []byte
	size     int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(c.size, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

func (c *chunks) Close() error { return nil }

func (c *chunks) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 4), Port: 40000}
}

// FuzzPROXYHeader reads a connection of a load balancer in pieces of some size. Whatever is accepted
// was a header, names the address that is taken, and is followed by exactly what came behind it.
func FuzzPROXYHeader(f *testing.F) {
	for _, seed := range []string{header4 + "GET", "PROXY UNKNOWN\r\nx", v2(0x21, 0x11, 12, addresses4...) + "PRI", v2(0x20, 0, 0), v2(0x21, 0x11, 65535), "PROXY \r\n", "\x16\x03\x01"} {
		for _, size := range []int{1, 7, 4096} {
			f.Add([]byte(seed), size)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size < 1 || size > 1<<16 {
			return
		}
		var refused proxyRefusals
		h := &proxyHeaders{from: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, refused: refused.add}
		c := h.wrap(&chunks{data: bytes.Clone(data), size: size})
		if !c.mustBegin() {
			t.Fatal("a load balancer need not send a header")
		}
		if err := c.awaitHeader(t.Context()); err != nil {
			if n := len(refused.said()); n > 1 || n == 0 && len(data) > 0 {
				t.Errorf("%v was told %d times", err, n)
			}
			return
		}
		c.looked = true // whatever follows
		behind, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(data, behind) {
			t.Fatalf("%q, %v do not follow the header in %q", behind, err, data)
		}
		whole := bufio.NewReaderSize(bytes.NewReader(data[:len(data)-len(behind)]), 1<<16)
		header, err := proxyproto.Read(whole)
		if err != nil || whole.Buffered() > 0 {
			t.Fatalf("no header: %v, %d bytes too many", err, whole.Buffered())
		}
		want := "10.0.0.4:40000"
		if header.Command == proxyproto.PROXY && header.SourceAddr != nil {
			want = header.SourceAddr.String()
		}
		if got := c.RemoteAddr().String(); got != want {
			t.Errorf("the client is %s, want %s", got, want)
		}
	})
}

// addressed is a connection with a remote address.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

// The remedy names the address of a link-local peer without its zone, which the setting does not take.
func TestTheRemedyForAPROXYHeaderHasNoZone(t *testing.T) {
	c := (&proxyHeaders{}).wrap(addressed{remote: &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "eth0"}})
	if got := strings.Join(hints.Of(c.unexpected(), nil), " "); !strings.Contains(got, "fe80::1;") {
		t.Errorf("the remedy is %q", got)
	}
}
