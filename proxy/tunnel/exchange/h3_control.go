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

// The types of unidirectional streams in HTTP/3 that both ends may open, RFC 9114 §6.2 and RFC 9204 §4.2. Each comes once.
const (
	streamControl      = 0x00
	streamQPACKEncoder = 0x02
	streamQPACKDecoder = 0x03
)

// Frames of a control stream, and the settings that we know, RFC 9114 §7.2, RFC 9220.
const (
	frameSettings = 0x04
	frameGoaway   = 0x07

	settingMaxHeader       = 0x06
	settingExtendedConnect = 0x08
)

// MaxUniStreams is how many unidirectional streams the peer may have: one of each type.
const MaxUniStreams = 3

// An H3Peer is what the other end of an HTTP/3 connection says beside its requests and answers.
type H3Peer struct {
	Conn       *quic.Conn
	OnSettings func(extendedConnect bool) // called once; nil ignores them
	OnGoaway   func()                     // nil ignores it

	seen [streamQPACKDecoder + 1]atomic.Bool // by type of stream
}

// Serve reads the streams that only the peer sends on, until the connection ends.
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
	default: // we use no dynamic table
		skip(r, 1<<62)
	}
}

func (p *H3Peer) end(code http3.ErrCode, reason string) {
	p.Conn.CloseWithError(quic.ApplicationErrorCode(code), reason)
}

// control reads SETTINGS, and then waits for a GOAWAY. It always returns an error.
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
			return errors.New("SETTINGS must come first, and once")
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

// settings looks for SETTINGS_ENABLE_CONNECT_PROTOCOL = 1.
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

// skip reads n bytes, with a buffer that is small because a peer can make it wait.
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

// OpenControl opens our control stream, with SETTINGS; extendedConnect is for the gateway's end, which takes extended CONNECTs (RFC 9220 §3).
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

// An H3Control is our control stream of a connection.
type H3Control struct{ stream *quic.SendStream }

// Goaway says that requests from next on are not looked at, RFC 9114 §5.2.
func (c *H3Control) Goaway(next quic.StreamID) {
	id := quicvarint.Append(nil, uint64(next))
	c.stream.Write(append([]byte{frameGoaway, byte(len(id))}, id...))
}
