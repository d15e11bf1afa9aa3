package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func TestTargetsHaveOneForm(t *testing.T) {
	label := strings.Repeat("a", 63)
	name := strings.Repeat(label+".", 3) + strings.Repeat("a", 61) // of 253 bytes
	for address, want := range map[string]bool{
		"kafka-0:9092": true, "Kafka-0.Example.COM:9092": true, "broker_1._tcp.example:1": true, "a.b.:65535": true, "3com.example:1": true,
		"localhost:1": true, "localhost.:1": true, "1.example:9092": true, "xn--bcher-kva.example:1": true,
		"10.0.0.1:9092": true, "[::1]:9092": true, "[::ffff:10.0.0.1]:9092": true, "[2001:db8::1]:9092": true,
		name + ":65535": true, name + ".:65535": true,

		"": false, ":": false, ":9092": false, ".:9092": false, "kafka": false, "kafka:": false, "bootstrap": false, "kafka:1:2": false,
		"kafka:0": false, "kafka:-1": false, "kafka:+80": false, "kafka:080": false, "kafka: 80": false, "kafka:80 ": false,
		"kafka:65536": false, "kafka:http": false, "kafka:0x50": false, "kafka:８０": false, "kafka:99999999999999999999": false,
		"127.1:1": false, "127.0.0.1.:1": false, "0177.0.0.1:1": false, "127.0.0.01:1": false, "0x7f.1:1": false, "0x7f000001:1": false,
		"0x:1": false, "2130706433:1": false, "a.1:1": false, "a.0X1f:1": false, "1.2.3.4.5:1": false, "256.0.0.1:1": false,
		"::1:80": false, "[[::1]]:80": false, "[kafka]:80": false, "[10.0.0.1]:80": false, "[::1]": false, "[::1%lo]:80": false,
		"[::1%]:80": false, "[fe80::1%eth0]:80": false, "[::ffff:7f00:1%a.kafka.internal]:80": false, "[::]80": false,
		"a..b:1": false, ".a:1": false, "a..:1": false, "-a:1": false, "a-:1": false, "a.-b:1": false, "*.a:1": false, "a b:1": false,
		"a\x00:1": false, "a\n:1": false, "a/b:1": false, "a@b:1": false, "a%b:1": false, "bücher.example:1": false, "a。b:1": false,
		label + "a:1": false, name + "a:1": false, strings.Repeat("a.", 130) + ":1": false,
	} {
		got, err := parseTarget(address)
		if (err == nil) != want {
			t.Errorf("parseTarget(%q) = %v, want an address: %v", address, err, want)
		}
		if err == nil && net.JoinHostPort(got.host, got.port) != address {
			t.Errorf("parseTarget(%q) = %s, %s", address, got.host, got.port)
		}
	}
}

// The two ends agree on the longest address.
func TestTheLongestTargetFits(t *testing.T) {
	if longest := maxHostName + len(".") + len(":65535"); longest > tunnel.MaxTarget {
		t.Errorf("an address can have %d bytes, and an OPEN takes %d", longest, tunnel.MaxTarget)
	}
}

// A pattern for names must not let anybody dial an IP address, whatever the address looks like.
func TestANamePatternNeverMatchesAnIPAddress(t *testing.T) {
	b := &Brokers{Bootstrap: []string{"kafka-0:9092"}, Allow: []string{"*.kafka.internal:9092", "*.*.*.*:9092", "*:9092"}}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{
		"::1%a.kafka.internal", "::ffff:a00:1%a.kafka.internal", "fe80::1%.kafka.internal", "::ffff:127.0.0.1%x",
		"10.0.0.1", "::1", "0177.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "10.0.0.1.",
	} {
		if a := net.JoinHostPort(host, "9092"); mayDial(b, a) {
			t.Errorf("%s may be dialled, by a pattern for names", a)
		}
	}
}

// What an agent asks a gateway to dial is a host name or an IP address without a zone, in the one
// form in which its port and host can be written.
func TestAGatewayRefusesWhatIsNoAddress(t *testing.T) {
	noKafka := fakeBroker(t, func(c net.Conn) { c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 1}) })
	_, port, _ := net.SplitHostPort(noKafka)
	gateway := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) {
		g.Brokers.Allow = []string{"*.kafka.internal:" + port, "127.0.0.1:" + port}
		g.Brokers.Resolver = names{"127.1": {"127.0.0.1"}, "::ffff:7f00:1%a.kafka.internal": {"127.0.0.1"}}
	})
	up := tunnelTo(t, gateway.address, "ws")
	defer up.close()
	for _, target := range []string{
		"[::ffff:7f00:1%a.kafka.internal]:" + port, "[127.0.0.1]:" + port, "127.1:" + port, "127.0.0.1:+" + port, "127.0.0.1:0" + port,
		"a.kafka.internal:" + port + " ", strings.Repeat("a.", 120) + "kafka.internal.x.y.z:" + port, "\x1b[2J.kafka.internal:" + port,
	} {
		c, _, err := up.dial(t.Context(), destination{address: target, onTicket: func(tunnel.Ticket) {}})
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if e, ok := errors.AsType[*tunnel.Error](err); !ok || e.Code != tunnel.CodeTarget {
			t.Errorf("%q: %v, want an ERROR %s", target, err, tunnel.CodeTarget)
		}
	}
	c, _, err := up.dial(t.Context(), destination{address: "127.0.0.1:" + port, onTicket: func(tunnel.Ticket) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("an address that is allowed: %v", err)
	}
}

// What is accepted is written in one way, and a name is nothing that could be read as an IP
// address.
func FuzzTarget(f *testing.F) {
	for _, a := range []string{"kafka-0.kafka.internal:9092", "[::1]:80", "10.0.0.1:9092", "[::ffff:7f00:1%a.kafka.internal]:9092", "127.1:1", "0x7f.1:1", "a_b.:65535"} {
		f.Add(a)
	}
	anyName := &Brokers{Bootstrap: []string{"x:1"}, Allow: []string{"*:9092", "*.*:9092", "*.*.*:9092", "*.*.*.*:9092"}}
	f.Fuzz(func(t *testing.T, address string) {
		got, err := parseTarget(address)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || host != got.host || port != got.port || net.JoinHostPort(host, port) != address || len(address) > tunnel.MaxTarget {
			t.Errorf("parseTarget(%q) = %+v, and net says %q, %q, %v", address, got, host, port, err)
		}
		if strings.ContainsAny(address, "%/ \\@") || got.ip.Zone() != "" || got.ip.Is4In6() {
			t.Errorf("parseTarget(%q) = %+v", address, got)
		}
		ip, err := netip.ParseAddr(host)
		if (err == nil) != got.ip.IsValid() || err == nil && ip.Unmap() != got.ip {
			t.Errorf("parseTarget(%q) = %+v, and netip says %v, %v", address, got, ip, err)
		}
		if got.ip.IsValid() && anyName.allowed(got) {
			t.Errorf("%q is allowed by a pattern for names", address)
		}
	})
}
