package proxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Brokers that want a login close a connection with any other request on it, some in good order and
// some with a reset. Either way they are not asked again at each attempt of a client.
func TestAClusterThatRequiresCredentialsIsAskedOnce(t *testing.T) {
	for how, end := range map[string]func(net.Conn){"fin": func(net.Conn) {}, "reset": func(c net.Conn) { reset(c, nil) }} {
		var asked atomic.Int32
		broker := fakeBroker(t, func(c net.Conn) {
			if _, err := readFrame(c); err != nil {
				return // not a request but a hello
			}
			asked.Add(1)
			end(c)
		})
		eachTransport(t, func(t *testing.T, transport string) {
			asked.Store(0)
			f := finder{nodes: &nodes{}, upstream: waysTo(t, []string{broker}, transport, nil)()}
			defer f.upstream.close()
			for range 2 {
				if _, err := f.find(t.Context(), 5); !errors.Is(err, errNeedsCredentials) {
					t.Errorf("%s: %v, want that the cluster wants credentials", how, err)
				}
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("%s: asked %d times, want once", how, n)
			}
		})
	}
}

// What breaks on the way to a broker says nothing of the broker.
func TestWhatLooksLikeALogin(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{io.EOF, true}, {&tunnel.Error{Code: tunnel.CodeBroker}, true}, {tunnel.ErrCut, false}, {io.ErrUnexpectedEOF, false},
		{&tunnel.Error{Code: tunnel.CodeDial}, false}, {&tunnel.Error{Code: tunnel.CodeDraining}, false},
	} {
		if got := ClosedUnanswered(test.err); got != test.want {
			t.Errorf("ClosedUnanswered(%v) = %t", test.err, got)
		}
	}
}

// The one who asks for the brokers takes no answer for another's.
func TestAResponseToAnotherRequestIsAnError(t *testing.T) {
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id+1, 1) }))
	c, err := net.Dial("tcp", broker)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, brokers, err := AskForBrokers(t.Context(), c, "test"); err == nil {
		t.Errorf("brokers %v, want an error", brokers)
	}
}
