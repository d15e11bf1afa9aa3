package tunnel

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// controlMessageOf returns a control message.
func controlMessageOf(level, kind int32, value []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(value)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(value)))
	copy(b[unix.CmsgLen(0):], value)
	return b
}

// trainMessage returns a control message of UDP with 16 bits.
func trainMessage(kind int32, value uint16) []byte {
	return controlMessageOf(unix.IPPROTO_UDP, kind, binary.NativeEndian.AppendUint16(nil, value))
}

// A countingBatch counts the system calls that returned something.
type countingBatch struct {
	conn  *ipv4.PacketConn
	calls atomic.Int64
}

func (c *countingBatch) ReadBatch(trains []ipv4.Message, flags int) (int, error) {
	n, err := c.conn.ReadBatch(trains, flags)
	if n > 0 {
		c.calls.Add(1)
	}
	return n, err
}

// receiver returns udp as quic-go reads it, and counts how often that asks the system.
func receiver(t testing.TB, udp *net.UDPConn) (*groUDP, *countingBatch) {
	t.Helper()
	g, ok := receiving(tolerantUDP{UDPConn: udp}).(*groUDP)
	if !ok {
		t.Skip("this kernel does not know UDP_GRO (Linux 5.0 does)")
	}
	counting := &countingBatch{conn: ipv4.NewPacketConn(udp)}
	g.batch = counting
	return g, counting
}

// quicMessages returns messages with buffers of the sizes that quic-go has.
func quicMessages() []ipv4.Message {
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 1452)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

// A datagram is what a test sent, or what it read.
type datagram struct {
	from, data string
	ecn, info  int // info is how many control messages say where it arrived
}

// ecnMessage returns the control message that marks what is sent.
func ecnMessage(to *net.UDPAddr, ecn int) []byte {
	if to.IP.To4() == nil {
		return controlMessageOf(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, uint32(ecn)))
	}
	return controlMessageOf(unix.IPPROTO_IP, unix.IP_TOS, binary.NativeEndian.AppendUint32(nil, uint32(ecn)))
}

// received returns a message as a datagram.
func received(t *testing.T, m *ipv4.Message) datagram {
	t.Helper()
	d := datagram{from: m.Addr.String(), data: string(m.Buffers[0][:m.N])}
	messages, err := unix.ParseSocketControlMessage(m.OOB[:m.NN])
	if err != nil {
		t.Errorf("control messages %x: %v", m.OOB[:m.NN], err)
	}
	for _, c := range messages {
		switch [2]int32{c.Header.Level, c.Header.Type} {
		case [2]int32{unix.IPPROTO_IP, unix.IP_TOS}:
			d.ecn = int(c.Data[0]) & 3
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}:
			d.ecn = int(binary.NativeEndian.Uint32(c.Data)) & 3
		case [2]int32{unix.IPPROTO_IP, unix.IP_PKTINFO}, [2]int32{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}:
			d.info++
		default:
			t.Errorf("a datagram comes with a control message of level %d and type %d", c.Header.Level, c.Header.Type)
		}
	}
	return d
}

// quicOptions sets the options that quic-go sets on a socket.
func quicOptions(t *testing.T, udp *net.UDPConn, unspecified bool) {
	t.Helper()
	options := [][2]int{{unix.IPPROTO_IP, unix.IP_RECVTOS}, {unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS}}
	if unspecified {
		options = append(options, [2]int{unix.IPPROTO_IP, unix.IP_PKTINFO}, [2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO})
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range options {
			unix.SetsockoptInt(int(fd), o[0], o[1], 1) // IPv6 options fail on IPv4 sockets
		}
	})
}

// send sends data to another socket, as a train of datagrams of this size if it is longer.
func send(t testing.TB, from *net.UDPConn, to *net.UDPAddr, data []byte, size, ecn int) (sent []datagram) {
	t.Helper()
	control := ecnMessage(to, ecn)
	if len(data) > size {
		control = append(control, trainMessage(unix.UDP_SEGMENT, uint16(size))...)
	}
	if _, _, err := from.WriteMsgUDP(data, control, to); err != nil {
		t.Fatalf("send %d bytes in datagrams of %d: %v", len(data), size, err)
	}
	for d := range slices.Chunk(data, size) {
		sent = append(sent, datagram{from: from.LocalAddr().String(), data: string(d), ecn: ecn})
	}
	return sent
}

// Trains of several senders, and single datagrams between them, arrive as the datagrams that they
// are: each once, in order, with its sender, its ECN bits and where it arrived.
func TestTrainsAreTakenApart(t *testing.T) {
	for _, tt := range []struct {
		network, listen, to string
		info                int
	}{
		{"udp4", "127.0.0.1", "127.0.0.1", 0}, {"udp4", "0.0.0.0", "127.0.0.1", 1}, {"udp6", "::1", "::1", 0},
		{"udp", "::", "127.0.0.1", 2}, {"udp", "::", "::1", 1},
	} {
		t.Run(tt.network+" at "+tt.listen+" from "+tt.to, func(t *testing.T) {
			udp, err := net.ListenUDP(tt.network, &net.UDPAddr{IP: net.ParseIP(tt.listen)})
			if err != nil {
				t.Skipf("this machine has no %s: %v", tt.network, err)
			}
			defer udp.Close()
			udp.SetReadDeadline(time.Now().Add(time.Minute)) // in case datagrams are lost
			quicOptions(t, udp, net.ParseIP(tt.listen).IsUnspecified())
			g, counting := receiver(t, udp)
			to := &net.UDPAddr{IP: net.ParseIP(tt.to), Port: udp.LocalAddr().(*net.UDPAddr).Port}
			datagrams := 0
			for turn := range 4 {
				var want []datagram
				for sender := range 2 {
					from, err := net.ListenUDP("udp", &net.UDPAddr{IP: to.IP})
					if err != nil {
						t.Fatal(err)
					}
					defer from.Close()
					for i, train := range [][2]int{{1200, 16800}, {1452, 20000}, {700, 300}, {1, 50}, {1400, 1401}, {1000, 44000}} {
						data := noise(train[1] + turn)[turn:]
						want = append(want, send(t, from, to, data, train[0], (i+sender+turn)%4)...)
					}
				}
				ms := quicMessages()
				for len(want) > 0 {
					n, err := g.ReadBatch(ms, 0)
					if err != nil || n == 0 {
						t.Fatalf("ReadBatch: %d, %v, with %d datagrams to come", n, err, len(want))
					}
					for i := range n {
						want[0].info = tt.info
						if got := received(t, &ms[i]); !sameDatagram(got, want[0]) {
							t.Fatalf("got %d bytes from %s with ECN %d and %d infos, want %d from %s with %d and %d",
								len(got.data), got.from, got.ecn, got.info, len(want[0].data), want[0].from, want[0].ecn, want[0].info)
						}
						want = want[1:]
					}
					datagrams += n
				}
			}
			if calls := int(counting.calls.Load()); calls > datagrams/16 {
				t.Errorf("%d system calls for %d datagrams", calls, datagrams)
			}
		})
	}
}

// sameDatagram compares addresses as netip does: a socket for both families calls 127.0.0.1
// ::ffff:127.0.0.1 in places.
func sameDatagram(a, b datagram) bool {
	from := func(s string) netip.AddrPort {
		p := netip.MustParseAddrPort(s)
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return a.data == b.data && a.ecn == b.ecn && a.info == b.info && from(a.from) == from(b.from)
}

// What quic-go has no room for is cut off, as the system does, and an empty datagram is one too.
func TestUnusualDatagrams(t *testing.T) {
	udp := listenUDP(t)
	defer udp.Close()
	udp.SetReadDeadline(time.Now().Add(time.Minute))
	g, _ := receiver(t, udp)
	to := udp.LocalAddr().(*net.UDPAddr)
	for _, size := range []int{0, 1, 1452, 1453, 9000, 65507} {
		if _, err := udp.WriteTo(noise(size), to); err != nil {
			t.Fatal(err)
		}
		ms := quicMessages()
		n, err := g.ReadBatch(ms, 0)
		if want := noise(size)[:min(size, 1452)]; n != 1 || err != nil || !bytes.Equal(ms[0].Buffers[0][:ms[0].N], want) {
			t.Errorf("%d bytes: ReadBatch returned %d, %v, and %d bytes", size, n, err, ms[0].N)
		}
	}
}

// A socket that takes no UDP_GRO is read as before; here, because it is closed.
func TestASocketWithoutGRO(t *testing.T) {
	udp := listenUDP(t)
	udp.Close()
	if c, ok := receiving(tolerantUDP{UDPConn: udp}).(tolerantUDP); !ok {
		t.Errorf("receiving returned %T", c)
	}
}

func TestAllocationsPerDatagram(t *testing.T) {
	udp := listenUDP(t)
	defer udp.Close()
	udp.SetReadDeadline(time.Now().Add(time.Minute))
	g, _ := receiver(t, udp)
	to, ms := udp.LocalAddr().(*net.UDPAddr), quicMessages()
	control := trainMessage(unix.UDP_SEGMENT, 1400)
	const datagrams = 14
	data := noise(datagrams * 1400)
	allocations := testing.AllocsPerRun(100, func() {
		udp.WriteMsgUDP(data, control, to)
		for got := 0; got < datagrams; {
			n, err := g.ReadBatch(ms, 0)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	})
	if perDatagram := allocations / datagrams; perDatagram > 0.5 {
		t.Errorf("%.2f allocations for each datagram", perDatagram)
	}
}

// In bulk, both ends of h3 read several datagrams with each system call. Without trains it is at
// most eight, and here one or two.
func TestBulkIsReadInTrains(t *testing.T) {
	r := newRig(t, "h3")
	udp := listenUDP(t)
	g, counting := receiver(t, udp)
	r.h3().sockets.current = &udpSocket{tr: &quic.Transport{Conn: g}}
	c, s := r.dial()
	before := counting.calls.Load()
	sent, got := noise(16<<20), make([]byte, 16<<20)
	go s.Write(sent)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("read something else: %v", err)
	}
	const datagrams = 16 << 20 / 1452
	if calls := counting.calls.Load() - before; calls > datagrams/8 {
		t.Errorf("%d system calls for %d datagrams or more", calls, datagrams)
	}
}

// Whatever the kernel says of a message, taking it apart loses and repeats nothing, and ends.
func FuzzTrain(f *testing.F) {
	gro := func(size uint32) []byte {
		return controlMessageOf(unix.IPPROTO_UDP, unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, size))
	}
	tos := controlMessageOf(unix.IPPROTO_IP, unix.IP_TOS, []byte{2})
	f.Add(noise(5000), slices.Concat(tos, gro(1200))) // a train, and what else comes with it
	f.Add(noise(100), tos)                            // a single datagram
	f.Add(noise(100), gro(0))                         // no size
	f.Add(noise(100), gro(1<<31))                     // a negative one
	f.Add(noise(100), slices.Concat(gro(7), gro(9)))  // two
	f.Add([]byte{}, gro(10))                          // nothing in it
	f.Add(noise(100), gro(10)[:18])                   // cut off
	f.Fuzz(func(t *testing.T, data, control []byte) {
		kept := len(control)
		train := newTrain(data, slices.Clone(control))
		if len(train.control) > kept {
			t.Errorf("%d bytes of control messages became %d", kept, len(train.control))
		}
		var got []byte
		for n := 0; ; n++ {
			d := train.next()
			got = append(got, d...)
			if train.end() {
				break
			}
			if len(d) != train.size {
				t.Fatalf("datagram %d has %d bytes, want %d", n, len(d), train.size)
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes became %d", len(data), len(got))
		}
	})
}
