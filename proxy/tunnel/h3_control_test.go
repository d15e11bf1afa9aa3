package tunnel

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// Types of streams, frames and settings in HTTP/3, RFC 9114 and RFC 9204.
const (
	streamControl, streamQPACKEncoder, streamQPACKDecoder = 0x00, 0x02, 0x03
	frameSettings, frameGoaway                            = 0x04, 0x07
	settingExtendedConnect                                = 0x08
)

// newHostileRig is a rig whose agent connects over HTTP/3 to a hostile gateway: play gets each
// connection.
func newHostileRig(t *testing.T, play func(*quic.Conn)) *rig {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.URL.Host, r.dialer.Transport = udp.LocalAddr().String(), TransportH3
	})
	tr := &quic.Transport{Conn: udp}
	cfg := r.server.TLS.Clone()
	cfg.NextProtos = []string{http3.NextProtoH3}
	ln, err := tr.Listen(cfg, &quic.Config{MaxIncomingUniStreams: 100})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() {
				play(c)
				<-c.Context().Done()
			})
		}
	})
	t.Cleanup(func() {
		r.stop()
		tr.Close()
		udp.Close()
		serving.Wait()
	})
	return r
}

// say sends each argument on a unidirectional stream of its own, and ends none of them.
func say(c *quic.Conn, streams ...[]byte) {
	for _, b := range streams {
		if s, err := c.OpenUniStreamSync(c.Context()); err == nil {
			s.Write(b)
		}
	}
}

// Whatever a gateway sends outside of its responses, the agent accepts it or closes the connection.
func TestNothingThatAGatewaySaysCrashesTheAgent(t *testing.T) {
	settings := []byte{streamControl, frameSettings, 2, settingExtendedConnect, 1}
	huge := quicvarint.Append([]byte{streamControl, frameSettings}, 1<<62-1)
	for name, tt := range map[string]struct {
		streams [][]byte
		why     string
	}{
		"two control streams":       {[][]byte{settings, settings}, "a second stream of type 0"},
		"two encoders":              {[][]byte{{streamQPACKEncoder}, {streamQPACKEncoder}}, "a second stream of type 2"},
		"two decoders":              {[][]byte{{streamQPACKDecoder}, {streamQPACKDecoder}}, "a second stream of type 3"},
		"SETTINGS twice":            {[][]byte{append(bytes.Clone(settings), settings[1:]...)}, "SETTINGS must come first, and only once"},
		"SETTINGS behind GOAWAY":    {[][]byte{{streamControl, frameGoaway, 1, 0}}, "SETTINGS must come first, and only once"},
		"SETTINGS that are cut":     {[][]byte{{streamControl, frameSettings, 1, settingExtendedConnect}}, "EOF"},
		"endless SETTINGS":          {[][]byte{huge}, "SETTINGS of 4611686018427387903 bytes"},
		"a frame that never ends":   {[][]byte{quicvarint.Append(append(bytes.Clone(settings), 0x21), 1<<62-1), {streamControl}}, "a second stream of type 0"},
		"streams of unknown types":  {[][]byte{{0x21}, {0x3f}, settings, {0x40, 0x54}, settings}, "a second stream of type 0"},
		"a push, and a long number": {[][]byte{{0x01, 0}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, settings, settings}, "a second stream of type 0"},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 10)
			r := newHostileRig(t, func(c *quic.Conn) {
				say(c, tt.streams...)
				<-c.Context().Done()
				ended <- context.Cause(c.Context())
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var dialling sync.WaitGroup
			defer dialling.Wait()
			dialling.Go(func() { r.dialer.Dial(ctx, Open{Target: TargetBootstrap}, nil) })
			e, ok := errors.AsType[*quic.ApplicationError](<-ended)
			if !ok || !strings.Contains(e.ErrorMessage, tt.why) {
				t.Errorf("the agent closed with %v, want %q", e, tt.why)
			}
			cancel()
		})
	}
}

// A gateway may open one stream of each type. The size of its responses is bounded before and while
// they are decoded.
func TestAHostileAnswerEndsTheStream(t *testing.T) {
	for name, tt := range map[string]struct {
		answer []byte
		why    string
	}{
		"DATA first":          {[]byte{0x00, 1, 0}, "DATA before HEADERS"},
		"a huge header":       {quicvarint.Append([]byte{0x01}, 1<<62-1), "more than 16384 bytes"},
		"a header that grows": {append(quicvarint.Append([]byte{0x01}, 12002), append([]byte{0, 0}, bytes.Repeat([]byte{0xc0 | 44}, 12000)...)...), "more than 16384 bytes"},
		"a dynamic table":     {[]byte{0x01, 3, 1, 0, 0x80}, "HTTP/3 response"},
		"no status":           {[]byte{0x01, 2, 0, 0}, "no :status"},
		"an empty header":     {[]byte{0x01, 0}, "stream cut"},
		"a long unknown":      {append(quicvarint.Append([]byte{0x21}, 1<<20), make([]byte, 1<<20)...), "stream cut"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newHostileRig(t, func(c *quic.Conn) {
				say(c, []byte{streamControl, frameSettings, 2, settingExtendedConnect, 1})
				for {
					s, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					s.Write(tt.answer)
					s.Close()
				}
			})
			_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("Dial = %v, want %q", err, tt.why)
			}
		})
	}
}
