package tunnel

import (
	"context"
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

// maxUniStreams is how many unidirectional streams the peer may have: one of each type.
const maxUniStreams = 3

// An h3Peer is what the other end of an HTTP/3 connection says beside its requests and answers.
type h3Peer struct {
	conn       *quic.Conn
	onSettings func(extended bool) // called once; nil ignores them
	onGoaway   func()              // nil ignores it

	seen [streamQPACKDecoder + 1]atomic.Bool // by type of stream
}

// accept serves the streams that only the peer sends on, until the connection ends.
func (p *h3Peer) accept() {
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		s, err := p.conn.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		streams.Go(func() { p.read(s) })
	}
}

func (p *h3Peer) read(s *quic.ReceiveStream) {
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

func (p *h3Peer) end(code http3.ErrCode, reason string) {
	p.conn.CloseWithError(quic.ApplicationErrorCode(code), reason)
}

// control reads SETTINGS, and then waits for a GOAWAY. It always returns an error.
func (p *h3Peer) control(r quicvarint.Reader) error {
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
		case first && size > maxHeader:
			return fmt.Errorf("SETTINGS of %d bytes, limit %d", size, maxHeader)
		case first:
			err = p.settings(&io.LimitedReader{R: r, N: int64(size)})
		case typ == frameGoaway && p.onGoaway != nil:
			p.onGoaway()
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
func (p *h3Peer) settings(frame *io.LimitedReader) error {
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
	if p.onSettings != nil {
		p.onSettings(extended)
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

// openControl opens our control stream, with SETTINGS: pairs of identifiers and values.
func openControl(conn *quic.Conn, settings ...uint64) (*quic.SendStream, error) {
	s, err := conn.OpenUniStream()
	if err != nil {
		return nil, err
	}
	var body []byte
	for _, v := range settings {
		body = quicvarint.Append(body, v)
	}
	_, err = s.Write(append([]byte{streamControl, frameSettings, byte(len(body))}, body...))
	return s, err
}
