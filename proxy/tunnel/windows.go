package tunnel

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// windows are what the streams of one connection, of QUIC or HTTP/2, may make the end hold that receives them.
type windows struct {
	streams    int // at once
	stream     int // bytes of one stream that nobody has read yet
	connection int // bytes of all of them
}

// maxStreams is how many streams share a connection.
const maxStreams = 64

var defaultWindows = windows{
	streams:    maxStreams,
	stream:     4 << 20,   // 84 MB/s at 50 ms
	connection: 344 << 20, // credit, not memory
}

// check reports that a few streams which nobody reads could use up the credit of their connection, so that every other stream of it would
// stand still. A quarter of that credit does not count: quic-go gives none back before as much has been read, so that with 256 MiB for 64
// streams of 4 MiB the last of them would stand still for the want of 64.
func (w windows) check() error {
	switch {
	case w.streams <= 0 || w.stream <= 0:
		return errors.New("flow control: no limit for streams, or for what one of them may send")
	case w.connection/4*3/w.streams < w.stream:
		return fmt.Errorf("flow control: %d streams of %d bytes each exceed three quarters of the %d bytes of their connection", w.streams, w.stream, w.connection)
	}
	return nil
}

// h2Config is for the end that receives frames of at most maxFrame bytes.
func h2Config(w windows, maxFrame int) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          w.streams,
		MaxReceiveBufferPerStream:     w.stream,
		MaxReceiveBufferPerConnection: w.connection, // beyond what the field's comment permits; a test sees it obeyed
		MaxReadFrameSize:              maxFrame,
		SendPingTimeout:               15 * time.Second,
		PingTimeout:                   10 * time.Second,
		WriteByteTimeout:              20 * time.Second,
	}
}

// firstWindow is the window that a stream begins with. QUIC enlarges those that are used.
const firstWindow = 1 << 20

func quicConfig(incoming int64, t timing, w windows) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 t.quicIdle,
		KeepAlivePeriod:                t.quicKeepalive,
		InitialStreamReceiveWindow:     uint64(min(firstWindow, w.stream)),
		MaxStreamReceiveWindow:         uint64(w.stream),
		InitialConnectionReceiveWindow: uint64(w.connection),
		MaxConnectionReceiveWindow:     uint64(w.connection),
		MaxIncomingStreams:             incoming,
		MaxIncomingUniStreams:          exchange.MaxUniStreams,
		InitialPacketSize:              packetSize,
	}
}
