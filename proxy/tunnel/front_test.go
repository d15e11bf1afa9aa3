package tunnel

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// An ingress says who it is in its responses, over each transport, also when it refuses.
func TestTheIngressIsNamed(t *testing.T) {
	status := 0
	named := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "test-ingress")
			h.ServeHTTP(w, r)
		})
	}
	door := func(t *testing.T, kind string) *rig {
		r := newRig(t, kind)
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.addr})
		proxy.ErrorLog, proxy.FlushInterval = noHTTPLog, -1
		transport := &http.Transport{}
		proxy.Transport = transport
		proxy.ModifyResponse = func(w *http.Response) error {
			w.Header.Set("Server", "test-ingress")
			if status != 0 {
				w.StatusCode = status
				w.Header.Del("Culvert-Gateway")
			}
			return nil
		}
		s := httptest.NewUnstartedServer(proxy)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		r.dialer.URL.Host = s.Listener.Addr().String()
		t.Cleanup(func() {
			r.dialer.Close()
			s.Close()
			transport.CloseIdleConnections()
		})
		return r
	}
	want := func(t *testing.T, r *rig) {
		t.Helper()
		if got := r.dialer.IngressName(); got != "test-ingress" {
			t.Errorf("the ingress is called %q", got)
		}
	}
	for _, kind := range []string{"plain", "h2c"} {
		t.Run(kind, func(t *testing.T) {
			r := door(t, kind)
			r.dial()
			want(t, r)
		})
		t.Run(kind+" refused", func(t *testing.T) {
			status = http.StatusForbidden
			defer func() { status = 0 }()
			r := door(t, kind)
			if c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil); err == nil {
				c.Close()
				t.Error("not refused")
			}
			want(t, r)
		})
	}
	t.Run("h3", func(t *testing.T) {
		r := newRig(t, "h3", func(r *rig) { r.server.h3Handler = named(r.server) })
		r.dial()
		want(t, r)
	})
}

// A gateway has no such name. Over https:// it shows a certificate, and anew with each handshake.
func TestAGatewayIsNoIngress(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		r.dial()
		if got := r.dialer.IngressName(); got != "" {
			t.Errorf("a gateway is called %q", got)
		}
		expires := r.dialer.CertificateExpires()
		if plain := r.dialer.URL.Scheme == "http"; expires.IsZero() != plain || !plain && time.Until(expires) > time.Hour {
			t.Errorf("the certificate expires at %v", expires)
		}
	})
}

// What an ingress calls itself is bounded and printable.
func TestTheNameOfAnIngressIsBounded(t *testing.T) {
	for want, h := range map[string]http.Header{
		"envoy":      {"Server": {"envoy"}, "Via": {"1.1 google"}},
		"1.1 google": {"Via": {"1.1 google"}},
		"":           {"X": {"y"}},
		printable.Text(strings.Repeat("\x1b[31m", 1000), maxIngress): {"Server": {strings.Repeat("\x1b[31m", 1000)}},
	} {
		d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway"}}
		defer d.Close()
		d.init()
		d.route.front.answered(h)
		if got := d.IngressName(); got != want || len(got) > maxIngress+len("…") {
			t.Errorf("%v: %q, want %q", h, got, want)
		}
	}
}
