package doctor

import (
	"net"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy"
)

// The doctor examines each forward: its port here, whether the gateway offers it, and whether the
// gateway reaches what it leads to.
func TestForwards(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	taken := target.Addr().String()
	c := startCluster(t)
	address, certificate := startGateway(t, c, nil, proxy.Forward{Name: "up", Address: taken}, proxy.Forward{Name: "down", Address: "127.0.0.1:2"})
	agent := &proxy.Agent{Forwards: []proxy.Forward{{Name: "up", Address: "127.0.0.1:0"}, {Name: "down", Address: taken}, {Name: "wrong", Address: "127.0.0.1:0"}}}
	_, by, _ := found(t, func(d *Doctor) { d.Agent, d.blind = agent, true }, func(d *Doctor) {
		d.Agent.Upstream = proxy.NewDirect(&proxy.Brokers{})
		d.Local(t.Context())
		d.Gateway(t.Context(), dialTo(t, address, certificate, "right"), all[:1])
	})
	for hop, want := range map[string]struct {
		result       Result
		text, remedy string
	}{
		"port of up":    {OK, "is free", ""},
		"port of down":  {Warn, "is taken", "is it an agent"},
		"forward up":    {OK, "the gateway reaches it", ""},
		"forward down":  {Fail, "dial down at 127.0.0.1:2", "does down run, and is that its port?"},
		"forward wrong": {Fail, "it offers down, up", "add --forward wrong=HOST:PORT to the gateway"},
	} {
		if f := by[hop]; f.Result != want.result || !strings.Contains(f.Text, want.text) || !strings.Contains(f.Remedy, want.remedy) {
			t.Errorf("%s: %+v, want %+v", hop, f, want)
		}
	}
}
