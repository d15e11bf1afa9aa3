// Package clients installs Kafka clients that are not Java and runs them. Each is a small program
// that produces numbered records with acks=all, consumes them in a group, and exits 0 if each came
// exactly once and in order:
//
//	PROGRAM BOOTSTRAP TOPIC GROUP COUNT [key=value ...]
package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/proc"
)

// patience is how long a client may take for its round trip. The programs themselves give up a
// little earlier and report their progress.
const patience = 75 * time.Second

// Client is one program.
type Client struct {
	Name    string // its usual name, with the version
	Options []string
	Hosts   string                                // its own /etc/hosts; "": that of this machine
	Share   bool                                  // the group is a share group: see kafka.Cluster.ShareFromEarliest
	install func(context.Context) (string, error) // returns the folder that argv needs
	argv    func(source, installed string) []string
}

// Clients are all that the tests know, with every group protocol that each supports.
var Clients = []Client{
	{Name: "confluent-kafka 2.16.1", install: python(current...), argv: script("confluent.py")},
	{Name: "confluent-kafka 2.16.1 KIP-848", Options: []string{"group.protocol=consumer"}, install: python(current...), argv: script("confluent.py")},
	{Name: "confluent-kafka 2.16.1 share", Share: true, Options: []string{"group.protocol=share"}, install: python(current...), argv: script("confluent.py")},
	{Name: "aiokafka 0.14.0", install: python(current...), argv: script("aio.py")},
	{Name: "kafka-python 3.0.12", install: python(current...), argv: script("kafkapython.py")},
	{Name: "kafkajs 2.2.4", install: node, argv: module("kafkajs.mjs")},
	{Name: "platformatic 1.35.0", install: node, argv: module("platformatic.mjs")},
	{Name: "platformatic 1.35.0 KIP-848", Options: []string{"group.protocol=consumer"}, install: node, argv: module("platformatic.mjs")},
	{Name: "sarama 1.61.1", install: goPrograms, argv: program("sarama")},
	{Name: "segmentio 0.4.51", install: goPrograms, argv: program("segmentio")},
}

// InProcess are the clients in Go that dial through a gateway themselves, without an agent. They
// need options that say how to reach it: see [Client.With].
var InProcess = []Client{
	{Name: "franz-go 1.22.3", install: goPrograms, argv: program("franz")},
	{Name: "sarama 1.61.1", install: goPrograms, argv: program("sarama")},
	{Name: "segmentio 0.4.51", install: goPrograms, argv: program("segmentio")},
}

// SASLv0 are clients that log in as before Kafka 1.0: SaslHandshake v0 and then tokens without
// Kafka's frames. They log in as alice, by PLAIN.
var SASLv0 = []Client{
	{Name: "kafka-python 2.0.2", install: python("kafka-python==2.0.2"), argv: script("kafkapython.py"), Options: []string{
		"security_protocol=SASL_PLAINTEXT", "sasl_mechanism=PLAIN", "sasl_plain_username=alice", "sasl_plain_password=alice-secret"}},
	{Name: "sarama 1.61.1", install: goPrograms, argv: program("sarama"), Options: []string{"sasl.user=alice", "sasl.password=alice-secret"}},
}

// With returns the client with more options, each key=value.
func (c Client) With(options ...string) Client {
	c.Options = slices.Concat(c.Options, options)
	return c
}

// Install installs what the client needs, once.
func (c Client) Install(ctx context.Context) error {
	_, err := c.install(ctx)
	return err
}

// Run runs the round trip and returns the end of the program's output.
func (c Client) Run(ctx context.Context, bootstrap, topic, group string, count int) (string, error) {
	installed, err := c.install(ctx)
	if err != nil {
		return "", err
	}
	source, err := sources()
	if err != nil {
		return "", err
	}
	argv := append(c.argv(source, installed), bootstrap, topic, group, fmt.Sprint(count))
	argv = append(argv, c.Options...)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done within %s", patience))
	defer cancel()
	cmd := exec.Command(argv[0], argv[1:]...)
	if c.Hosts != "" {
		cmd = hostsfile.Command(c.Hosts, cmd.Path, argv[1:]...)
	}
	cmd.Env = append(cmd.Environ(), "PYTHONDONTWRITEBYTECODE=1", "NODE_PATH="+installed)
	return proc.Run(ctx, cmd)
}

func sources() (string, error) {
	root, err := cache.Root()
	return filepath.Join(root, "test", "clients"), err
}

// current are the Python clients that share one virtual environment.
var current = []string{"confluent-kafka==2.16.1", "aiokafka==0.14.0", "kafka-python==3.0.12"}

func python(packages ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { return cache.Python(ctx, packages...) }
}

func script(name string) func(string, string) []string {
	return func(source, venv string) []string {
		return []string{filepath.Join(venv, "bin", "python"), filepath.Join(source, "python", name)}
	}
}

// packages are the Node clients. This version of platformatic is the newest that runs on Node 20.
var packages = []string{"kafkajs@2.2.4", "@platformatic/kafka@1.35.0"}

// node installs the packages beside copies of the programs, since Node looks for modules in the
// folder of the importing file.
func node(ctx context.Context) (string, error) {
	source, err := sources()
	if err != nil {
		return "", err
	}
	programs := os.DirFS(filepath.Join(source, "node"))
	dir, err := cache.Get("node", strings.Join(packages, " "), func(dir string) error {
		return run(ctx, dir, "npm", append([]string{"install", "--no-audit", "--no-fund", "--silent", "--prefix", dir}, packages...)...)
	})
	if err != nil {
		return "", err
	}
	copied.Lock()
	defer copied.Unlock()
	if copied.done {
		return dir, nil
	}
	work := filepath.Join(dir, "programs")
	if err := os.RemoveAll(work); err != nil {
		return "", err
	}
	err = os.CopyFS(work, programs)
	copied.done = err == nil
	return dir, err
}

// copied says that the programs of node were copied. Parallel tests must not replace each other's
// files.
var copied struct {
	sync.Mutex
	done bool
}

func module(name string) func(string, string) []string {
	return func(_, dir string) []string { return []string{"node", filepath.Join(dir, "programs", name)} }
}

// goPrograms builds the Go clients. They are a separate module so that the product does not depend
// on them.
func goPrograms(ctx context.Context) (string, error) {
	source, err := sources()
	if err != nil {
		return "", err
	}
	base, err := cache.Dir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "go")
	return dir, run(ctx, filepath.Join(source, "go"), "go", "build", "-o", dir+string(filepath.Separator), "./...")
}

func program(name string) func(string, string) []string {
	return func(_, dir string) []string { return []string{filepath.Join(dir, name)} }
}

// run runs an installer in a folder.
func run(ctx context.Context, dir, name string, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, fmt.Errorf("not installed within five minutes"))
	defer cancel()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	_, err := proc.Run(ctx, cmd)
	return err
}
