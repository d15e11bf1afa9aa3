package exchange

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// Types of unidirectional streams in HTTP/3 that both ends may open, RFC 9114 §6.2 and RFC 9204
// §4.2. Each may be opened once.
const (
	streamControl      = 0x00
	streamQPACKEncoder = 0x02
	streamQPACKDecoder = 0x03
)

// Frames on a control stream and the settings that we use, RFC 9114 §7.2 and RFC 9220.
const (
	frameSettings = 0x04
	frameGoaway   = 0x07

	settingMaxHeader       = 0x06
	settingExtendedConnect = 0x08
)

// MaxUniStreams is how many unidirectional streams a peer may open: one of each type.
const MaxUniStreams = 3

// An H3Peer reads what the other end of an HTTP/3 connection sends outside of requests and
// responses. It is our own because http3 does not report a GOAWAY to a caller that opens request
// streams by itself.
type H3Peer struct {
	Conn       *quic.Conn
	OnSettings func(extendedConnect bool) // called once; nil ignores them
	OnGoaway   func()                     // nil ignores it

	seen [streamQPACKDecoder + 1]atomic.Bool // by stream type
}

// Serve reads the peer's unidirectional streams until the connection ends.
func (p *H3Peer) Serve() {
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		s, err := p.Conn.AcceptUniStream(p.Conn.Context())
		if err != nil {
			return
		}
		streams.Go(func() { p.read(s) })
	}
}

// read handles one unidirectional stream. Streams of unknown types are refused and not an error
// (RFC 9114 §6.2).
func (p *H3Peer) read(s *quic.ReceiveStream) {
	r := quicvarint.NewReader(s)
	typ, err := quicvarint.Read(r)
	switch {
	case err != nil:
		return
	case typ != streamControl && typ != streamQPACKEncoder && typ != streamQPACKDecoder:
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeStreamCreationError))
		return
	case p.seen[typ].Swap(true):
		p.end(http3.ErrCodeStreamCreationError, fmt.Sprintf("a second stream of type %d", typ))
	case typ == streamControl:
		p.end(http3.ErrCodeClosedCriticalStream, p.control(r).Error())
	default: // we allow no dynamic table, so the QPACK streams say nothing of use
		skip(r, 1<<62)
	}
}

// end closes the connection, because the peer broke the protocol or closed its control stream.
func (p *H3Peer) end(code http3.ErrCode, reason string) {
	p.Conn.CloseWithError(quic.ApplicationErrorCode(code), reason)
}

// control reads SETTINGS and then waits for GOAWAY. It returns only with an error.
func (p *H3Peer) control(r quicvarint.Reader) error {
	for first := true; ; first = false {
		typ, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		size, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		switch {
		case first != (typ == frameSettings):
			return errors.New("SETTINGS must come first, and only once")
		case first && size > MaxHeader:
			return fmt.Errorf("SETTINGS of %d bytes, limit %d", size, MaxHeader)
		case first:
			err = p.settings(&io.LimitedReader{R: r, N: int64(size)})
		case typ == frameGoaway && p.OnGoaway != nil:
			p.OnGoaway()
			fallthrough
		default:
			err = skip(r, size)
		}
		if err != nil {
			return err
		}
	}
}

// settings reads a SETTINGS frame and looks for SETTINGS_ENABLE_CONNECT_PROTOCOL = 1. We parse it
// ourselves, because http3 exports no function for that; the frame is a sequence of pairs of
// varints.
func (p *H3Peer) settings(frame *io.LimitedReader) error {
	extended := false
	for r := quicvarint.NewReader(frame); frame.N > 0; {
		id, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		value, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		if id == settingExtendedConnect {
			extended = value == 1
		}
	}
	if p.OnSettings != nil {
		p.OnSettings(extended)
	}
	return nil
}

// skip reads and discards n bytes. Its buffer is small because a peer can make it wait.
func skip(r io.Reader, n uint64) error {
	var scratch [256]byte
	for n > 0 {
		k, err := r.Read(scratch[:min(n, uint64(len(scratch)))])
		n -= uint64(k)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// OpenControl opens our control stream and sends SETTINGS. extendedConnect is for the gateway,
// which accepts extended CONNECT (RFC 9220 §3).
func OpenControl(conn *quic.Conn, extendedConnect bool) (*H3Control, error) {
	s, err := conn.OpenUniStream()
	if err != nil {
		return nil, err
	}
	settings := quicvarint.Append([]byte{settingMaxHeader}, MaxHeader)
	if extendedConnect {
		settings = append(settings, settingExtendedConnect, 1)
	}
	_, err = s.Write(append([]byte{streamControl, frameSettings, byte(len(settings))}, settings...))
	return &H3Control{s}, err
}

// An H3Control is our control stream of one connection.
type H3Control struct{ stream *quic.SendStream }

// Goaway tells the peer that requests from next on are not processed, RFC 9114 §5.2.
func (c *H3Control) Goaway(next quic.StreamID) {
	id := quicvarint.Append(nil, uint64(next))
	c.stream.Write(append([]byte{frameGoaway, byte(len(id))}, id...))
}
