package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// special says of an address range whether brokers in it are dialled.
type special struct {
	prefix   string
	example  string
	decision string // yes, named, loopback or never, as in docs/security.md
}

// specials are the ranges of IANA's special-purpose address registries that are not globally
// reachable (https://www.iana.org/assignments/iana-ipv4-special-registry and
// iana-ipv6-special-registry), multicast, and what clouds keep for the services that give a machine
// its credentials.
var specials = []special{
	{"0.0.0.0/8", "0.1.2.3", "never"},
	{"10.0.0.0/8", "10.1.2.3", "yes"},
	{"100.64.0.0/10", "100.64.1.2", "yes"},
	{"100.100.100.200/32", "100.100.100.200", "never"},
	{"127.0.0.0/8", "127.1.2.3", "loopback"},
	{"168.63.129.16/32", "168.63.129.16", "never"},
	{"169.254.0.0/16", "169.254.169.254", "never"},
	{"172.16.0.0/12", "172.31.255.254", "yes"},
	{"192.0.0.0/24", "192.0.0.192", "never"},
	{"192.0.2.0/24", "192.0.2.1", "named"},
	{"192.88.99.0/24", "192.88.99.1", "named"},
	{"192.168.0.0/16", "192.168.1.2", "yes"},
	{"198.18.0.0/15", "198.19.1.2", "yes"},
	{"198.51.100.0/24", "198.51.100.1", "named"},
	{"203.0.113.0/24", "203.0.113.1", "named"},
	{"224.0.0.0/4", "224.0.0.1", "never"},
	{"240.0.0.0/4", "240.1.2.3", "yes"},
	{"255.255.255.255/32", "255.255.255.255", "never"},

	{"::/128", "::", "never"},
	{"::1/128", "::1", "loopback"},
	{"::/96", "::7f00:1", "never"},
	{"::ffff:0:0/96", "::ffff:169.254.169.254", "never"}, // as the IPv4 address
	{"64:ff9b::/96", "64:ff9b::a9fe:a9fe", "never"},      // as the IPv4 address
	{"64:ff9b:1::/48", "64:ff9b:1::a01:203", "named"},
	{"::ffff:0:0:0/96", "::ffff:0:a9fe:a9fe", "never"},
	{"100::/64", "100::1", "never"},
	{"100:0:0:1::/64", "100:0:0:1::1", "never"},
	{"2001::/32", "2001::1", "never"},
	{"2001::/23", "2001:2::1", "named"},
	{"2001:db8::/32", "2001:db8::1", "named"},
	{"2002::/16", "2002:7f00:1::1", "never"},
	{"3fff::/20", "3fff::1", "named"},
	{"5f00::/16", "5f00::1", "never"},
	{"fc00::/7", "fd12::1", "yes"},
	{"fd00:ec2::/32", "fd00:ec2::254", "never"},
	{"fd20:ce::254/128", "fd20:ce::254", "never"},
	{"fd00:42::42/128", "fd00:42::42", "never"},
	{"fe80::/10", "fe80::1", "never"},
	{"fec0::/10", "fec0::1", "named"},
	{"ff00::/8", "ff02::1", "never"},
}

// turnsDown reports whether a name that resolves to ip is not dialled for what ip is. Nothing is
// really dialled.
func turnsDown(b *Brokers, ip string) bool {
	b.Resolver = names{"broker": {ip}, "kafka-0": {"10.0.0.1"}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := b.dial(ctx, "broker:9092")
	return errors.Is(err, errNotAllowed)
}

func TestEverySpecialRangeIsDecided(t *testing.T) {
	for _, s := range specials {
		plain := &Brokers{Bootstrap: []string{"kafka-0:9092"}}
		local := &Brokers{Bootstrap: []string{"127.0.0.1:9092"}}
		named := &Brokers{Bootstrap: []string{"kafka-0:9092"}, Allow: []string{s.prefix + ":9092", "[" + s.prefix + "]:9092"}}
		literal := &Brokers{Bootstrap: []string{"kafka-0:9092", joinBroker(s.example)}}
		elsewhere := &Brokers{Bootstrap: []string{"kafka-0:9092"}, Allow: []string{s.prefix + ":9093"}}
		onLoopback := s.decision == "loopback"
		for _, test := range []struct {
			with string
			b    *Brokers
			want bool
		}{
			{"no setting", plain, s.decision == "yes"},
			{"a bootstrap address on loopback", local, s.decision == "yes" || onLoopback},
			{"--allow-broker for the range", named, s.decision == "yes" || s.decision == "named"},
			{"itself as a bootstrap address", literal, s.decision == "yes" || s.decision == "named" || onLoopback},
			{"--allow-broker for another port", elsewhere, s.decision == "yes"},
		} {
			for _, ip := range []string{s.example, s.example + "%eth0", s.example + "%a.kafka.internal"} {
				if !strings.Contains(s.example, ":") && ip != s.example {
					continue // only IPv6 addresses have zones
				}
				if got := !turnsDown(test.b, ip); got != test.want {
					t.Errorf("%s with %s: dialled %v, want %v", ip, test.with, got, test.want)
				}
			}
		}
	}
}

func joinBroker(ip string) string { return netip.AddrPortFrom(netip.MustParseAddr(ip), 9092).String() }

// An address that leads to an IPv4 address is no way around its decision.
func TestAnEmbeddedAddressIsChecked(t *testing.T) {
	for _, form := range []string{"::ffff:%s", "64:ff9b::%s", "64:ff9b:1::%s", "2600::5efe:%s", "fd12::200:5efe:%s", "::%s", "2002:%s::1"} {
		for v4, want := range map[string]bool{"169.254.169.254": false, "127.0.0.1": false, "0.0.0.0": false, "100.100.100.200": false, "192.0.2.1": false, "10.1.2.3": true} {
			b := netip.MustParseAddr(v4).As4()
			ip := fmt.Sprintf(form, fmt.Sprintf("%x:%x", uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3])))
			if _, err := netip.ParseAddr(ip); err != nil {
				t.Fatal(err)
			}
			wantHere := want && form != "::%s" && form != "2002:%s::1"
			allow := []string{"64:ff9b:1::/48:9092"}
			if got := !turnsDown(&Brokers{Bootstrap: []string{"kafka-0:9092"}, Allow: allow}, ip); got != wantHere {
				t.Errorf("%s, which leads to %s: dialled %v, want %v", ip, v4, got, wantHere)
			}
			if v4 == "127.0.0.1" && form != "::ffff:%s" && !turnsDown(&Brokers{Bootstrap: []string{"127.0.0.1:9092"}, Allow: allow}, ip) {
				t.Errorf("%s is dialled, which leads to another machine's loopback", ip)
			}
		}
	}
}

func TestDocsListEverySpecialRange(t *testing.T) {
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([0-9a-f:.]+/\\d+)` \\| (\\w+)[^|]*\\| [^|]{8,} \\|$")
	documented := map[string]string{}
	for _, r := range row.FindAllStringSubmatch(string(page), -1) {
		documented[r[1]] = r[2]
	}
	for _, s := range specials {
		want := s.decision
		if s.prefix == "::ffff:0:0/96" || s.prefix == "64:ff9b::/96" {
			want = "as"
		}
		if documented[s.prefix] != want {
			t.Errorf("docs/security.md says %q of %s, want %q", documented[s.prefix], s.prefix, want)
		}
		delete(documented, s.prefix)
	}
	for prefix := range documented {
		t.Errorf("docs/security.md lists %s, and the test does not", prefix)
	}
	for _, b := range blocks {
		if !strings.Contains(string(page), "`"+b.prefix.String()+"`") {
			t.Errorf("docs/security.md does not list %s", b.prefix)
		}
	}
}

// counted counts what it is asked.
type counted struct {
	names
	asked atomic.Int32
}

func (c *counted) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	c.asked.Add(1)
	return c.names.LookupNetIP(ctx, network, host)
}

// Loopback is dialled where a bootstrap address is on it, be it only because the hosts file says so
// of its name.
func TestABootstrapNameMayResolveToLoopback(t *testing.T) {
	for host, want := range map[string]bool{"kafka-local": true, "kafka6-local": true, "kafka-zone": true, "debian": true, "localhost": true, "LOCALHOST": true, "kafka-0": false, "unknown": false} {
		b := &Brokers{Bootstrap: []string{"elsewhere:9092", host + ":9092"}, Resolver: names{
			"kafka-local": {"127.0.0.1"}, "kafka6-local": {"::1"}, "kafka-zone": {"::1%lo"}, "debian": {"127.0.1.1"}, "kafka-0": {"10.0.0.1"}, "elsewhere": {"10.0.0.2"},
		}}
		if got := b.checkIP(t.Context(), netip.MustParseAddr("127.0.0.1"), "9092") == nil; got != want {
			t.Errorf("with the bootstrap address %s: loopback is dialled %v, want %v", host, got, want)
		}
	}
}

// flaky is a resolver that fails where its answer is "".
type flaky struct{ names }

func (f flaky) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if answers := f.names[host]; len(answers) > 0 && answers[0] == "" {
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	return f.names.LookupNetIP(ctx, network, host)
}

// A bootstrap address is dialled where its name led, also if the next lookup gives another answer or
// none. The brokers of its cluster may be on loopback then, too.
func TestABootstrapAddressIsDialledWhereItsNameLed(t *testing.T) {
	_, port, err := net.SplitHostPort(listenLoopback(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, next := range []string{"10.0.0.1", ""} {
		b := &Brokers{Bootstrap: []string{"kafka:" + port}, Resolver: flaky{names{"kafka": {"127.0.0.1", next}, "broker-0": {"127.0.0.1"}}}}
		for _, address := range []string{"kafka:" + port, "broker-0:" + port} {
			c, err := b.dial(t.Context(), address)
			if err != nil {
				t.Errorf("the next lookup gives %q: %v", next, err)
				continue
			}
			c.Close()
		}
	}
}

// Only names that the operator chose open loopback: not those that a broker chose, wherever they
// lead, and not a bootstrap address that leads elsewhere.
func TestANameThatABrokerChoseDoesNotOpenLoopback(t *testing.T) {
	b := &Brokers{Bootstrap: []string{"kafka:9092"}, Allow: []string{"*.evil:9092"}, Resolver: flaky{names{"kafka": {"10.0.0.1"}, "a.evil": {"127.0.0.1"}}}}
	for _, address := range []string{"a.evil:9092", "127.0.0.1:9092"} {
		if _, err := b.dial(t.Context(), address); !errors.Is(err, errNotAllowed) {
			t.Errorf("dial %s = %v, want errNotAllowed", address, err)
		}
	}
}

// A lookup that failed says nothing about where a name leads.
func TestAFailedLookupIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := flaky{names{"kafka": {""}}}
		b := &Brokers{Bootstrap: []string{"kafka:9092"}, Resolver: r}
		check := func(answer string, want bool) {
			t.Helper()
			r.names["kafka"] = []string{answer}
			if got := b.onLoopback(t.Context()); got != want {
				t.Errorf("the lookup gives %q: on loopback %v, want %v", answer, got, want)
			}
		}
		check("", false)
		check("127.0.0.1", true)
		time.Sleep(loopbackMemory + 1)
		check("", true)
		check("10.0.0.1", false)
	})
}

// What bootstrap names resolve to is asked at use, not with every dial, and not for longer than a
// dial can wait.
func TestWhetherABootstrapNameIsOnLoopbackIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &counted{names: names{"kafka": {"10.0.0.1", "127.0.0.1", "10.0.0.1"}}}
		b := &Brokers{Bootstrap: []string{"kafka:9092"}, Resolver: r}
		check := func(want bool, asked int32) {
			t.Helper()
			for range 3 {
				if got := b.onLoopback(t.Context()); got != want {
					t.Errorf("on loopback: %v, want %v", got, want)
				}
			}
			if n := r.asked.Load(); n != asked {
				t.Errorf("the resolver was asked %d times, want %d", n, asked)
			}
		}
		check(false, 1)
		time.Sleep(loopbackMemory + time.Second)
		check(true, 2)
		time.Sleep(loopbackMemory + time.Second)
		check(false, 3)
	})
	synctest.Test(t, func(t *testing.T) {
		b := &Brokers{Bootstrap: []string{"kafka:9092"}, Resolver: stuckResolver{}}
		start := time.Now()
		if b.onLoopback(t.Context()) || time.Since(start) != loopbackTimeout {
			t.Errorf("a resolver that does not answer holds a dial for %v, want %v and no loopback", time.Since(start), loopbackTimeout)
		}
		b.Resolver = names{"kafka": {"127.0.0.1"}}
		if !b.onLoopback(t.Context()) {
			t.Error("that the resolver did not answer is remembered")
		}
	})
}
