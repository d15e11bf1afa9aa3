package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// An end that is told to stop while a request is in flight which the broker
// does not answer resets that connection when its time to drain is over, and
// ends.
func TestDrainEndsWhatIsNotAnswered(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		arrived := make(chan struct{}, 1)
		broker := fakeBroker(t, func(c net.Conn) {
			c.Read(make([]byte, 1))
			arrived <- struct{}{}
			io.Copy(io.Discard, c)
		})
		short := func(a *Agent) { a.DrainTimeout = 50 * time.Millisecond }
		if transport == "direct" {
			path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), short)
			resetByStop(t, path.address, arrived, path.stop)
			return
		}
		gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.DrainTimeout = 50 * time.Millisecond })
		path := startAgent(t, quietUpstream{tunnelTo(t, gateway.address, transport)}, short)
		resetByStop(t, path.address, arrived, gateway.stop)
	})
}

func resetByStop(t *testing.T, address string, arrived <-chan struct{}, stop func()) {
	t.Helper()
	c := dialAgent(t, address)
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	<-arrived
	stop()
	if got, err := io.ReadAll(c); len(got) > 0 || isTimeout(err) {
		t.Errorf("the client read %q, %v, want an end", got, err)
	}
}

// A client that resets while answers are on their way does not keep its
// connection from draining.
func TestDrainDoesNotWaitForAClientThatIsGone(t *testing.T) {
	answer := make(chan struct{})
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte {
		if id == 2 {
			<-answer
		}
		return metadata(id, 1)
	}))
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialAgent(t, path.address)
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	c.Read(make([]byte, 1))
	for id := range int32(5) {
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2+id))
	}
	c.SetLinger(0)
	c.Close()
	time.AfterFunc(50*time.Millisecond, func() { close(answer) })
	path.stop() // fails the test if it takes longer than the drain timeout allows
}
