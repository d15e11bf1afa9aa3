package tunnel

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
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

// A socket that must not segment sends each packet by itself, and keeps other control messages.
func TestASocketWithoutGSO(t *testing.T) {
	udp := listenUDP(t)
	defer udp.Close()
	var single atomic.Bool
	c := tolerantUDP{udp, &single}
	train := trainMessage(unix.UDP_SEGMENT, 100)
	other := trainMessage(unix.UDP_SEGMENT+10, 7)
	to := udp.LocalAddr().(*net.UDPAddr)
	to.IP = net.IPv4(127, 0, 0, 1)
	for _, split := range []bool{false, true, false} {
		single.Store(split)
		sent := noise(250)
		if n, oobn, err := c.WriteMsgUDP(sent, train, to); n != len(sent) || oobn != len(train) || err != nil {
			t.Errorf("single %v: sent %d and %d bytes, %v", split, n, oobn, err)
		}
		var got []byte
		for _, want := range []int{100, 100, 50} {
			b := make([]byte, 1000)
			n, _, err := udp.ReadFrom(b)
			if n != want || err != nil {
				t.Errorf("single %v: read %d bytes, %v, want %d", split, n, err, want)
			}
			got = append(got, b[:n]...)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("single %v: read something else", split)
		}
	}
	for _, tt := range []struct {
		oob, rest []byte
		size      int
	}{
		{nil, nil, 0}, {other, other, 0}, {train, nil, 100},
		{slices.Concat(other, train), other, 100}, {slices.Concat(train, other), other, 100}, {slices.Concat(other, train, other), slices.Concat(other, other), 100},
		{train[:5], train[:5], 0},
	} {
		if size, rest := segments(tt.oob); size != tt.size || !bytes.Equal(rest, tt.rest) {
			t.Errorf("segments(%x) = %d, %x", tt.oob, size, rest)
		}
	}
}

// Streams go on when their socket stops segmenting.
func TestAStreamGoesOnWithoutGSO(t *testing.T) {
	if underRace {
		t.Skip("quic-go notes without a lock that GSO has failed: run it without -race, as go run ./test/all does")
	}
	r := newRig(t, "h3")
	c, s := r.dial()
	_, try := r.h3().otherSending()
	sent, got := noise(8<<20), make([]byte, 8<<20)
	go c.Write(sent[:4<<20])
	if _, err := io.ReadFull(s, got[:4<<20]); err != nil {
		t.Fatal(err)
	}
	undo := try()
	if how, _ := r.h3().otherSending(); how != "" {
		t.Errorf("there is another way to send: %s", how)
	}
	go c.Write(sent[4<<20:])
	if _, err := io.ReadFull(s, got[4<<20:]); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read something else: %v", err)
	}
	undo()
	if how, _ := r.h3().otherSending(); how != "without GSO" {
		t.Errorf("the other way to send is %q", how)
	}
}
