package proxy

import (
	"context"
	"net"

	"github.com/culvert-proxy/culvert/protocol"
)

// conn is one Kafka connection: requests flow from near to far, responses back,
// each in a goroutine of its own. The two share what is in flight, and ending,
// which they tell when they are over and which alone closes near and far.
type conn struct {
	*connSettings
	near, far *source // towards the client, and towards the broker
	requests  *requests
	responses *responses
	ending    *ending
}

// newConn returns the connection of a client, which near leads to.
func newConn(near net.Conn, s connSettings) *conn {
	n, f, q := &source{Conn: near}, &source{}, newInflight()
	e := newEnding(n, f, q)
	return &conn{
		connSettings: &s, near: n, far: f, ending: e,
		requests:  &requests{connSettings: &s, near: n, far: f, flow: protocol.NewFlow(n, f), inflight: q, ending: e},
		responses: &responses{connSettings: &s, near: n, far: f, inflight: q, ending: e},
	}
}

// connect says which connection leads to the broker. It comes before run and cut.
func (c *conn) connect(far net.Conn) { c.far.Conn = far }

// run relays until both directions have ended, or ctx, closes both sides, and
// reports how it ended.
func (c *conn) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { c.cut(context.Cause(ctx)) })()
	err := c.requests.relaySent()
	go c.responses.run()
	if err == nil {
		err = c.requests.relay()
	}
	c.requests.end(err)
	c.ending.close()
	c.report.closed(c.ending.why())
}

// drain ends the connection after the request that is being read and the
// responses to those in flight.
func (c *conn) drain() { c.ending.drain() }

// cut ends the connection without regard to what is in flight, whatever either
// side is waiting for.
func (c *conn) cut(why error) { c.ending.cut(why) }
