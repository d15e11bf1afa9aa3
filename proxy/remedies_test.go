package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// fails makes every dial of b fail with err.
func fails(b *Brokers, err error) {
	b.control = func(string, string, syscall.RawConn) error { return err }
}

// unknownNames is a resolver that fails.
type unknownNames struct{ err error }

func (r unknownNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, r.err
}

// Why a gateway cannot dial a broker, and what to do about it, is said in its own log and in what it
// tells the agent. Without a gateway the agent says it.
func TestEachFailureToReachABrokerHasItsOwnHint(t *testing.T) {
	const bootstrap = "10.0.0.1:9092"
	for _, tt := range []struct {
		name       string
		target     string
		with       func(*Brokers)
		code       tunnel.Code
		text, hint string
	}{
		{"refused", bootstrap, func(b *Brokers) { fails(b, syscall.ECONNREFUSED) }, tunnel.CodeDial, "connection refused",
			"nothing listens there: is the broker running, and is that the port of one of its listeners?"},
		{"silence", bootstrap, func(b *Brokers) { fails(b, os.ErrDeadlineExceeded) }, tunnel.CodeDial, "i/o timeout",
			"does a firewall, a security group or a network policy keep SELF from that port?"},
		{"no route", bootstrap, func(b *Brokers) { fails(b, syscall.EHOSTUNREACH) }, tunnel.CodeDial, "no route to host",
			"SELF has no route to that address: is it in the same network as the broker?"},
		{"no descriptors", bootstrap, func(b *Brokers) { fails(b, syscall.EMFILE) }, tunnel.CodeDial, "too many open files",
			"every connection needs a file descriptor or two: raise the limit with ulimit -n or, in a systemd unit, with LimitNOFILE="},
		{"no name", "kafka-1:9092", func(b *Brokers) {
			b.Resolver = unknownNames{&net.DNSError{Err: "no such host", Name: "kafka-1", IsNotFound: true}}
		}, tunnel.CodeDial, "lookup kafka-1: no such host",
			"SELF cannot resolve that name: is it the broker's name there? If a broker advertises it, correct advertised.listeners or DNS"},
		{"no DNS", "kafka-1:9092", func(b *Brokers) {
			b.Resolver = unknownNames{&net.DNSError{Err: "server misbehaving", Name: "kafka-1", IsTemporary: true}}
		}, tunnel.CodeDial, "server misbehaving", "does DNS work where SELF runs?"},
		{"link-local", "169.254.169.254:80", nil, tunnel.CodeTarget, "169.254.169.254 is link-local",
			"no broker is there: correct advertised.listeners of the broker, or the DNS name that leads there"},
		{"loopback", "127.0.0.1:9092", nil, tunnel.CodeTarget, "127.0.0.1 is loopback, and no bootstrap address is loopback, as written or as its name resolves",
			"the broker advertises an address that only its own machine can reach: set advertised.listeners to one that SELF can reach"},
	} {
		for _, self := range []string{"the gateway", "this agent"} {
			b := &Brokers{Bootstrap: []string{bootstrap}, Allow: []string{"kafka-1:9092"}, Names: flags}
			if self == "this agent" {
				NewDirect(b)
			}
			if tt.with != nil {
				tt.with(b)
			}
			_, err := b.dial(t.Context(), tt.target)
			want := strings.ReplaceAll(tt.hint, "SELF", self)
			if err == nil || !strings.Contains(err.Error(), tt.text) || hintOf(err, flags) != want {
				t.Errorf("%s: dial = %v, hint %q; want %q, hint %q", tt.name, err, hintOf(err, flags), tt.text, want)
				continue
			}
			if e := dialError(err, flags); e.Code != tt.code || e.Hint() != want || !strings.Contains(e.Message, tt.text) {
				t.Errorf("%s: the agent is told %+v, want %s, %q and the hint %q", tt.name, e, tt.code, tt.text, want)
			}
		}
	}
}

func TestAnAddressThatASettingCouldAllow(t *testing.T) {
	for direct, want := range map[bool]string{
		false: "to allow it, give the gateway --allow-broker with a prefix, as in 192.0.2.1/32:9092",
		true:  "to allow it, name it in --gateway-url, as in tcp://192.0.2.1:9092",
	} {
		b := &Brokers{Bootstrap: []string{"10.0.0.1:9092"}, direct: direct}
		_, err := b.dial(t.Context(), "192.0.2.1:9092")
		if !errors.Is(err, errNotAllowed) || hintOf(err, flags) != want {
			t.Errorf("dial = %v, hint %q; want %q", err, hintOf(err, flags), want)
		}
	}
}

// What an agent asks for without a valid ticket is refused with what the operator can do.
func TestATargetWithoutATicketHasAHint(t *testing.T) {
	d := brokerDialer{brokers: &Brokers{Bootstrap: []string{"10.0.0.1:9092"}}, signer: newSigner(nil), metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test"), names: flags}
	_, err := d.mayDial(tunnel.Open{Target: "10.0.0.2:9092"})
	if want := "a ticket comes with the metadata that names the address: does a broker advertise it? If not, --allow-broker of the gateway can allow it"; err == nil || err.Hint() != want {
		t.Errorf("without a ticket: %v, hint %q; want %q", err, hints.Of(err, nil), want)
	}
	forged := newSigner(nil)
	ticket, signErr := forged.sign(tunnel.Ticket{ClusterID: "c", NodeID: 1, Address: "10.0.0.2:9092"}, time.Now())
	if signErr != nil {
		t.Fatal(signErr)
	}
	_, err = d.mayDial(tunnel.Open{Target: "10.0.0.2:9092", Ticket: &ticket})
	if want := "all replicas must share one --ticket-key-file; without it, each start makes a new key"; err == nil || err.Hint() != want {
		t.Errorf("with another gateway's ticket: %v, hint %q; want %q", err, hints.Of(err, nil), want)
	}
}
