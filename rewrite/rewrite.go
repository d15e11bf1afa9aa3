package rewrite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/culvert-proxy/culvert/protocol"
)

// Broker is a broker as a response names it.
type Broker struct {
	NodeID int32
	Host   string
	Port   int32
}

// Directory says what stands in the place of broker addresses.
type Directory interface {
	// Learn is called once for each Metadata, FindCoordinator and
	// DescribeCluster response, before any byte of it is passed, with the
	// brokers that it names: in its order, without those that have no node id
	// or no host. clusterID is empty where the response has none. An error
	// refuses the response.
	Learn(clusterID string, brokers []Broker) error
	// Local returns the address to write for b, and does nothing else. Where it
	// has none, leader hints are blanked (Produce, Fetch, ShareFetch and
	// ShareAcknowledge), and any other response is refused.
	Local(b Broker) (host string, port int32, ok bool)
}

// Rewriter relays responses and replaces the addresses in them. It may be used
// by many goroutines at a time if its Directory may.
type Rewriter struct {
	Directory Directory
	// Caps are the newest versions that ApiVersions responses may offer. Nil
	// means those of [Reviewed].
	Caps *Caps
	// RelayUnknown keeps API keys above [protocol.MaxKey] in ApiVersions
	// responses. Nobody knows whether their responses carry addresses.
	RelayUnknown bool
}

// Result counts the addresses of one response.
type Result struct {
	Rewritten int // got the address of the Directory, be it the same
	Blanked   int // were leader hints and have been taken out
}

// CarriesAddresses reports whether responses of this version can name the
// addresses of brokers or controllers to a client.
func CarriesAddresses(key protocol.APIKey, version int16) bool {
	switch key {
	case protocol.Metadata, protocol.FindCoordinator, protocol.DescribeCluster,
		protocol.ShareFetch, protocol.ShareAcknowledge:
		return true
	case protocol.Produce:
		return version >= 10 // KIP-951
	case protocol.Fetch:
		return version >= 16 // KIP-951
	case protocol.DescribeQuorum:
		return version >= 2 // KIP-853
	}
	return false
}

// Touches reports whether responses of this version have to go through
// [Rewriter.Relay]: those that carry addresses, and ApiVersions.
func Touches(key protocol.APIKey, version int16) bool {
	return key == protocol.APIVersions || CarriesAddresses(key, version)
}

// response names a response in errors.
type response struct {
	key           protocol.APIKey
	version       int16
	correlationID int32
}

func (r response) String() string {
	return fmt.Sprintf("%s v%d response, correlation id %d", r.key, r.version, r.correlationID)
}

// Relay passes the response that is next in f with its addresses replaced. size
// counts the length in front; nothing of the response may have been passed.
//
// An error wraps [ErrUndecodable], or the Directory's, or is one of f, timeouts
// among them. After any of them the connection is of no more use: part of the
// response may have been passed, but never an address.
func (w *Rewriter) Relay(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (Result, error) {
	if !Touches(key, version) {
		return Result{}, f.PassThrough(size)
	}
	c, r, err := open(f, key, version, size)
	if err != nil {
		return Result{}, err
	}
	res, err := w.relay(&c, r)
	if errors.Is(err, ErrUndecodable) {
		err = fmt.Errorf("decode %s: %w", r, err)
	}
	return res, err
}

// Brokers returns the brokers that the Metadata, FindCoordinator or
// DescribeCluster response next in f names, as [Directory.Learn] gets them, and
// passes nothing. It is for those who watch and do not rewrite.
func Brokers(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (clusterID string, brokers []Broker, err error) {
	c, r, err := open(f, key, version, size)
	if err != nil {
		return "", nil, err
	}
	n, err := c.walkBrokers(r)
	if errors.Is(err, ErrUndecodable) {
		err = fmt.Errorf("decode %s: %w", r, err)
	}
	return n.clusterID, n.brokers(), err
}

// open returns a cursor at the body of the response that is next in f.
func open(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (cursor, response, error) {
	b, err := f.Peek(8, 8)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return cursor{}, response{}, err
	}
	r := response{key, version, int32(binary.BigEndian.Uint32(b[4:]))}
	if !reviewed.Allow(key, version) {
		return cursor{}, r, fmt.Errorf("decode %s: unknown version: %w", r, ErrUndecodable)
	}
	c := newCursor(f, size)
	c.header(key, version)
	return c, r, nil
}

// relay walks over the response, makes the edits that it needs, and passes it.
func (w *Rewriter) relay(c *cursor, r response) (Result, error) {
	switch r.key {
	case protocol.APIVersions:
		return Result{}, w.relayAPIVersions(c, r.version)
	case protocol.DescribeQuorum:
		return relayDescribeQuorum(c)
	case protocol.Produce, protocol.ShareAcknowledge:
		return w.relayHint(c, r)
	case protocol.Fetch, protocol.ShareFetch:
		return w.relayFetch(c, r)
	}
	return w.relayBrokers(c, r)
}
