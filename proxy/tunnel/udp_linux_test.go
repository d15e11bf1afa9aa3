package tunnel

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestSmallUDPBuffersAreToldOnce(t *testing.T) {
	for _, tt := range []struct {
		size int
		want string
	}{
		{64 << 10, `level=INFO msg="UDP buffers are smaller than QUIC needs" receive_kib=64 send_kib=64 wanted_kib=7168 ` +
			`hint="sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000"`},
		{4 << 20, ""},
	} {
		udp := listenUDP(t)
		defer udp.Close()
		udp.SetReadBuffer(tt.size)
		udp.SetWriteBuffer(tt.size)
		if granted, _, _ := sizes(udp); granted < tt.size {
			t.Logf("this system grants no buffers of %d bytes", tt.size)
			continue
		}
		var log bytes.Buffer
		var told []int
		var r bufferReport
		for range 2 {
			r.tell(udp, slog.New(slog.NewTextHandler(&log, nil)), func(receive, send int) { told = append(told, receive, send) })
		}
		if len(told) != 2 || told[0] != tt.size || told[1] != tt.size {
			t.Errorf("%d: reported %v", tt.size, told)
		}
		if got := log.String(); strings.Count(got, "\n") != min(1, len(tt.want)) || !strings.Contains(got, tt.want) {
			t.Errorf("%d: logged %q, want %q", tt.size, got, tt.want)
		}
	}
}

func sizes(udp *net.UDPConn) (receive, send int, ok bool) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	return bufferSizes(raw)
}

func TestBothEndsTellOfTheirUDPBuffers(t *testing.T) {
	told := make(chan string, 10)
	tell := func(end string) func(receive, send int) {
		return func(receive, send int) {
			if receive <= 0 || send <= 0 {
				t.Errorf("the %s's buffers have %d and %d bytes", end, receive, send)
			}
			told <- end
		}
	}
	r := newRig(t, "h3", func(r *rig) {
		r.server.OnUDPBuffers, r.dialer.OnUDPBuffers = tell("gateway"), tell("agent")
		r.dialer.Carriers = 2
	})
	r.dial()
	r.dial()
	r.stop()
	close(told)
	ends := map[string]int{}
	for end := range told {
		ends[end]++
	}
	if ends["agent"] != 1 || ends["gateway"] != 1 {
		t.Errorf("reported by %v, want each end once", ends)
	}
}
