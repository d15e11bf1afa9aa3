package tunnel

import (
	"encoding/binary"
	"net"
	"slices"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// trainBytes is the size of a buffer for one train, in bytes. The kernel silently cuts off what
	// does not fit, and a train can be as long as UDP allows.
	trainBytes = 64 << 10

	// trainsPerRead is how many trains one system call may return. Together with trainBytes it
	// bounds the buffers of a socket: 256 KiB.
	trainsPerRead = 4

	// trainControlBytes is room for the control messages of a train, in bytes. quic-go's buffers
	// have 128 bytes, and the train's own message needs 24 more.
	trainControlBytes = 192
)

// A groUDP is a UDP socket from which the kernel hands out trains: consecutive datagrams of one
// sender in one buffer, all of the same length but the last (UDP_GRO). It takes them apart again for
// quic-go. The kernel passes a train that was sent as one (GSO) through loopback as a whole, and a
// network card's driver may put datagrams together (GRO).
//
// Datagrams must be read by ReadBatch only, and by one goroutine at a time.
type groUDP struct {
	tolerantUDP
	batch interface {
		ReadBatch(trains []ipv4.Message, flags int) (int, error)
	}

	// Owned by ReadBatch.
	buffers []ipv4.Message
	trains  []ipv4.Message // of buffers: those with datagrams left; the first may be taken in part
	rest    train          // of trains[0]
}

// receiving returns c with UDP_GRO, or as it is if the kernel does not know that.
func receiving(c tolerantUDP) net.PacketConn {
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	var unknown error
	err = raw.Control(func(fd uintptr) {
		unknown = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
	if err != nil || unknown != nil {
		return c
	}
	g := &groUDP{tolerantUDP: c, batch: ipv4.NewPacketConn(c.UDPConn), buffers: make([]ipv4.Message, trainsPerRead)}
	for i := range g.buffers {
		g.buffers[i].Buffers = [][]byte{make([]byte, trainBytes)}
		g.buffers[i].OOB = make([]byte, trainControlBytes)
	}
	return g
}

// ReadBatch is what quic-go calls to receive packets. It fills each message with one datagram, and
// with the source address and the control messages of its train.
func (g *groUDP) ReadBatch(ms []ipv4.Message, flags int) (n int, err error) {
	if len(g.trains) == 0 {
		read, err := g.batch.ReadBatch(g.buffers, flags)
		if err != nil {
			return 0, err
		}
		g.open(g.buffers[:read])
	}
	for n < len(ms) && len(g.trains) > 0 {
		m := &ms[n]
		m.N = copy(m.Buffers[0], g.rest.next())
		m.NN = copy(m.OOB, g.rest.control)
		m.Addr = g.trains[0].Addr
		n++
		if g.rest.end() {
			g.open(g.trains[1:])
		}
	}
	return n, nil
}

// open makes trains those with datagrams left.
func (g *groUDP) open(trains []ipv4.Message) {
	g.trains = trains
	if len(trains) > 0 {
		m := &trains[0]
		g.rest = newTrain(m.Buffers[0][:m.N], m.OOB[:m.NN])
	}
}

// A train is what is left of consecutive datagrams.
type train struct {
	data    []byte
	size    int    // of each datagram but the last
	control []byte // of each datagram
}

// newTrain returns what the kernel read as one message. It overwrites control.
func newTrain(data, control []byte) train {
	t := train{data: data, size: len(data), control: control}
	at, length, value, ok := controlMessage(control, unix.UDP_GRO)
	if !ok {
		return t
	}
	if len(value) == 4 { // an int
		if size := int(binary.NativeEndian.Uint32(value)); size > 0 {
			t.size = min(size, len(data))
		}
	}
	t.control = slices.Delete(control, at, at+length)
	return t
}

// next takes off the next datagram.
func (t *train) next() []byte {
	n := min(t.size, len(t.data))
	datagram := t.data[:n]
	t.data = t.data[n:]
	return datagram
}

func (t *train) end() bool { return len(t.data) == 0 }

// controlMessage looks for a control message of UDP: where it is, how much room it takes, and its
// value.
func controlMessage(control []byte, kind int32) (at, length int, value []byte, ok bool) {
	for at < len(control) {
		h, value, after, err := unix.ParseOneSocketControlMessage(control[at:])
		if err != nil {
			return 0, 0, nil, false
		}
		length := len(control) - at - len(after)
		if h.Level == unix.IPPROTO_UDP && h.Type == kind {
			return at, length, value, true
		}
		at += length
	}
	return 0, 0, nil, false
}
