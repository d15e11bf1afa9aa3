package rewrite

import (
	"encoding/binary"
	"io"

	"github.com/culvert-proxy/culvert/protocol"
)

// Rewriter relays responses and replaces the addresses in them. It may be used by many goroutines
// at a time if its Directory may.
type Rewriter struct {
	Directory Directory
	// Caps are the newest versions that ApiVersions responses may offer. Nil means those of
	// [Reviewed].
	Caps *Caps
	// RelayUnknown keeps API keys above [protocol.MaxKey] in ApiVersions responses. It is not known
	// whether their own responses carry addresses.
	RelayUnknown bool
}

// Relay passes the response that is next in f with its addresses replaced. size counts the length
// in front; nothing of the response may have been passed.
//
// An error wraps [ErrUndecodable], or one of the Directory, or is one of f, which may be a timeout.
// The connection must be closed after any of them: a part of the response may have been passed, but
// never an address.
func (w *Rewriter) Relay(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (Result, error) {
	if !Touches(key, version) {
		outcome, err := Pass(f, key, version, size)
		return Result{Outcome: outcome}, err
	}
	c, err := open(f, key, version, size)
	if err != nil {
		return Result{}, err
	}
	if key == protocol.APIVersions {
		return c.relayAPIVersions(w.caps(), w.RelayUnknown)
	}
	return rowOf(key).how.relay(c, w.Directory)
}

func (w *Rewriter) caps() *Caps {
	if w.Caps == nil {
		return new(Reviewed())
	}
	return w.Caps
}

// Brokers returns the brokers that the response next in f names, as [Directory.Learn] gets them,
// and passes nothing. It is for callers that read responses and do not change them. The response
// must be one that names nodes ([Named.Nodes]).
func Brokers(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (clusterID string, brokers []Broker, err error) {
	c, err := open(f, key, version, size)
	if err != nil {
		return "", nil, err
	}
	walk, ok := rowOf(key).how.(learnt)
	if !ok {
		c.fail("names no brokers")
		return "", nil, c.err
	}
	c, found := walk.list(c)
	return found.clusterID, found.brokers(), c.err
}

// open returns a cursor at the body of the response that is next in f.
func open(f *protocol.Flow, key protocol.APIKey, version int16, size int64) (cursor, error) {
	b, err := f.Peek(8, 8)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return cursor{}, err
	}
	c := newCursor(f, size, response{key, version, int32(binary.BigEndian.Uint32(b[4:]))})
	if reviewed.Allow(key, version) {
		c.header()
	} else {
		c.fail("unknown version")
	}
	return c, c.err
}
