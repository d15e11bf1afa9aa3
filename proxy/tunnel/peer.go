package tunnel

// headerAuthorization carries the token for the gateway, so that the ingress can use the standard
// Authorization header.
const headerAuthorization = "Culvert-Authorization"

// Peer is the agent that dialled a stream, as far as the gateway knows it.
type Peer struct {
	Identity  string // result of Authenticate
	Grant     any    // result of Grant
	User      string // result of User
	Addr      string // of the agent, or of the ingress in front of the gateway
	Transport string
}

// Forbidden is the error for a peer whose token is valid but who may not connect. It is answered
// with 403 instead of 401.
type Forbidden string

func (f Forbidden) Error() string { return string(f) }
