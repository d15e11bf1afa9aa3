package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// names is a resolver whose answers to a name come one after the other; the last one stays.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	answers := n[host]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		n[host] = answers[1:]
	}
	return []netip.Addr{netip.MustParseAddr(answers[0])}, nil
}

func TestAllowedNeedsExactPortAndWholeLabels(t *testing.T) {
	b := &Brokers{Bootstrap: []string{"kafka-0:9092"}, Allow: []string{"*.kafka.internal:9092", "10.1.0.0/16:9093", "[fd00::/8]:9092", "One.example:9092"}}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		address string
		want    bool
	}{
		{"kafka-0:9092", true},
		{"KAFKA-0:9092", true},
		{"kafka-0:9093", false},
		{"a.kafka.internal:9092", true},
		{"A.Kafka.Internal.:9092", true},
		{"a.b.kafka.internal:9092", false},
		{".kafka.internal:9092", false},
		{"kafka.internal:9092", false},
		{"a.kafka.internal:22", false},
		{"a.kafka.internal.evil:9092", false},
		{"10.1.2.3:9093", true},
		{"10.2.2.3:9093", false},
		{"[::ffff:10.1.2.3]:9093", true},
		{"[fd12::1]:9092", true},
		{"one.example:9092", true},
		{"10.1.2.3", false},
		{"", false},
	} {
		if got := mayDial(b, test.address); got != test.want {
			t.Errorf("allowed(%q) = %v, want %v", test.address, got, test.want)
		}
	}
}

// mayDial reports whether b allows what an agent asks for without a ticket.
func mayDial(b *Brokers, address string) bool {
	t, err := parseTarget(address)
	return err == nil && b.allowed(t)
}

func TestValidateSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		b    *Brokers
		want string
	}{
		{&Brokers{}, "no bootstrap address"},
		{&Brokers{Bootstrap: []string{"kafka-0"}}, "want HOST:PORT"},
		{&Brokers{Bootstrap: []string{"kafka-0:0"}}, "port"},
		{&Brokers{Bootstrap: []string{":9092"}}, "host is empty"},
		{&Brokers{Bootstrap: []string{"k:1"}, Allow: []string{"*.example"}}, "port is mandatory"},
		{&Brokers{Bootstrap: []string{"k:1"}, Allow: []string{"kafka-*.example:9092"}}, "one whole label"},
		{&Brokers{Bootstrap: []string{"k:1"}, Allow: []string{"10.0.0.0/40:9092"}}, "prefix"},
	} {
		err := test.b.Validate()
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Validate(%+v) = %v, want something with %q", test.b.Bootstrap, err, test.want)
		}
	}
}

func TestDialRefusesAddressesWhereNoBrokerLives(t *testing.T) {
	b := &Brokers{Bootstrap: []string{"kafka-0:9092"}, Resolver: names{
		"metadata": {"169.254.169.254"}, "self": {"127.0.0.1"}, "self6": {"::1"}, "mapped": {"::ffff:127.0.0.1"},
		"any": {"0.0.0.0"}, "net0": {"0.1.2.3"}, "multicast": {"224.0.0.1"}, "ll6": {"fe80::1"}, "broadcast": {"255.255.255.255"},
	}}
	for name := range b.Resolver.(names) {
		_, err := b.dial(t.Context(), name+":9092")
		if !errors.Is(err, errNotAllowed) {
			t.Errorf("dial %s = %v, want errNotAllowed", name, err)
		}
	}
	for _, literal := range []string{"169.254.169.254:80", "[fe80::1]:80", "127.0.0.1:80", "0.0.0.0:80", "[::]:80"} {
		if _, err := b.dial(t.Context(), literal); !errors.Is(err, errNotAllowed) {
			t.Errorf("dial %s = %v, want errNotAllowed", literal, err)
		}
	}
}

// A name that is harmless when it is checked and the metadata service when it is dialled must be
// dialled as it was checked.
func TestDialUsesTheAddressThatWasChecked(t *testing.T) {
	ln := listenLoopback(t)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	r := names{"rebinding": {"127.0.0.1", "169.254.169.254"}}
	b := &Brokers{Bootstrap: []string{"127.0.0.1:1"}, Resolver: r}
	c, err := b.dial(t.Context(), "rebinding:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := b.dial(t.Context(), "rebinding:"+port); !errors.Is(err, errNotAllowed) {
		t.Errorf("second dial = %v, want errNotAllowed", err)
	}
}

func TestBootstrapRaceTakesTheFirstAnswer(t *testing.T) {
	ln := listenLoopback(t)
	refusing := listenLoopback(t)
	refusing.Close()
	b := &Brokers{Bootstrap: []string{refusing.Addr().String(), "nowhere.invalid:9092", ln.Addr().String()}, Resolver: names{}}
	for range 3 { // each address comes first once
		c, err := b.dialBootstrap(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	ln.Close()
	_, err := b.dialBootstrap(t.Context())
	if err == nil || !strings.Contains(err.Error(), "nowhere.invalid:9092") || !strings.Contains(err.Error(), refusing.Addr().String()) {
		t.Errorf("dialBootstrap = %v, want every address named", err)
	}
}

func TestBootstrapRaceEndsWithItsContext(t *testing.T) {
	b := &Brokers{Bootstrap: []string{"slow:9092", "slower:9092"}, Resolver: stuckResolver{}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.dialBootstrap(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialBootstrap = %v, want the context's end", err)
	}
}

type stuckResolver struct{}

func (stuckResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// listenLoopback returns a listener that accepts and holds connections.
func listenLoopback(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// several is a resolver for a name with several addresses.
type several []string

func (s several) LookupNetIP(context.Context, string, string) (ips []netip.Addr, err error) {
	for _, ip := range s {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips, nil
}

// secondLoopback skips the test where the system has no 127.0.0.2.
func secondLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip(err)
	}
	ln.Close()
}

// One address of the name refuses connections, and one may not be dialled at all.
func TestTheAddressThatAnsweredIsDialledFirst(t *testing.T) {
	secondLoopback(t)
	ln := listenLoopback(t)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	var log bytes.Buffer
	var dialled []string
	b := &Brokers{
		Bootstrap: []string{"127.0.0.1:1"},
		Resolver:  several{"169.254.169.254", "127.0.0.2", "127.0.0.1"},
		Logger:    slog.New(slog.NewTextHandler(&log, nil)),
		control: func(_, address string, _ syscall.RawConn) error {
			dialled = append(dialled, address)
			return nil
		},
	}
	t.Cleanup(b.history.Close)
	for _, want := range []string{"[127.0.0.2:" + port + " 127.0.0.1:" + port + "]", "[127.0.0.1:" + port + "]"} {
		dialled = nil
		c, err := b.dial(t.Context(), "kafka-0:"+port)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got := fmt.Sprint(dialled); got != want {
			t.Errorf("dialled %s, want %s", got, want)
		}
	}
	if got := log.String(); strings.Count(got, "WARN") != 1 || !strings.Contains(got, "address=127.0.0.2 ") {
		t.Errorf("log = %q, want the address that did not answer", got)
	}
	ln.Close()
	if _, err := b.dial(t.Context(), "kafka-0:"+port); err == nil || !strings.Contains(err.Error(), "169.254.169.254 is link-local") || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Errorf("dial = %v, want what is wrong with each address", err)
	}
}

// The address accepts TCP and says nothing, as a balancer does whose broker is gone.
func TestAnAddressWhoseTLSHangsHasNotAnswered(t *testing.T) {
	secondLoopback(t)
	broker := httptest.NewTLSServer(nil)
	defer broker.Close()
	_, port, _ := net.SplitHostPort(broker.Listener.Addr().String())
	hangs, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", port))
	if err != nil {
		t.Skip(err)
	}
	defer hangs.Close()
	b := &Brokers{Bootstrap: []string{"127.0.0.1:1"}, Resolver: several{"127.0.0.2", "127.0.0.1"}, TLS: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(b.history.Close)
	c, err := b.dial(t.Context(), "kafka-0:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
