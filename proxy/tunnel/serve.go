package tunnel

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// ServeHTTP answers one request. A request that is not for the tunnel is answered with a sentence
// for a human.
//
// Every response to HTTP/1.1 closes its connection. What an intermediary sends after a request
// could contain another request that the intermediary has not seen, with headers that it has not
// checked: after an upgrade that it believes in and we have refused, or where it and we disagree
// about the length of a body (request smuggling).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.init()
	if g := guardOf(r); g != nil {
		g.begin()
		defer g.done()
	}
	h := w.Header()
	h.Set(exchange.HeaderGateway, s.streams.answerToOpen("").Gateway)
	if s.altSvc != "" && r.ProtoMajor < 3 {
		h.Set("Alt-Svc", s.altSvc)
	}
	if r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	switch {
	case !strings.HasSuffix(r.URL.Path, Path):
		refuse(w, http.StatusNotFound, "this is a culvert gateway; its tunnel is at "+Path)
	case r.Header["Origin"] != nil:
		refuse(w, http.StatusForbidden, fmt.Sprintf("a culvert gateway accepts no requests from web pages (Origin: %s)", printable.Text(r.Header.Get("Origin"), 100)))
	default:
		t, ok := transportOf(r)
		switch {
		case !ok:
			allowed := methods(r.ProtoMajor)
			h.Set("Allow", strings.Join(allowed, ", "))
			refuse(w, http.StatusMethodNotAllowed, "this is the tunnel of a culvert gateway; use this URL as the gateway URL of a culvert agent")
		case t.refuse(w, r):
		default:
			s.serveTunnel(w, r, t)
		}
	}
}

// transportOf returns the transport over which a request opens a stream.
func transportOf(r *http.Request) (t transport, ok bool) {
	for _, t := range transports {
		if slices.Contains(t.methods[r.ProtoMajor], r.Method) {
			return t, true
		}
	}
	return transport{}, false
}

// methods returns the methods that open a stream over a version of HTTP.
func methods(major int) (all []string) {
	for _, t := range transports {
		all = append(all, t.methods[major]...)
	}
	return all
}

// countCarrier counts the connection of a request that has authenticated.
func (s *Server) countCarrier(r *http.Request, t transport) {
	if p := quicPeerOf(r.Context()); p != nil {
		s.links.add(t.name, quicLink{p.conn})
		return
	}
	if w := wireOf(r); w != nil {
		if l, ok := w.Conn.(*tcpLink); ok {
			s.links.add(t.name, l)
		}
	}
}

// serveTunnel authenticates a request that opens a stream over t, and serves or refuses it.
func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request, t transport) {
	p := Peer{Addr: r.RemoteAddr, Proxy: proxyOf(r), Forwarded: forwardedFor(r), Transport: t.name}
	if s.User != nil {
		p.User = s.User(r.Header)
	}
	if s.Authenticate != nil {
		var err error
		if p.Identity, err = s.Authenticate(r); err != nil {
			if s.OnRefused != nil {
				s.OnRefused(err, p)
			}
			refused(r.Context())
			status := http.StatusForbidden
			if _, ok := errors.AsType[Forbidden](err); !ok {
				w.Header().Set("WWW-Authenticate", `Bearer realm="culvert"`)
				status = http.StatusUnauthorized
			}
			refuse(w, status, err.Error())
			return
		}
	}
	if s.Grant != nil {
		p.Grant = s.Grant(r)
	}
	if g := guardOf(r); g != nil {
		g.lift()
	}
	authenticated(r.Context())
	s.countCarrier(r, t)
	if s.registry.isDraining() {
		if r.ProtoMajor == 2 {
			w.Header().Set("Connection", "close") // over HTTP/2, net/http sends GOAWAY for this
		}
		refuse(w, http.StatusServiceUnavailable, "this gateway is draining")
		return
	}
	t.serve(s.streams, w, r, p)
}
