package test

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/ingress"
)

// hostingPlatform is what a hosting platform documents about the ingress in front of its containers, and an
// ingress with the same limits. docs/platforms.md has the links.
type hostingPlatform struct {
	ingressCase
	setting  string        // of the platform
	back     string        // what the container gets
	idle     time.Duration // after which an idle connection is cut; 0: not documented, or never
	lifetime time.Duration // after which a busy connection is cut; 0: not documented, or never
	body     int           // MiB that a request may have; 0: not documented, or any
}

var hostingPlatforms = []hostingPlatform{
	{
		ingressCase: ingressCase{name: "Azure Container Apps", works: []string{"ws", "h2"}, auto: "ws", refused: map[string]string{"h3": noUDP}},
		setting:     "`transport: http`", back: "HTTP/1.1", idle: 4 * time.Minute, lifetime: 4 * time.Minute,
	}, {
		ingressCase: ingressCase{name: "Azure Container Apps", works: []string{"h2"}, auto: "h2", why: not8441, refused: map[string]string{"ws": not8441}},
		setting:     "`transport: http2`", back: "h2c", idle: 4 * time.Minute, lifetime: 4 * time.Minute,
	}, {
		ingressCase: ingressCase{name: "Google Cloud Run", works: []string{"ws", "h2"}, auto: "ws"},
		setting:     "as it is", back: "HTTP/1.1", lifetime: 5 * time.Minute, body: 32,
	}, {
		ingressCase: ingressCase{name: "Google Cloud Run", works: []string{"h2"}, auto: "h2", why: not8441, refused: map[string]string{"ws": not8441}},
		setting:     "`--use-http2`", back: "h2c", lifetime: 5 * time.Minute,
	}, {
		ingressCase: ingressCase{name: "GKE Ingress", works: []string{"ws", "h2"}, auto: "ws"},
		setting:     "as it is", back: "HTTP/1.1", lifetime: 30 * time.Second,
	}, {
		ingressCase: ingressCase{name: "Azure App Service", works: []string{"ws", "h2"}, auto: "ws"},
		setting:     "Web sockets on", back: "HTTP/1.1", idle: 4 * time.Minute,
	}, {
		ingressCase: ingressCase{name: "Heroku", works: []string{"ws", "h2"}, auto: "ws"},
		setting:     "as it is", back: "HTTP/1.1", idle: 55 * time.Second,
	}, {
		ingressCase: ingressCase{name: "AWS App Runner", works: []string{"h2"}, auto: "h2", refused: map[string]string{"ws": upgradesOff}},
		setting:     "if it streams", back: "HTTP/1.1", lifetime: 2 * time.Minute,
	}, {
		ingressCase: ingressCase{name: "AWS App Runner", program: ingress.Nginx{NoWebSocket: true},
			refused: map[string]string{"ws": noUpgrade, "auto": "no transport reaches the gateway: "}},
		setting: "if it buffers", back: "HTTP/1.1", lifetime: 2 * time.Minute,
	},
}

// The limits of an ingress in a test: shorter than those of any platform, by more than culvert's own
// times are shortened for it.
const (
	shortIdle     = time.Minute
	shortLifetime = 4 * time.Second
)

// start starts an ingress like the platform's, without its limits or with one of them. Of a program
// that is not Envoy there are no limits to reproduce: nothing passes.
func (f hostingPlatform) start(t *testing.T, config ingress.Config, idle, lifetime time.Duration) *ingress.Ingress {
	t.Helper()
	if f.program != nil {
		return ingress.Start(t, f.program, config)
	}
	e := ingress.Envoy{NoUDP: true, IdleCut: idle, Lifetime: lifetime, NoUpgrades: f.refused["ws"] == upgradesOff}
	if f.back == "h2c" {
		e.Back = ingress.H2C
	}
	return ingress.Start(t, e, config)
}

// TestHostingPlatforms has each limit that a platform documents, made shorter: which transports
// work, that KEEPALIVEs keep an idle connection, and what the client sees at the end of a lifetime.
func TestHostingPlatforms(t *testing.T) {
	bed := sharedTestbed(t)
	short := bed.withShortTimeouts(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	for _, f := range hostingPlatforms {
		t.Run(f.name+" "+strings.Trim(f.setting, "`"), func(t *testing.T) {
			t.Parallel()
			config := bed.ingressConfig(plain)
			i := f.start(t, config, 0, 0)
			for transport, sentence := range f.refused {
				t.Run(transport, func(t *testing.T) {
					t.Parallel()
					mustRefuse(t, bed.pathThrough(t, plain, i.URL, transport), sentence)
				})
			}
			if f.auto == "" {
				return
			}
			t.Run("auto", func(t *testing.T) { f.checkAuto(t, bed.pathThrough(t, plain, i.URL, "auto")) })
			if f.idle > 0 {
				t.Run("idle", func(t *testing.T) {
					t.Parallel()
					f.keepsIdle(t, short, config)
				})
			}
			if f.body > 0 {
				t.Run("body", func(t *testing.T) {
					t.Parallel()
					f.limitsBodies(t, bed, plain, config)
				})
			}
			if f.lifetime > 0 {
				t.Run("lifetime", func(t *testing.T) {
					t.Parallel()
					f.cutsLives(t, bed, plain, config)
				})
			}
		})
	}
}

// keepsIdle has an idle limit that is as many KEEPALIVEs long as the shortest of a platform, or
// fewer. It must cut nothing.
func (f hostingPlatform) keepsIdle(t *testing.T, bed *testbed, config ingress.Config) {
	cut := scaled(min(f.idle, shortIdle))
	g := bed.plainGateway(t)
	config.Backend = g.listen
	i := f.start(t, config, cut, 0)
	for _, transport := range f.works {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			client := dialKafka(t, bed.pathThrough(t, g, i.URL, transport).bootstrap)
			client.askVersions(t)
			if err := client.waitForEnd(t, 2*cut); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the idle connection ended with %v", err)
			}
			client.askVersions(t)
		})
	}
}

// cutsLives has a short lifetime for every stream. The client must see a reset and no orderly end,
// and be answered on its next connection.
func (f hostingPlatform) cutsLives(t *testing.T, bed *testbed, g *gateway, config ingress.Config) {
	i := f.start(t, config, 0, shortLifetime)
	for _, transport := range f.works {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			p := bed.pathThrough(t, g, i.URL, transport)
			client := rawClient{p.answered(t)}
			if err := client.waitForEnd(t, patience+10*shortLifetime); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection ended with %v, want a reset", err)
			}
			p.answered(t)
		})
	}
}

// limitsBodies has nginx's default limit of 1 MiB, which is less than each of three brokers gets. What
// auto takes must carry it all without a cut.
func (f hostingPlatform) limitsBodies(t *testing.T, bed *testbed, g *gateway, config ingress.Config) {
	i := ingress.Start(t, ingress.Nginx{Streams: true}, config)
	p := bed.pathThrough(t, g, i.URL, "auto")
	await(t, 2*patience, "auto takes "+f.auto, func() bool {
		_, err := p.connect(t).ask(patience)
		return err == nil && p.tunnel(t).Transport == f.auto
	})
	roundTrip(t, p, f.auto)
	if cuts := scrape(t, p.admin).sum("culvert_connection_closes_total", `cause="tunnel_cut"`); cuts > 0 {
		t.Errorf("%v connections were cut", cuts)
	}
}

// answered returns a connection on which a request has been answered. A stream that was made ready may
// be near the end of its life when a client gets it, so a few connections may be cut before that.
func (p *path) answered(t *testing.T) net.Conn {
	t.Helper()
	var c *kafkaConn
	await(t, 2*patience, "an answer", func() bool {
		c = p.connect(t)
		_, err := c.ask(patience)
		return err == nil
	})
	return c.Conn
}

// The page has these platforms, with these limits and with what the test has found.
func TestPlatformsPageHasWhatWasTested(t *testing.T) {
	b, err := os.ReadFile("../docs/platforms.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(b), "\n| platform |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if !found || len(rows) < 3 {
		t.Fatal("the page has no table of platforms")
	}
	var want []string
	for _, f := range hostingPlatforms {
		want = append(want, f.row())
	}
	link := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	var got []string
	for _, row := range rows[2:] {
		got = append(got, link.ReplaceAllString(row, "$1"))
	}
	for n := range max(len(got), len(want)) {
		var is, should string
		if n < len(got) {
			is = got[n]
		}
		if n < len(want) {
			should = want[n]
		}
		if is != should {
			t.Errorf("row %d is\n%s\nand was tested as\n%s", n+1, is, should)
		}
	}
	if strings.Count(table, "](https://") < len(rows)-2 {
		t.Error("a row has no link to what the platform documents")
	}
}

// row is the platform's row in the page's table, without links.
func (f hostingPlatform) row() string {
	limit := func(d time.Duration) string {
		switch {
		case d == 0:
			return "–"
		case d%time.Minute == 0:
			return fmt.Sprintf("%d min", d/time.Minute)
		}
		return fmt.Sprintf("%d s", d/time.Second)
	}
	carries := func(transport string) string {
		if strings.Contains(strings.Join(f.works, " "), transport) {
			return "yes"
		}
		return "**no**"
	}
	body := "–"
	if f.body > 0 {
		body = fmt.Sprintf("%d MiB", f.body)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s | %s |", f.name, f.setting, f.back, limit(f.idle), limit(f.lifetime), body,
		carries("ws"), carries("h2"), cmp.Or(f.auto, "nothing, and says why"))
}
