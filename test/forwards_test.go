package test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// beside is what stands beside Kafka in these tests, and how it is reached through a path.
type beside struct {
	registry, connect string   // as the gateway reaches them
	flags             []string // of a gateway that offers both
}

// startBeside starts a schema registry, and a worker of Connect that reaches brokers through p.
func startBeside(t *testing.T, p *path) *beside {
	t.Helper()
	ports, err := kafka.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	b := &beside{registry: address(clientHost, ports[0]), connect: address(clientHost, ports[1])}
	b.flags = []string{"--forward", "schema-registry=" + b.registry, "--forward", "connect=" + b.connect}
	registry, err := kafka.Registry(t.Context(), ports[0])
	if err != nil {
		t.Fatal(err)
	}
	runInBackground(t, registry)
	worker := writeProperties(t, map[string]string{
		"bootstrap.servers":            p.bootstrap,
		"key.converter":                "org.apache.kafka.connect.storage.StringConverter",
		"value.converter":              "org.apache.kafka.connect.storage.StringConverter",
		"offset.storage.file.filename": filepath.Join(t.TempDir(), "offsets"),
		"listeners":                    "http://" + b.connect,
	})
	runInBackground(t, ecosystem(t).Command("org.apache.kafka.connect.cli.ConnectStandalone", worker))
	answer(t, "http://"+b.registry+"/apis/ccompat/v7/subjects")
	answer(t, "http://"+b.connect+"/connectors")
	return b
}

// besidePath is a path with ports for what stands beside Kafka.
type besidePath struct {
	*path
	registry, connect string // URLs for clients
}

// openBeside opens a path through a gateway that offers what a besidePath needs.
func (b *testbed) openBeside(t *testing.T, g *gateway, transport string) *besidePath {
	t.Helper()
	ports, err := kafka.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	registry, connect := address(clientHost, ports[0]), address(clientHost, ports[1])
	p, err := b.openPath(t.Context(), path{gateway: g, url: "https://" + g.listen, transport: transport, flags: []string{
		"--forward", "schema-registry=" + registry, "--forward", "connect=" + connect,
	}})
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, p)
	return &besidePath{p, "http://" + registry, "http://" + connect}
}

// answer returns the body of a URL, once something answers there.
func answer(t *testing.T, url string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		r, err := http.Get(url)
		if err == nil {
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if r.StatusCode == http.StatusOK && err == nil {
				return string(body)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", url, err)
		}
	}
}

// TestForwards uses a schema registry with the Avro serializers of confluent-kafka and of Apicurio,
// and Connect by its REST API. Records and HTTP go through the same agent.
func TestForwards(t *testing.T) {
	bed := sharedTestbed(t)
	venv, err := cache.Python(t.Context(), "fastavro==1.13.1", "confluent-kafka[avro]==2.16.1")
	if err != nil {
		t.Fatal(err)
	}
	root, err := cache.Root()
	if err != nil {
		t.Fatal(err)
	}
	serializers, err := kafka.InstallAvro(t.Context(), filepath.Join(root, "test", "clients", "java", "Avro.java"))
	if err != nil {
		t.Fatal(err)
	}
	b := startBeside(t, bed.paths["ws"])
	g, err := bed.newGateway(t.Context(), b.flags...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, g)
	for _, transport := range transports {
		p := bed.openBeside(t, g, transport)
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			python := exec.Command(filepath.Join(venv, "bin", "python"), filepath.Join(root, "test", "clients", "python", "avro_registry.py"))
			python.Args = append(python.Args, p.bootstrap, bed.cluster.Topic(t, "avro-python-"+transport), p.registry, "50")
			runAvro(t, python)
			switch transport {
			case "h3":
				runAvro(t, serializers.Command("Avro", p.bootstrap, bed.cluster.Topic(t, "avro-java-"+transport), p.registry, "50"))
			case "h2":
				p.createsConnector(t)
			}
			if direct, through := answer(t, "http://"+b.registry+"/apis/ccompat/v7/subjects"), answer(t, p.registry+"/apis/ccompat/v7/subjects"); direct != through {
				t.Errorf("the registry answers %q, and %q through culvert", direct, through)
			}
			p.relay.Check(t)
			if n := scrape(t, p.admin).sum("culvert_forward_bytes_total", `forward="schema-registry"`); n == 0 {
				t.Error("no bytes went through the agent's forward")
			}
		})
	}
	t.Run("list", func(t *testing.T) {
		t.Parallel()
		out, err := bed.paths["ws"].throughGateway(g).command("agent", "--forward", "list", "--admin-listen", "none").Output()
		if string(out) != "connect\nschema-registry\n" || err != nil {
			t.Errorf("--forward list prints %q, %v", out, err)
		}
	})
}

// throughGateway is the path to another gateway.
func (p *path) throughGateway(g *gateway) *path {
	other := *p
	other.gateway, other.url = g, "https://"+g.listen
	return &other
}

// runAvro runs a program that reports ok.
func runAvro(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if out, err := proc.Run(ctx, cmd); err != nil || !strings.Contains(out, "ok: 50 records") {
		t.Errorf("%v\n%s", err, out)
	}
}

// createsConnector has Connect copy the lines of a file to a topic.
func (p *besidePath) createsConnector(t *testing.T) {
	t.Helper()
	topic, file := p.cluster.Topic(t, "connect-rest"), filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte(lines(100)), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"name": %q, "config": {"connector.class": "FileStreamSource", "file": %q, "topic": %q}}`, topic, file, topic)
	r, err := http.Post(p.connect+"/connectors", "application/json", strings.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("create a connector: %s: %s", r.Status, body)
	}
	if all := answer(t, p.connect+"/connectors"); !strings.Contains(all, topic) {
		t.Errorf("the connectors are %s", all)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reader, read := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 0
	for read < 100 && ctx.Err() == nil {
		read += reader.PollFetches(ctx).NumRecords()
	}
	if read != 100 {
		t.Errorf("%d of 100 lines arrived", read)
	}
}
