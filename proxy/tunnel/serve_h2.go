package tunnel

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// describePost sets headers that ask intermediaries not to cache or buffer the response.
func describePost(h http.Header) {
	h.Set("Content-Type", exchange.PostType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
}

// servePost serves a stream for as long as it lasts: net/http ties the bodies to this goroutine.
// Full duplex means that net/http does not read the whole request before it sends the response.
func servePost(s *streamServer, w http.ResponseWriter, r *http.Request, p Peer) {
	answer := http.NewResponseController(w)
	answer.EnableFullDuplex()
	describePost(w.Header())
	w.WriteHeader(http.StatusOK)
	if err := answer.Flush(); err != nil {
		s.log.Debug("response to POST not sent", "err", err, "agent_addr", p.Addr)
		return
	}
	conn := r.Context().Value(connKey{}).(net.Conn)
	over := make(chan bool, 1)
	x := exchange.NewPost(conn.LocalAddr(), conn.RemoteAddr(), func(clean bool) {
		if clean {
			answer.SetWriteDeadline(time.Now().Add(s.t.reset))
		} else {
			answer.SetReadDeadline(aLongTimeAgo)
			answer.SetWriteDeadline(aLongTimeAgo)
		}
		over <- clean
	})
	s.begin(x, p)
	var receiving sync.WaitGroup
	receiving.Go(func() { x.Receive(r.Body) })
	x.Answer(w, answer)
	clean := <-over
	receiving.Wait()
	if !clean {
		panic(http.ErrAbortHandler)
	}
}

// refusePost answers a POST that cannot carry a tunnel, and reports whether it did. A request of
// known length is complete, because something on the way has buffered it; a tunnel needs a request
// that stays open.
func refusePost(w http.ResponseWriter, r *http.Request) (done bool) {
	typ, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case typ != exchange.PostType:
		refuse(w, http.StatusUnsupportedMediaType, "this is the tunnel of a culvert gateway and accepts only POSTs of "+exchange.PostType+"; use this URL as the gateway URL of a culvert agent")
	case r.ContentLength >= 0:
		refuse(w, http.StatusBadRequest, fmt.Sprintf("a tunnel is a POST of unknown length, and this one has %d bytes: something on the way buffers whole requests", r.ContentLength))
	default:
		return false
	}
	return true
}
