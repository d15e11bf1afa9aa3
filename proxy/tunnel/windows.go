package tunnel

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// windows are the flow-control limits of one QUIC or HTTP/2 connection: what its streams can make
// the receiving end hold.
type windows struct {
	streams    int // streams at once
	stream     int // unread bytes per stream
	connection int // unread bytes of all streams together
}

// maxStreams is how many streams share a connection at most. Each of them adds to the credit that
// the connection needs, see windows.check.
const maxStreams = 64

var defaultWindows = windows{
	streams:    maxStreams,
	stream:     4 << 20,   // enough for 84 MB/s at a round trip of 50 ms
	connection: 344 << 20, // this is credit; memory is used only for what nobody reads
}

// windowsWithin returns the windows of an end that may have some bytes of memory in use; 0 means any
// number. With little memory, a stream gets a smaller window, so that it takes many stalled ones to
// use it up: with 64 MiB, of which 44 may be in use, it is 352 KiB, enough for 7 MB/s at a round
// trip of 50 ms.
func windowsWithin(memory int64) windows {
	w := defaultWindows
	if memory > 0 {
		w.stream = int(min(int64(w.stream), max(minStreamWindow, memory/128)))
		w.connection = defaultWindows.connection / defaultWindows.stream * w.stream
	}
	return w
}

// minStreamWindow is enough for 5 MB/s at a round trip of 50 ms.
const minStreamWindow = 256 << 10

// check returns an error if streams that nobody reads could use up the credit of their connection
// and so stall all its other streams. Only three quarters of the credit count, because quic-go
// grants new credit only when a quarter has been read: with 256 MiB for 64 streams of 4 MiB, the
// last stream would stall, because 64 MiB are missing.
func (w windows) check() error {
	switch {
	case w.streams <= 0 || w.stream <= 0:
		return errors.New("flow control: no limit on streams, or on the bytes of one stream")
	case w.connection/4*3/w.streams < w.stream:
		return fmt.Errorf("flow control: %d streams of %d bytes each exceed three quarters of the %d bytes of their connection", w.streams, w.stream, w.connection)
	}
	return nil
}

// h2Config returns the HTTP/2 settings of an end that receives frames of at most maxFrame bytes.
func h2Config(w windows, maxFrame int) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:      w.streams,
		MaxReceiveBufferPerStream: w.stream,
		// More than the field's comment permits; a test checks that it is obeyed.
		MaxReceiveBufferPerConnection: w.connection,
		MaxReadFrameSize:              maxFrame,
		SendPingTimeout:               15 * time.Second,
		PingTimeout:                   10 * time.Second,
		WriteByteTimeout:              20 * time.Second,
	}
}

// firstWindow is the initial window of a stream, in bytes. QUIC enlarges the windows of streams
// that need it.
const firstWindow = 1 << 20

// quicConfig returns the QUIC configuration of an end that accepts incoming streams: a number at
// the gateway, -1 for none at the agent. The connection's window starts at its maximum, so that it
// never limits a stream before the stream's own window does.
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
