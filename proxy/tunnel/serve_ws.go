package tunnel

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// refuseWS answers a GET that does not ask for a WebSocket, and reports whether it did.
func refuseWS(w http.ResponseWriter, r *http.Request) (done bool) {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && r.ProtoAtLeast(1, 1) {
		return false
	}
	w.Header().Set("Upgrade", "websocket")
	w.Header().Add("Connection", "Upgrade")
	sentence := "this is the tunnel of a culvert gateway; use this URL as the gateway URL of a culvert agent. If an agent sent this, something on the way removed its Upgrade header"
	if !r.ProtoAtLeast(1, 1) {
		sentence += ", because it speaks HTTP/1.0 to the gateway: in nginx, set proxy_http_version 1.1 and pass Upgrade and Connection on"
	}
	refuse(w, http.StatusUpgradeRequired, sentence)
	return true
}

// serveWS hands the stream to a goroutine of its own: net/http's would keep its buffers and the
// request alive as long as the stream.
func serveWS(s *streamServer, w http.ResponseWriter, r *http.Request, p Peer) {
	up := ws.HTTPUpgrader{
		Timeout:  s.t.handshake,
		Header:   http.Header{exchange.HeaderGateway: w.Header()[exchange.HeaderGateway]},
		Protocol: func(name string) bool { return name == exchange.WSProtocol },
	}
	conn, rw, _, err := up.Upgrade(r, w)
	if err != nil {
		s.log.Debug("websocket refused", "err", err, "agent_addr", p.Addr)
		if conn != nil {
			conn.Close()
		}
		return
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	s.begin(exchange.NewWS(wireOf(r), conn, false, bytes.Clone(early)), p)
}
