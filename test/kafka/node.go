package kafka

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// ports are those of one node, all on 127.0.0.1.
type ports struct{ client, internal, controller, sasl int }

// node is one process of the cluster.
type node struct {
	cluster    *Cluster
	id         int32
	controller bool
	ports      ports
	jvm        []string
	process    *proc.Process // nil before the first start
}

func newNode(c *Cluster, id int32, controller bool) (*node, error) {
	free, err := FreePorts(4)
	if err != nil {
		return nil, err
	}
	return &node{
		cluster:    c,
		id:         id,
		controller: controller,
		ports:      ports{client: free[0], internal: free[1], controller: free[2], sasl: free[3]},
		jvm:        []string{"-Xms64m", "-Xmx384m", "-XX:+ExitOnOutOfMemoryError", "-Djdk.net.hosts.file=" + c.hostsFile()},
	}, nil
}

func (n *node) host() string           { return fmt.Sprintf("broker-%d.%s", n.id, Domain) }
func (n *node) controllerHost() string { return fmt.Sprintf("controller-%d.%s", n.id, Domain) }
func (n *node) logDir() string         { return filepath.Join(n.cluster.dir, fmt.Sprintf("node-%d", n.id)) }
func (n *node) propertiesFile() string { return n.logDir() + ".properties" }

func (n *node) start() error {
	p, err := proc.Start(n.cluster.dist.java(n.jvm, "kafka.Kafka", n.propertiesFile()))
	if err != nil {
		return err
	}
	n.process = p
	return nil
}

// log returns the last thirty lines of the node's output, without stack traces and without the
// lines in which it waits for the controller.
func (n *node) log() string {
	var lines []string
	for line := range strings.Lines(n.process.Output().String()) {
		if !strings.HasPrefix(line, "\tat ") && !strings.Contains(line, "[RaftManager id=") {
			lines = append(lines, fmt.Sprintf("%.300s", strings.TrimSpace(line)))
		}
	}
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// properties returns the node's settings. Internal topics have three partitions instead of fifty,
// and the log cleaner a small buffer instead of 128 MiB of heap. A killed broker is detected after
// four seconds instead of nine.
func (n *node) properties() string {
	cfg := n.cluster.cfg
	replicas := min(len(cfg.IDs), 3)
	roles := "broker"
	listeners := []string{"CLIENT://" + loopback(n.ports.client), "INTERNAL://" + loopback(n.ports.internal)}
	advertised := []string{fmt.Sprintf("CLIENT://%s:%d", n.host(), n.ports.client), listeners[1]}
	var extra []string
	if n.controller {
		roles = "broker,controller"
		listeners = append(listeners, "CONTROLLER://"+loopback(n.ports.controller))
		advertised = append(advertised, fmt.Sprintf("CONTROLLER://%s:%d", n.controllerHost(), n.ports.controller))
	}
	if cfg.SASL {
		listeners = append(listeners, "SASL://"+loopback(n.ports.sasl))
		host := n.host()
		if cfg.DirectSASL {
			host = "127.0.0.1"
		}
		advertised = append(advertised, fmt.Sprintf("SASL://%s:%d", host, n.ports.sasl))
		extra = append(extra, saslProperties)
	}
	sasl := "SASL_PLAINTEXT"
	if cfg.KeyStore != "" {
		sasl = "SASL_SSL"
		extra = append(extra, fmt.Sprintf(tlsProperties, cfg.KeyStore, cfg.TrustStore))
	}
	return fmt.Sprintf(`process.roles=%s
node.id=%d
controller.quorum.voters=%s
controller.listener.names=CONTROLLER
listeners=%s
advertised.listeners=%s
listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:%[9]s
inter.broker.listener.name=INTERNAL
log.dirs=%[6]s
offsets.topic.replication.factor=%[7]d
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=%[7]d
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=%[7]d
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=3
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
auto.create.topics.enable=false
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
%[8]s
`, roles, n.id, n.cluster.voters(), strings.Join(listeners, ","), strings.Join(advertised, ","), n.logDir(), replicas,
		strings.Join(append(extra, cfg.Properties...), "\n"), sasl)
}

const saslProperties = `sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-secret";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="x";`

const tlsProperties = `listener.name.sasl.ssl.keystore.type=PEM
listener.name.sasl.ssl.keystore.location=%s
listener.name.sasl.ssl.truststore.type=PEM
listener.name.sasl.ssl.truststore.location=%s
listener.name.sasl.ssl.client.auth=required`

// format prepares every node's log folder. The tool formats the first; the others get a copy with
// their own id, which saves a second per node.
func (c *Cluster) format(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	first := c.nodes[0]
	args := []string{"format", "-t", c.cfg.ClusterID, "-c", first.propertiesFile()}
	if c.cfg.SASL {
		args = append(args, "--add-scram", "SCRAM-SHA-256=[name=bob,password=bob-secret]",
			"--add-scram", "SCRAM-SHA-512=[name=bob,password=bob-secret]")
	}
	if _, err := proc.Run(ctx, c.dist.java(nil, "kafka.tools.StorageTool", args...)); err != nil {
		return fmt.Errorf("format %s: %w", first.logDir(), err)
	}
	for _, n := range c.nodes[1:] {
		if err := copyFormat(first, n); err != nil {
			return err
		}
	}
	return nil
}

// copyFormat copies what the tool has written for one node to another. Most of all that is
// bootstrap.checkpoint with the features of the version.
func copyFormat(from, to *node) error {
	if err := os.CopyFS(to.logDir(), os.DirFS(from.logDir())); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to.logDir(), "meta.properties"), []byte(to.metaProperties()), 0o644)
}

func (n *node) metaProperties() string {
	directory := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "culvert-%08d", n.id))
	return fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n", n.cluster.cfg.ClusterID, n.id, directory)
}
