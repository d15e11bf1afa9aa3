package tunnel

import (
	"net/http"
	"slices"
	"time"
)

// TransportAuto stands for any transport that works; if several do, for the most preferred one.
const TransportAuto = "auto"

// A transport is one way to carry a stream. It holds what both ends need to know about that way. A
// new transport needs an exchange (package exchange), a pool (pool_*.go), two functions of the
// gateway (serve_*.go) and a row in [transports].
type transport struct {
	name string

	// Used by the agent.
	needsTLS  bool                       // works only with https:// URLs
	overUDP   bool                       // cannot go through a proxy
	headStart func(timing) time.Duration // how long it is tried before less preferred transports start
	newPool   func(*poolEnv) pool
	// What to check when a hello over it gets no answer; "" means there is no specific advice.
	silenceHint string
	// What to check when it is slow or late; "" means the same.
	remedies [3]string
	unfixed  string // when it is slow, and pool.otherSending does not help

	// Used by the gateway.

	// The request methods that open a stream, by major version of HTTP.
	methods map[int][]string
	// Answers a request that has such a method but cannot carry a stream.
	refuse func(http.ResponseWriter, *http.Request) (done bool)
	serve  func(*streamServer, http.ResponseWriter, *http.Request, Peer)
}

// transports are all transports, most preferred first.
var transports = []transport{
	{
		name: TransportH3, needsTLS: true, overUDP: true,
		headStart: func(t timing) time.Duration { return t.h3HeadStart },
		newPool:   func(e *poolEnv) pool { return &h3Pool{env: e} },
		methods:   map[int][]string{3: {http.MethodConnect, http.MethodPost}},
		refuse:    refuseH3,
		serve:     serveH3,
		unfixed:   "does something on the way limit UDP?",
		remedies: [3]string{
			Slow: "is Envoy in front of the gateway? Its UDP listener needs downstream_socket_config: {prefer_gro: true}",
		},
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
		remedies: [3]string{
			Late: "is HAProxy in front of the gateway? It needs option http-no-delay",
		},
		silenceHint: "does something on the way buffer whole request bodies? In nginx, proxy_request_buffering does",
		// An ingress may turn HTTP/2 into HTTP/1.1.
		methods: map[int][]string{2: {http.MethodPost}, 1: {http.MethodPost}},
		refuse:  refusePost,
		serve:   servePost,
	},
}

// Transports returns the names of all transports, most preferred first.
func Transports() (names []string) {
	for _, t := range transports {
		names = append(names, t.name)
	}
	return names
}

// network returns the network of a transport's connections, as package net names it.
func (t transport) network() string {
	if t.overUDP {
		return "udp"
	}
	return "tcp"
}

// Remedy says what a user can do about a fault of a transport, "" if nothing is known.
func Remedy(transport string, f Fault) string {
	t, _ := transportNamed(transport)
	return t.remedies[f]
}

// transportNamed returns the transport with this name; ok is false if there is none.
func transportNamed(name string) (transport, bool) {
	i := slices.IndexFunc(transports, func(t transport) bool { return t.name == name })
	if i < 0 {
		return transport{}, false
	}
	return transports[i], true
}
