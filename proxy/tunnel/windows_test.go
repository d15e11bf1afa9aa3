package tunnel

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

func TestWindowsThatAreNotObeyedAreRefusedAtTheStart(t *testing.T) {
	for _, tt := range []struct {
		w   windows
		err string
	}{
		{defaultWindows, ""},
		{windows{streams: 2, stream: 5, connection: 16}, ""},
		{windows{streams: 2, stream: 5, connection: 15}, "2 streams of 5 bytes each exceed three quarters of the 15 bytes of their connection"},
		{windows{streams: 1 << 62, stream: 1 << 62, connection: 1 << 62}, "exceed"},
		{windows{stream: 1, connection: 1}, "no limit on streams"},
		{windows{streams: 1, connection: 1}, "no limit"},
	} {
		err := tt.w.check()
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("check(%+v) = %v, want %q", tt.w, err, tt.err)
		}
	}
	broken := windows{streams: 100, stream: 1 << 20, connection: 1 << 20}
	if err := (&Server{windows: broken}).Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "flow control") {
		t.Errorf("Run = %v, want an error about the windows", err)
	}
	r := newRig(t, "h2", func(r *rig) { r.dialer.windows = broken })
	if _, err := r.dialer.Dial(t.Context(), Open{}, nil); err == nil || !strings.Contains(err.Error(), "flow control") {
		t.Errorf("Dial = %v, want an error about the windows", err)
	}
}

// With little memory, it takes more than a hundred stalled streams to fill it, and still no stalled
// stream holds up its neighbour.
func TestWindowsAreSmallWhereMemoryIsSmall(t *testing.T) {
	for memory, stream := range map[int64]int{0: 4 << 20, 1: 256 << 10, 32 << 20: 256 << 10, 44 << 20: 352 << 10, 256 << 20: 2 << 20, 512 << 20: 4 << 20, 1 << 40: 4 << 20} {
		if w := windowsWithin(memory); w.stream != stream || w.check() != nil {
			t.Errorf("with %d MiB of memory: %+v, want %d bytes per stream: %v", memory>>20, w, stream, w.check())
		}
	}
	r := newRig(t, "h2", func(r *rig) { r.server.Limits.Memory, r.dialer.Memory = 40<<20, 44<<20 })
	r.dial()
	if want := windowsWithin(44 << 20); r.server.w != want || r.dialer.w != want {
		t.Errorf("gateway and agent have the windows %+v and %+v, want %+v", r.server.w, r.dialer.w, want)
	}
}

func TestQUICHasTheWindows(t *testing.T) {
	w := defaultWindows
	c := quicConfig(int64(w.streams), defaultTiming, w)
	if c.MaxIncomingStreams != int64(w.streams) || c.MaxStreamReceiveWindow != uint64(w.stream) || c.InitialConnectionReceiveWindow != uint64(w.connection) {
		t.Errorf("%+v has not the windows %+v", c, w)
	}
}

// Nobody reads the streams of a connection, at either end, except one. That one still works in both
// directions.
func TestStalledStreamsDoNotHoldUpTheirNeighbour(t *testing.T) {
	for _, kind := range []string{"h3", "h2", "h2c"} {
		t.Run(kind, func(t *testing.T) {
			// Small, to save memory, but far beyond net/http's default of 1 MiB per connection.
			w := windows{streams: maxStreams, stream: 256 << 10, connection: 22 << 20}
			r := newRig(t, kind, func(r *rig) {
				r.server.windows, r.dialer.windows = w, w
				r.dialer.Carriers = 1
				r.dialer.timing = defaultTiming
				r.dialer.timing.answer = time.Minute // a busy machine must not cause another connection
				r.dialer.timing.race.Check = 0       // nor must a check
			})
			var stalled sync.WaitGroup
			for range w.streams - 1 {
				c, s := r.dial()
				for _, end := range []*Conn{c, s.Conn} {
					stalled.Go(func() {
						end.SetWriteDeadline(time.Now().Add(2 * time.Second))
						if n, err := end.Write(make([]byte, 16*w.stream)); !exchange.IsTimeout(err) {
							t.Errorf("a stream that nobody reads accepted %d bytes: %v", n, err)
						}
					})
				}
			}
			stalled.Wait()
			c, s := r.dial()
			if n := r.carriers(); n != 1 {
				t.Fatalf("%d connections, want all streams on one", n)
			}
			want := random(8 << 20)
			var both sync.WaitGroup
			for _, ends := range [][2]*Conn{{c, s.Conn}, {s.Conn, c}} {
				from, to := ends[0], ends[1]
				both.Go(func() {
					from.SetWriteDeadline(time.Now().Add(time.Minute))
					from.Write(want)
					from.CloseWrite()
				})
				both.Go(func() {
					to.SetReadDeadline(time.Now().Add(time.Minute))
					if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, want) {
						t.Errorf("next to %d stalled streams: read %d of %d bytes, %v", w.streams-1, len(got), len(want), err)
					}
				})
			}
			both.Wait()
		})
	}
}

// carriers returns how many connections there are that streams share.
func (r *rig) carriers() int {
	h2, _ := r.h2Count()
	r.h3().mu.Lock()
	defer r.h3().mu.Unlock()
	return h2 + len(r.h3().list)
}

// The comment on MaxReceiveBufferPerConnection permits less than 4 MiB; the code of Go 1.26 accepts
// more.
func TestBothEndsAnnounceTheWindowsOverHTTP2(t *testing.T) {
	t.Run("gateway", func(t *testing.T) {
		r := newRig(t, "h2c")
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, http2.ClientPreface)
		f := http2.NewFramer(conn, conn)
		f.WriteSettings()
		got := announced(t, conn, f)
		if got != defaultWindows {
			t.Errorf("the gateway announces %+v, want %+v", got, defaultWindows)
		}
	})
	t.Run("agent", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		r := newRig(t, "h2c", func(r *rig) { r.dialer.URL.Host = ln.Addr().String() })
		go func() {
			if c, err := r.dialer.Dial(t.Context(), Open{}, nil); err == nil {
				c.Close()
			}
		}()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
		got := announced(t, conn, http2.NewFramer(conn, conn))
		got.streams = maxStreams // the agent's own limit, which it need not announce
		if got.check() != nil || got.stream != defaultWindows.stream {
			t.Errorf("the agent announces %+v, want %+v", got, defaultWindows)
		}
	})
}

// announced reads SETTINGS and the WINDOW_UPDATE of the connection.
func announced(t *testing.T, conn net.Conn, f *http2.Framer) (w windows) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for w.stream == 0 || w.connection == 0 {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if frame.IsAck() {
				continue
			}
			stream, _ := frame.Value(http2.SettingInitialWindowSize)
			streams, _ := frame.Value(http2.SettingMaxConcurrentStreams)
			w.stream, w.streams = int(stream), int(streams)
		case *http2.WindowUpdateFrame:
			w.connection = 65535 + int(frame.Increment)
		}
	}
	return w
}
