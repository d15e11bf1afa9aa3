package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// tool runs one of Kafka's own tools through culvert.
func (p *path) tool(t *testing.T, class, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bootstrap := []string{"--bootstrap-server", p.bootstrap}
	if class == kafka.ClusterTool { // the only one whose command comes first
		args = append(args, bootstrap...)
	} else {
		args = append(bootstrap, args...)
	}
	out, err := p.cluster.Tool(ctx, class, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantIn fails the test unless each text occurs in what a program printed.
func wantIn(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in:\n%s", text, out)
		}
	}
}

// lines returns "record 0" … in n lines.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "record %d\n", i)
	}
	return b.String()
}

func TestJavaTopics(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Unique("java-topics-" + p.transport)
		p.tool(t, kafka.Topics, "", "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "3")
		wantIn(t, p.tool(t, kafka.Topics, "", "--list"), topic)
		wantIn(t, p.tool(t, kafka.Topics, "", "--describe", "--topic", topic), "PartitionCount: 3", "Partition: 2")
		p.tool(t, kafka.Configs, "", "--entity-type", "topics", "--entity-name", topic, "--alter", "--add-config", "retention.ms=3600000")
		wantIn(t, p.tool(t, kafka.Configs, "", "--entity-type", "topics", "--entity-name", topic, "--describe"), "retention.ms=3600000")
		p.tool(t, kafka.Topics, "", "--delete", "--topic", topic)
	})
}

func TestJavaConsoleAndGroups(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-console-"+p.transport)
		p.tool(t, kafka.ConsoleProducer, lines(20), "--topic", topic, "--command-property", "acks=all")
		for _, protocol := range []string{"classic", "consumer"} {
			group := topic + "-" + protocol
			out := p.tool(t, kafka.ConsoleConsumer, "", "--topic", topic, "--from-beginning", "--max-messages", "20", "--timeout-ms", "20000",
				"--group", group, "--command-property", "group.protocol="+protocol)
			wantIn(t, out, strings.Split(strings.TrimSpace(lines(20)), "\n")...)
			wantIn(t, p.tool(t, kafka.ConsumerGroups, "", "--describe", "--group", group), topic)
		}
		wantIn(t, p.tool(t, kafka.Groups, "", "--list"), topic+"-classic", topic+"-consumer")
	})
}

func TestJavaShareConsumer(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-share-"+p.transport)
		p.cluster.ShareFromEarliest(t, topic)
		p.tool(t, kafka.ConsoleProducer, lines(20), "--topic", topic)
		out := p.tool(t, kafka.ConsoleShare, "", "--topic", topic, "--group", topic, "--max-messages", "20", "--timeout-ms", "20000")
		wantIn(t, out, strings.Split(strings.TrimSpace(lines(20)), "\n")...)
		wantIn(t, p.tool(t, kafka.ShareGroups, "", "--describe", "--group", topic), topic)
	})
}

func TestJavaPerformance(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-perf-"+p.transport)
		out := p.tool(t, kafka.ProducerPerf, "", "--topic", topic, "--num-records", "20000", "--record-size", "1024", "--throughput", "-1", "--command-property", "acks=all")
		wantIn(t, out, "20000 records sent")
		// The second column but three of the only line is the number of records.
		out = p.tool(t, kafka.ConsumerPerf, "", "--topic", topic, "--num-records", "20000", "--timeout", "20000", "--hide-header")
		wantIn(t, out, ", 20000, ")
	})
}

func TestJavaTransactions(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-txn-"+p.transport)
		out := p.tool(t, kafka.ProducerPerf, "", "--topic", topic, "--num-records", "500", "--record-size", "100", "--throughput", "1000",
			"--transactional-id", topic, "--transaction-duration-ms", "100")
		wantIn(t, out, "500 records sent")
		out = p.tool(t, kafka.ConsoleConsumer, "", "--topic", topic, "--from-beginning", "--max-messages", "500", "--timeout-ms", "20000", "--isolation-level", "read_committed")
		if got := strings.Count(out, "\n"); got < 500 {
			t.Errorf("%d lines of committed records, want 500", got)
		}
		wantIn(t, p.tool(t, kafka.Transactions, "", "list"), topic, "CompleteCommit")
	})
}

func TestJavaVerifiable(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-verifiable-"+p.transport)
		out := p.tool(t, kafka.VerifiableProducer, "", "--topic", topic, "--max-messages", "100", "--acks", "-1")
		if got := strings.Count(out, `"producer_send_success"`); got != 100 {
			t.Errorf("%d records sent, want 100", got)
		}
		out = p.tool(t, kafka.VerifiableConsumer, "", "--topic", topic, "--group-id", topic, "--reset-policy", "earliest", "--max-messages", "100")
		wantIn(t, out, `"partitions_assigned"`, `"records_consumed"`, `"offsets_committed"`)
	})
}

// TestJavaCluster runs the tools that list brokers and controllers.
func TestJavaCluster(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		brokers := []string{p.nodeAddress(0), p.nodeAddress(1), p.nodeAddress(2)}
		wantIn(t, p.tool(t, kafka.ClusterTool, "", "cluster-id"), kafka.ClusterID)
		endpoints := p.tool(t, kafka.ClusterTool, "", "list-endpoints")
		for id := range 3 {
			wantIn(t, endpoints, strconv.Itoa(p.port+1+id))
		}
		wantIn(t, p.tool(t, kafka.BrokerAPIVersions, ""), brokers...)
		wantIn(t, p.tool(t, kafka.MetadataQuorum, "", "describe", "--status"), "LeaderId:", kafka.ClusterID, "controller-0.invalid")
		wantIn(t, p.tool(t, kafka.MetadataQuorum, "", "describe", "--replication"), "Leader")
		wantIn(t, p.tool(t, kafka.LogDirs, "", "--describe", "--broker-list", "1"), "logDirs")
	})
}

// TestJavaBrokerConfigs shows the one case in which a real address reaches a client: a broker's
// configuration is data, and an operator asked for it.
func TestJavaBrokerConfigs(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		out := p.tool(t, kafka.Configs, "", "--entity-type", "brokers", "--entity-name", "1", "--describe", "--all")
		wantIn(t, out, "advertised.listeners=")
		if len(p.relay.Take()) == 0 {
			t.Error("the leak detector did not see the name in the configuration")
		}
	})
}

func TestJavaLeaderElection(t *testing.T) {
	eachTransport(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "java-election-"+p.transport)
		offsets := filepath.Join(t.TempDir(), "offsets.json")
		content := fmt.Sprintf(`{"partitions":[{"topic":%q,"partition":0,"offset":0}],"version":1}`, topic)
		if err := os.WriteFile(offsets, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p.tool(t, kafka.LeaderElection, "", "--election-type", "preferred", "--topic", topic, "--partition", "0")
		wantIn(t, p.tool(t, kafka.GetOffsets, "", "--topic", topic), topic+":0:0")
		wantIn(t, p.tool(t, kafka.DeleteRecords, "", "--offset-json-file", offsets), "low_watermark: 0")
	})
}
