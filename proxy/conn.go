package proxy

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"

	"github.com/culvert-proxy/culvert/protocol"
)

// conn is one Kafka connection, at an agent or a gateway. Requests flow from near to far in the
// goroutine that calls run, responses from far to near in a second one, which run starts and waits
// for. Both directions share inflight and ending. Each tells ending how it ended, and only ending
// closes near and far.
type conn struct {
	*connSettings
	near, far *source // the client's side, and the broker's side
	requests  *requests
	responses *responses
	ending    *ending
}

// newConn returns a connection with its client's side only. connect adds the broker's.
func newConn(near net.Conn, s connSettings) *conn {
	n, f, q := &source{Conn: near}, &source{}, newInflight(s.report.metrics)
	e := newEnding(n, f, q)
	return &conn{
		connSettings: &s, near: n, far: f, ending: e,
		requests:  &requests{connSettings: &s, near: n, far: f, flow: protocol.NewFlow(n, f), inflight: q, ending: e},
		responses: &responses{connSettings: &s, near: n, far: f, inflight: q, ending: e},
	}
}

// connect sets the connection to the broker. It must be called before run and cut.
func (c *conn) connect(far net.Conn) { c.far.Conn = far }

// run relays until both directions have ended or ctx is done. Then it closes both sides, and counts
// and logs how the connection ended.
func (c *conn) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { c.cut(context.Cause(ctx)) })()
	err := c.requests.relaySent()
	go c.responses.run()
	if err == nil {
		err = c.requests.relay()
	}
	c.requests.end(err)
	c.ending.close()
	c.report.closed(c.ending.why(), c.settingNames)
}

// drain ends the connection after the request that is being read, when the responses to all
// requests in flight have been relayed. It does not block.
func (c *conn) drain() { c.ending.drain() }

// cut resets both sides at once. Responses in flight are lost.
func (c *conn) cut(why error) { c.ending.cut(why) }

// onOwnStack calls f on a goroutine of its own, and waits for it. A goroutine keeps the stack that
// its deepest call has needed for as long as it lives. That of a connection lives long, and needs
// less to relay than to dial or for a TLS handshake.
func onOwnStack(f func()) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				panicked = fmt.Sprintf("%v\n%s", v, debug.Stack())
			}
		}()
		f()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
}
