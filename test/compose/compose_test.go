package compose

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// project reads the file as docker compose does: it validates it against the schema, and what
// services name in each other.
func project(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../../charts/compose/compose.yaml"}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The binary checks the command lines without opening anything.
func TestBinaryAcceptsTheCommandLines(t *testing.T) {
	culvert := filepath.Join(t.TempDir(), "culvert")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", culvert, "./cmd/culvert")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build culvert: %v\n%s", err, out)
	}
	p := project(t)
	for _, name := range []string{"agent", "gateway"} {
		args := append([]string{"config"}, p.Services[name].Command...)
		if out, err := exec.CommandContext(t.Context(), culvert, args...).CombinedOutput(); err != nil {
			t.Errorf("%s: culvert %q: %v\n%s", name, args, err, out)
		}
	}
}

// Clients share no network with brokers, and the gateway no secret that it does not need.
func TestClientsCannotReachBrokers(t *testing.T) {
	p := project(t)
	brokers := 0
	for name, s := range p.Services {
		if !strings.HasPrefix(name, "kafka-") {
			continue
		}
		brokers++
		for _, outside := range []string{"agent", "client"} {
			for network := range p.Services[outside].Networks {
				if _, shared := s.Networks[network]; shared {
					t.Errorf("%s and %s are both in %s", outside, name, network)
				}
			}
		}
		if len(s.Ports) > 0 {
			t.Errorf("%s publishes ports", name)
		}
	}
	if brokers != 3 || !p.Networks["inside"].Internal {
		t.Errorf("%d brokers, in a network that is internal: %v", brokers, p.Networks["inside"].Internal)
	}
}

// The addresses that brokers advertise, and that clients are told, are names of services.
func TestAddressesAreNamesOfServices(t *testing.T) {
	p := project(t)
	for name, s := range p.Services {
		if want := "PLAINTEXT://" + name + ":9092"; strings.HasPrefix(name, "kafka-") && *s.Environment["KAFKA_ADVERTISED_LISTENERS"] != want {
			t.Errorf("%s advertises %s, want %s", name, *s.Environment["KAFKA_ADVERTISED_LISTENERS"], want)
		}
	}
	if agent := p.Services["agent"].Command; !slices.Contains(agent, "--gateway-url=https://gateway:8443") || !slices.Contains(agent, "--listen=0.0.0.0:9092=agent") {
		t.Errorf("the agent runs with %q", agent)
	}
	if client := strings.Join(p.Services["client"].Command, " "); !strings.Contains(client, "--bootstrap-server agent:9092") {
		t.Errorf("the client runs %q", client)
	}
}
