package netns

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultQueue = 256 << 10

	// txQueue is how many packets the kernel queues for this process. The default of 500 loses
	// packets when this process is late.
	txQueue = 20000

	// maxPacket is the largest MTU.
	maxPacket = 9000

	// batch is how many packets are read before due ones are written.
	batch = 64
)

// link carries packets between two TUN devices, one in each namespace.
type link struct {
	ways    [2]*way
	quit    int // closing it ends the ways
	running sync.WaitGroup
}

func newLink(cfg Link, client, router *Namespace) (*link, error) {
	var quit [2]int // a pipe
	if err := unix.Pipe2(quit[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	near, err := client.tun(uplink)
	if err != nil {
		return nil, err
	}
	far, err := router.tun(toClient)
	if err != nil {
		return nil, err
	}
	l := &link{quit: quit[1], ways: [2]*way{newWay(cfg, 0, near, far, quit[0]), newWay(cfg, 1, far, near, quit[0])}}
	for _, w := range l.ways {
		l.running.Go(w.run)
	}
	return l, nil
}

func (l *link) close() {
	unix.Close(l.quit)
	l.running.Wait()
	for _, fd := range []int{l.ways[0].quit, l.ways[0].from, l.ways[0].to} {
		unix.Close(fd)
	}
}

func (l *link) lost() (lost, of int64) {
	for _, w := range l.ways {
		lost += w.lost.Load()
		of += w.taken.Load()
	}
	return lost, of
}

// tun makes a TUN device in the namespace and returns its file descriptor.
func (ns *Namespace) tun(name string) (fd int, err error) {
	err = ns.Do(func() error {
		fd, err = openTUN(name)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("make the device %s: %w", name, err)
	}
	return fd, ns.ip(fmt.Sprintf("link set dev %s txqueuelen %d", name, txQueue))
}

func openTUN(name string) (fd int, err error) {
	if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return 0, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// way is one direction of a link. Its fields belong to run.
type way struct {
	Link
	from, to, quit int
	start          time.Time
	random         *rand.Rand
	flying         []packet      // in the order in which they are due
	free           time.Duration // when the link has sent its queue
	spare          [][]byte      // buffers

	taken, lost atomic.Int64
}

func newWay(cfg Link, n uint64, from, to, quit int) *way {
	if cfg.Queue == 0 {
		cfg.Queue = defaultQueue
	}
	return &way{Link: cfg, from: from, to: to, quit: quit, start: time.Now(), random: rand.New(rand.NewPCG(cfg.Seed, n))}
}

// packet must be delivered at a time relative to way.start.
type packet struct {
	data []byte
	due  time.Duration
}

// run carries packets until quit.
func (w *way) run() {
	for w.wait() {
		now := time.Since(w.start)
		w.take(now)
		w.deliver(now)
	}
}

// wait waits for a packet to take or to deliver, and returns false at the end. A thread in ppoll
// wakes up within a tenth of a millisecond; Go's timers can take more than one.
func (w *way) wait() bool {
	fds := []unix.PollFd{{Fd: int32(w.quit), Events: unix.POLLIN}, {Fd: int32(w.from), Events: unix.POLLIN}}
	var timeout *unix.Timespec
	if len(w.flying) > 0 {
		t := unix.NsecToTimespec(int64(max(0, w.flying[0].due-time.Since(w.start))))
		timeout = &t
	}
	_, err := unix.Ppoll(fds, timeout, nil)
	return fds[0].Revents == 0 && (err == nil || err == unix.EINTR)
}

// take reads the packets that have come.
func (w *way) take(now time.Duration) {
	for range batch {
		buffer := w.buffer()
		n, err := unix.Read(w.from, buffer)
		if err != nil {
			w.spare = append(w.spare, buffer)
			return
		}
		w.taken.Add(1)
		due, lost := w.fate(n, now)
		if lost {
			w.lost.Add(1)
			w.spare = append(w.spare, buffer)
			continue
		}
		w.flying = append(w.flying, packet{buffer[:n], due})
	}
}

// fate decides when a packet is delivered, or that it is lost.
func (w *way) fate(size int, now time.Duration) (due time.Duration, lost bool) {
	if w.Loss > 0 && w.random.Float64() < w.Loss {
		return 0, true
	}
	if w.Rate == 0 {
		return now + w.Delay, false
	}
	free := max(now, w.free)
	if waiting := (free - now).Seconds() * float64(w.Rate); waiting > float64(w.Queue) {
		return 0, true
	}
	w.free = free + time.Duration(float64(size)/float64(w.Rate)*float64(time.Second))
	return w.free + w.Delay, false
}

// deliver writes the packets that are due. Those that the kernel does not accept are lost.
func (w *way) deliver(now time.Duration) {
	n := 0
	for n < len(w.flying) && w.flying[n].due <= now {
		p := w.flying[n]
		if _, err := unix.Write(w.to, p.data); err != nil {
			w.lost.Add(1)
		}
		w.spare = append(w.spare, p.data[:cap(p.data)])
		n++
	}
	w.flying = w.flying[n:]
}

func (w *way) buffer() []byte {
	if n := len(w.spare); n > 0 {
		b := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return b
	}
	return make([]byte, maxPacket)
}
