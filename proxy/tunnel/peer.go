package tunnel

import (
	"net/http"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// headerAuthorization carries the token for the gateway, so that the ingress can use the standard
// Authorization header.
const headerAuthorization = "Culvert-Authorization"

// Peer is the agent that dialled a stream, as far as the gateway knows it.
type Peer struct {
	Identity  string // result of Authenticate
	Grant     any    // result of Grant
	User      string // result of User
	Addr      string // of the agent, or of the ingress in front of the gateway
	Proxy     string // of the load balancer that named Addr in a PROXY header; "" if none did
	Forwarded string // X-Forwarded-For of the request: anybody may have written it
	Transport string
}

// Forbidden is the error for a peer whose token is valid but who may not connect. It is answered
// with 403 instead of 401.
type Forbidden string

func (f Forbidden) Error() string { return string(f) }

// headerForwardedFor is where an ingress says from whom it has a request. Clients can write it too,
// so nothing is decided by it.
const headerForwardedFor = "X-Forwarded-For"

// forwardedFor returns the addresses in the header, bounded and printable.
func forwardedFor(r *http.Request) string {
	return printable.Text(strings.Join(r.Header.Values(headerForwardedFor), ", "), printable.Name)
}
