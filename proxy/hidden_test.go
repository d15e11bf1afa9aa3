package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A client hides a request from whoever follows its connection by a client id of length -2, which
// Kafka reads as null and which was once taken for a raw SASL token. The broker answers it, and the
// answer arrives in the place of another request's.

const attackersHost = "attacker.example"

// saslBroker is a broker as Apache Kafka is on a SASL listener: it takes one PLAIN token behind a
// SaslHandshake v0, and then answers requests in turn.
func saslBroker(c net.Conn) {
	tokens := 0
	for {
		frame, err := readFrame(c)
		if err != nil {
			return
		}
		if tokens > 0 {
			tokens--
			c.Write(framed(nil))
			continue
		}
		key, version, id := kmsg.Key(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:])), binary.BigEndian.Uint32(frame[4:])
		body := frame[10:]
		if n := int16(binary.BigEndian.Uint16(frame[8:])); n > 0 {
			body = body[n:]
		}
		if key == kmsg.SASLHandshake && version == 0 {
			tokens = 1
		}
		answer := answerOf(key, version, body)
		if answer == nil {
			return
		}
		c.Write(framed(append(binary.BigEndian.AppendUint32(nil, id), answer...)))
	}
}

// answerOf is the body of a broker's response.
func answerOf(key kmsg.Key, version int16, body []byte) []byte {
	switch key {
	case kmsg.SASLHandshake:
		r := kmsg.NewPtrSASLHandshakeResponse()
		r.SupportedMechanisms = []string{"PLAIN"}
		return r.AppendTo(nil)
	case kmsg.Metadata:
		return metadata(0, 3)[4:]
	case kmsg.ListOffsets:
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version = version
		if req.ReadFrom(body) != nil {
			return nil
		}
		r := kmsg.NewPtrListOffsetsResponse()
		r.Version = version
		for _, t := range req.Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = t.Topic
			r.Topics = append(r.Topics, topic)
		}
		return r.AppendTo(nil)
	}
	return nil
}

// listOffsets asks for a topic whose name, which the broker repeats, reads as the brokers of a
// Metadata v1 response.
func listOffsets(id int32) []byte {
	name := "\x00\x07" // behind the name's own length: the rest of a node id
	name += "\x00\x10" + attackersHost + "\x00\x00\x23\x84" + "\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	req := kmsg.NewPtrListOffsetsRequest()
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = name
	req.Topics = append(req.Topics, topic)
	return requestFrame(req, 1, id)
}

// hide gives a request a client id of length -2.
func hide(frame []byte) []byte {
	named := int(binary.BigEndian.Uint16(frame[12:]))
	hidden := append(bytes.Clone(frame[:12]), 0xff, 0xfe)
	hidden = append(hidden, frame[14+named:]...)
	binary.BigEndian.PutUint32(hidden, uint32(len(hidden)-4))
	return hidden
}

// asTokens is the reading that could be deceived: whatever does not look like a request in every
// respect is a raw token.
func asTokens(f *protocol.Flow) bool {
	b, err := f.Peek(14, 14)
	if err != nil {
		return false
	}
	return binary.BigEndian.Uint16(b[4:]) > uint16(protocol.MaxKey) || int16(binary.BigEndian.Uint16(b[12:])) < -1
}

// attack logs in and sends two requests in one flight, the first of them hidden and both with the
// same correlation id. It returns all that comes back.
func attack(t *testing.T, c net.Conn, hidden, open func(id int32) []byte) []byte {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var seen bytes.Buffer
	back := io.TeeReader(c, &seen)
	for _, b := range [][]byte{handshakeV0("PLAIN", 1), framed([]byte("\x00mallory\x00secret"))} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := readFrame(back); err != nil {
			t.Fatal(err)
		}
	}
	c.Write(append(hide(hidden(7)), open(7)...))
	for range 2 {
		if _, err := readFrame(back); err != nil {
			break
		}
	}
	return seen.Bytes()
}

func metadataRequest(id int32) []byte { return requestFrame(kmsg.NewPtrMetadataRequest(), 1, id) }

// defences are those that must each suffice, and what happens without any.
var defences = []struct {
	name    string
	without without
	held    bool
}{
	{"all", without{}, true},
	{"Kafka's own reading alone", without{correlationIDs: true}, true},
	{"correlation ids alone", without{reading: asTokens}, true},
	{"none", without{correlationIDs: true, reading: asTokens}, false},
}

func TestNoTicketForWhatAHiddenRequestNames(t *testing.T) {
	broker := fakeBroker(t, saslBroker)
	for _, d := range defences {
		t.Run(d.name, func(t *testing.T) {
			g := startGateway(t, []string{broker}, func(g *Gateway) { g.without = d.without })
			var mu sync.Mutex
			var named []string
			up := tunnelTo(t, g.address, "ws")
			defer up.close()
			c, err := Open(t.Context(), up, "", nil, func(tk tunnel.Ticket) {
				mu.Lock()
				defer mu.Unlock()
				named = append(named, tk.Address)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			attack(t, c, listOffsets, metadataRequest)
			c.Close()
			mu.Lock()
			defer mu.Unlock()
			if got := !strings.Contains(strings.Join(named, " "), attackersHost); got != d.held {
				t.Errorf("the gateway gave tickets for %q", named)
			}
		})
	}
}

func TestNoRealAddressIsRelayedAfterAHiddenRequest(t *testing.T) {
	broker := fakeBroker(t, saslBroker)
	for _, d := range defences {
		for _, transport := range []string{"direct", "ws"} {
			t.Run(d.name+" over "+transport, func(t *testing.T) {
				up := waysTo(t, []string{broker}, transport, func(g *Gateway) { g.without = d.without })()
				a := startAgent(t, up, func(a *Agent) { a.without = d.without })
				c, err := net.Dial("tcp", a.address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				seen := attack(t, c, metadataRequest, listOffsets)
				if got := !bytes.Contains(seen, []byte(fakekafka.Host(0))); got != d.held {
					t.Errorf("the client was told %q", seen)
				}
			})
		}
	}
}
