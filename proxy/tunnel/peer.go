package tunnel

// headerAuthorization holds the token for the gateway, so that the ingress can have the documented header.
const headerAuthorization = "Culvert-Authorization"

// Peer is who dialled a stream.
type Peer struct {
	Identity  string // what Authenticate said
	Grant     any    // what Grant said
	User      string // what User said
	Addr      string // of the agent, or of the ingress before us
	Transport string
}

// Forbidden is why somebody may not come in whose token is not to blame.
type Forbidden string

func (f Forbidden) Error() string { return string(f) }
