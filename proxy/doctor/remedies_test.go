package doctor

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// elsewhere is a resolver that leads to one broker's name in its own way.
type elsewhere struct {
	proxy.Resolver
	host string
	ip   string // "" is no such name
}

func (e elsewhere) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	switch {
	case host != e.host:
		return e.Resolver.LookupNetIP(ctx, network, host)
	case e.ip == "":
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr(e.ip)}, nil
}

// What the gateway knows about a broker that it cannot reach arrives where the doctor runs.
func TestEachUnreachableBrokerHasItsOwnRemedy(t *testing.T) {
	for _, tt := range []struct{ ip, text, remedy string }{
		{"", "no such host", "the gateway cannot resolve that name"},
		{"127.0.0.99", "connection refused", "nothing listens there: is the broker running"}, // kfake binds 127.0.0.1
		{"169.254.1.1", "address may not be dialled: 169.254.1.1 is link-local", "no broker is there: correct advertised.listeners"},
		{"192.0.2.1", "address may not be dialled: 192.0.2.1 is for documentation", "give the gateway --allow-broker with a prefix, as in 192.0.2.1/32:"},
	} {
		c := startCluster(t)
		address, certificate := startGateway(t, c, elsewhere{c.Resolver(), fakekafka.Host(2), tt.ip})
		_, by, failed := examine(t, nil, dialTo(t, address, certificate, "right"))
		f := by["broker 2"]
		if failed != 1 || f.Result != Fail || !strings.Contains(f.Text, tt.text) || !strings.Contains(f.Remedy, tt.remedy) {
			t.Errorf("broker 2 at %q: %d failures, %s %q, remedy %q; want %q and %q", tt.ip, failed, f.Result, f.Text, f.Remedy, tt.text, tt.remedy)
		}
	}
}
