package doctor

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func TestWhatIsWrongWithAPace(t *testing.T) {
	moves := func(rate float64) tunnel.Pace {
		return tunnel.Pace{Rate: rate, Echo: rate, Last: 20 * time.Millisecond}
	}
	late := moves(2.4e6)
	late.Delay = 208 * time.Millisecond
	for _, tt := range []struct {
		name      string
		transport string
		measured  map[string]tunnel.Pace
		text      string
	}{
		{"all are fast", "h3", map[string]tunnel.Pace{"h3": moves(20e6), "ws": moves(200e6)}, ""},
		{"all are slow", "h3", map[string]tunnel.Pace{"h3": moves(200e3), "ws": moves(250e3)}, ""},
		{"one is slow", "h3", map[string]tunnel.Pace{"h3": moves(150e3), "ws": moves(60e6)}, "it moves 150 kB/s where ws moves 60.0 MB/s"},
		{"alone", "h3", map[string]tunnel.Pace{"h3": moves(150e3)}, ""},
		{"late", "h2", map[string]tunnel.Pace{"h2": late, "ws": moves(600e6)}, "small messages come 208ms later than the first bytes of large ones"},
	} {
		if _, text := worst(tt.transport, tt.measured); text != tt.text {
			t.Errorf("%s: %q, want %q", tt.name, text, tt.text)
		}
	}
}

func TestTheRemedyNamesTheIngressThatAnswers(t *testing.T) {
	for _, tt := range []struct {
		transport string
		fault     tunnel.Fault
		server    string
		want      string
	}{
		{"h3", tunnel.Slow, "envoy", "the ingress is Envoy (Server: envoy). Its UDP listener needs downstream_socket_config: {prefer_gro: true}"},
		{"h3", tunnel.Slow, "istio-envoy", "the ingress is Envoy (Server: istio-envoy). Its UDP listener needs"},
		{"h3", tunnel.Slow, "-", "is Envoy in front of the gateway? Its UDP listener needs"},
		{"h2", tunnel.Late, "-", "is HAProxy in front of the gateway? It needs option http-no-delay"},
		{"ws", tunnel.Slow, "nginx", "set the ingress as docs/networks.md"},
	} {
		if got := remedy(tt.transport, tt.fault, tt.server); !strings.HasPrefix(got, tt.want) {
			t.Errorf("remedy(%s, %v, %s) = %q, want %q", tt.transport, tt.fault, tt.server, got, tt.want)
		}
	}
}

func TestTheNameOfAnIngress(t *testing.T) {
	s := door(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server", "envoy\u202e") }))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &gateway{dial: dialTo(t, s.URL, s.Certificate(), "right")}
	if got := g.server(ctx); !strings.HasPrefix(got, "envoy") || strings.Contains(got, "\u202e") {
		t.Errorf("server = %q", got)
	}
	cancel()
	if got := g.server(ctx); got != "" {
		t.Errorf("server = %q without time", got)
	}
}
