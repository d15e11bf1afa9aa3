package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What went to the broker under a correlation id of ours comes back with the client's own, also
// where a gateway stops following the connection in between.
func TestCorrelationIDsArePutBackWhereAGatewayStopsFollowing(t *testing.T) {
	heartbeat := func(id int32) []byte { return requestFrame(kmsg.NewPtrHeartbeatRequest(), 1, id) }
	garbage := framed([]byte("?")) // too short for a request
	for _, test := range []struct {
		name string
		sent [][]byte // by the client, before the broker answers
		// answers gets the ids under which the broker got the requests, and returns what it says.
		answers func(ids []int32) []byte
		want    []byte
	}{
		{
			"a frame that is none", [][]byte{heartbeat(5), heartbeat(6), garbage},
			func(ids []int32) []byte { return append(heartbeatAnswer(ids[0]), heartbeatAnswer(ids[1])...) },
			append(heartbeatAnswer(5), heartbeatAnswer(6)...),
		},
		{
			"a response to nothing first", [][]byte{heartbeat(5), heartbeat(6)},
			func(ids []int32) []byte {
				return bytes.Join([][]byte{heartbeatAnswer(ids[0] + 1), heartbeatAnswer(ids[0]), heartbeatAnswer(ids[1])}, nil)
			},
			nil, // the first id is not known beforehand
		},
		{
			"responses in another order", [][]byte{heartbeat(5), heartbeat(6)},
			func(ids []int32) []byte { return append(heartbeatAnswer(ids[1]), heartbeatAnswer(ids[0])...) },
			append(heartbeatAnswer(6), heartbeatAnswer(5)...),
		},
		{
			"a login that cannot be followed", [][]byte{handshakeV0("AWS_MSK_IAM", 5)},
			func(ids []int32) []byte { return append(heartbeatAnswer(ids[0]), framed([]byte("raw"))...) },
			append(heartbeatAnswer(5), framed([]byte("raw"))...),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			ids := make(chan []int32, 1)
			broker := fakeBroker(t, func(c net.Conn) {
				var got []int32
				for range test.sent {
					frame, err := readFrame(c)
					if err != nil {
						return // the gateway looks whether the broker is there
					}
					if len(frame) > 8 {
						got = append(got, idOf(frame))
					}
				}
				ids <- got
				c.Write(test.answers(got))
			})
			log := &memoryLog{}
			up := tunnelTo(t, startGateway(t, []string{broker}, func(g *Gateway) { g.Logger = log.logger() }).address, "ws")
			defer up.close()
			c, _, err := up.dial(t.Context(), destination{}) // Open is for diagnosis, of which gateways log nothing
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, b := range test.sent {
				c.Write(b)
			}
			got, err := io.ReadAll(c)
			sent := <-ids
			if test.want == nil {
				test.want = bytes.Join([][]byte{heartbeatAnswer(sent[0] + 1), heartbeatAnswer(5), heartbeatAnswer(6)}, nil)
			}
			if !bytes.Equal(got, test.want) || err != nil {
				t.Errorf("the client read %q, %v, want %q", got, err, test.want)
			}
			if !warns(log.String(), []string{"can no longer be decoded"}) {
				t.Errorf("nobody is told why:\n%s", log)
			}
			if sent[0] == 5 {
				t.Error("the broker was given the client's correlation id")
			}
		})
	}
}

func handshakeV0(mechanism string, id int32) []byte {
	r := kmsg.NewPtrSASLHandshakeRequest()
	r.Mechanism = mechanism
	return requestFrame(r, 0, id)
}
