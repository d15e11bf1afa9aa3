package rewrite

import (
	"encoding/binary"
	"io"

	"github.com/culvert-proxy/culvert/protocol"
)

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
	c, err := open(f, key, version, size)
	if err != nil {
		return Result{}, err
	}
	if key == protocol.APIVersions {
		return Result{}, c.relayAPIVersions(w.caps(), w.RelayUnknown)
	}
	return rowOf(key).how.relay(c, w.Directory)
}

func (w *Rewriter) caps() *Caps {
	if w.Caps == nil {
		return new(Reviewed())
	}
	return w.Caps
}

// Brokers returns the brokers that the response next in f names, as
// [Directory.Learn] gets them, and passes nothing. It is for those who watch
// and do not rewrite. The response must be one that names nodes
// ([Named.Nodes]).
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
	c, n := walk(c)
	return n.clusterID, n.brokers(), c.err
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
