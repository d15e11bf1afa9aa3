package tunnel

import (
	"net/http"
	"slices"
	"time"
)

// TransportAuto stands for whichever transport works, the best of them if several do.
const TransportAuto = "auto"

// A transport is one way to carry a stream: what both ends need to know of it. A new one needs its exchange (package exchange), its pool
// (pool_*.go), what serves it (serve_*.go) and a row in [transports].
type transport struct {
	name string

	// At the agent's end.
	needsTLS  bool                       // it exists only for https:// URLs
	overUDP   bool                       // no proxy lets it through
	headStart func(timing) time.Duration // for how long nothing that is worse is tried beside it
	newPool   func(*poolEnv) pool
	silence   string // what to look at when a hello over it stays without an answer; "" is nothing in particular

	// At the gateway's end.
	methods map[int][]string                                     // of requests that open a stream, by major version of HTTP
	refuse  func(http.ResponseWriter, *http.Request) (done bool) // answers such a request that cannot carry a stream
	serve   func(*streamServer, http.ResponseWriter, *http.Request, Peer)
}

// transports are all of them, the one that auto prefers first.
var transports = []transport{
	{
		name: TransportH3, needsTLS: true, overUDP: true,
		headStart: func(t timing) time.Duration { return t.h3HeadStart },
		newPool:   func(e *poolEnv) pool { return newH3Pool(e) },
		methods:   map[int][]string{3: {http.MethodConnect, http.MethodPost}},
		refuse:    refuseH3,
		serve:     serveH3,
	},
	{
		name:      TransportWS,
		headStart: func(t timing) time.Duration { return t.headStart },
		newPool:   func(e *poolEnv) pool { return &wsPool{env: e} },
		methods:   map[int][]string{1: {http.MethodGet}},
		refuse:    refuseWS,
		serve:     serveWS,
	},
	{
		name:      TransportH2,
		headStart: func(t timing) time.Duration { return t.headStart },
		newPool:   func(e *poolEnv) pool { return &h2Pool{env: e} },
		silence:   "does something on the way keep a request's body until it is whole? In nginx that is proxy_request_buffering",
		methods:   map[int][]string{2: {http.MethodPost}, 1: {http.MethodPost}}, // front doors make one over HTTP/1.1 of one over HTTP/2
		refuse:    refusePost,
		serve:     servePost,
	},
}

// Transports are the names of all transports, the one that auto prefers first.
func Transports() (names []string) {
	for _, t := range transports {
		names = append(names, t.name)
	}
	return names
}

// transportNamed returns the row of a transport.
func transportNamed(name string) (transport, bool) {
	all := transports
	i := slices.IndexFunc(all, func(t transport) bool { return t.name == name })
	if i < 0 {
		return transport{}, false
	}
	return all[i], true
}
