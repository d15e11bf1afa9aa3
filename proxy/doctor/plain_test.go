package doctor

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka without culvert: all is well where the advertised addresses can be reached.
func TestKafkaWithoutCulvert(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "here"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	examine := func(topic string) (map[string]Finding, int) {
		_, by, failed := found(t, func(d *Doctor) { d.Produce = topic }, func(d *Doctor) { d.Plain(t.Context(), c.ListenAddrs()) })
		return by, failed
	}
	by, failed := examine("here")
	if f := by["record"]; failed != 0 || f.Result != OK || !strings.Contains(f.Text, "to here, partition 0, offset 0 ") {
		t.Errorf("record: %+v, %d failures", f, failed)
	}
	if v := by["verdict"]; v.Result != OK || !strings.Contains(v.Text, "without culvert, and a record went there and back") {
		t.Errorf("verdict %+v", v)
	}
	by, _ = examine("elsewhere")
	if f := by["record"]; f.Result != Fail || !strings.Contains(f.Text, "UNKNOWN_TOPIC_OR_PARTITION") || !strings.Contains(f.Remedy, "create the topic") {
		t.Errorf("record: %+v", f)
	}
	by, _ = examine("")
	if v := by["verdict"]; v.Result != OK || !strings.Contains(v.Text, "not examined: whether they may write and read records (--produce)") {
		t.Errorf("verdict %+v", v)
	}
}

// Brokers that advertise what cannot be reached are what culvert is for.
func TestAdvertisedAddressesThatCannotBeReached(t *testing.T) {
	c := startCluster(t)
	_, by, _ := found(t, nil, func(d *Doctor) { d.Plain(t.Context(), c.Bootstrap()) })
	if f := by["broker 2"]; f.Result != Fail || !strings.Contains(f.Text, "broker-2.") || !strings.Contains(f.Remedy, "advertised.listeners of broker 2") {
		t.Errorf("broker 2: %+v", f)
	}
	if v := by["verdict"]; v.Result != Fail || !strings.Contains(v.Text, "that is what culvert solves") {
		t.Errorf("verdict %+v", v)
	}

	// An address on loopback leads each client to itself, unless the brokers are here.
	p := plainCluster{cluster: cluster{Doctor: &Doctor{}}, remote: true}
	if conn, err := p.dial(t.Context(), c.Bootstrap()[0]); err == nil || !strings.Contains(err.Error(), "is a loopback address") {
		t.Errorf("dial = %v, %v", conn, err)
	}
}

// The address of a broker leads to a broker of another cluster.
func TestABrokerOfAnotherCluster(t *testing.T) {
	ours, theirs := startCluster(t), startCluster(t, kfake.ClusterID("another"))
	c := &cluster{Doctor: &Doctor{Names: flags}, id: "cluster kfake", loggedIn: true}
	c.open = func(ctx context.Context, to node) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.address)
	}
	if f := c.broker(t.Context(), node{address: ours.Bootstrap()[0]}); f.Result != OK {
		t.Errorf("our broker: %+v", f)
	}
	if f := c.broker(t.Context(), node{address: theirs.Bootstrap()[0]}); f.Result != Fail || !strings.Contains(f.Text, "another cluster: cluster another") {
		t.Errorf("their broker: %+v", f)
	}
}

// As Kafka does, a listener without a login refuses SaslHandshake by an error, and one with a login
// lists its mechanisms. Neither is asked anything that it closes the connection for.
func TestALoginIsFoundOutWithoutACut(t *testing.T) {
	for code, wants := range map[int16]bool{34: false, 0: true, 33: true} { // ILLEGAL_SASL_STATE, none, UNSUPPORTED_SASL_MECHANISM
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		c.ControlKey(int16(kmsg.SASLHandshake), func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			response := r.ResponseKind().(*kmsg.SASLHandshakeResponse)
			response.ErrorCode = code
			if wants {
				response.SupportedMechanisms = []string{"SCRAM-SHA-512\x1b"}
			}
			return response, nil, true
		})
		asked := false
		c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			asked = true
			return nil, nil, false
		})
		_, by, _ := found(t, nil, func(d *Doctor) { d.Plain(t.Context(), c.ListenAddrs()) })
		c.Close()
		f := by["login"]
		if wants && (f.Result != Skip || !strings.Contains(f.Text, `the brokers require a login by SCRAM-SHA-512\x1b`) || asked) || !wants && f.Result != OK {
			t.Errorf("code %d: %+v, asked for Metadata: %v", code, f, asked)
		}
	}
}
