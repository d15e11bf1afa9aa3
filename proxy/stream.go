package proxy

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// lingerTimeout bounds how long a broker may take to read what a client that
// is gone has sent.
const lingerTimeout = 5 * time.Second

// closeWriter is a connection with a half-close: TCP, TLS and tunnel streams.
type closeWriter interface{ CloseWrite() error }

// closeWrite passes a FIN on. Bytes still come the other way.
func closeWrite(c net.Conn) error {
	if cw, ok := c.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}

// reset ends a connection so that its peer sees a reset and never an end of
// stream: what it has received may be incomplete. why travels with it where c
// is a tunnel stream.
func reset(c net.Conn, why *tunnel.Error) {
	switch c := c.(type) {
	case *tunnel.Conn:
		c.Reset(why)
	case interface{ NetConn() net.Conn }: // TLS
		reset(c.NetConn(), why) // a TLS close would send an alert first: a clean end
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}

// abandon ends the side of the brokers when the client is gone without a FIN.
// What has been written still reaches the broker: records sent with acks=0
// have nobody else to tell of them.
//
// responses is closed when nobody reads from c any more: the broker's answers
// are taken from it until then, so that it comes to the last request.
func abandon(c net.Conn, why *tunnel.Error, responses <-chan struct{}) {
	if t, ok := c.(*tunnel.Conn); ok {
		t.Reset(why) // arrives behind the bytes; the gateway goes on as below
		return
	}
	if closeWrite(c) == nil {
		within(lingerTimeout, responses)
	}
	c.Close()
}

// isTimeout reports whether err is a deadline that passed. ETIMEDOUT, which has
// a Timeout too, is the end of a TCP connection; the next read would find what
// looks like an end in good order.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// within waits for done, for d at most.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
