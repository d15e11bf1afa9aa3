package tunnel

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

const (
	// maxOwn is how many streams get a carrier of their own before they share. One QUIC connection is one congestion window, and quic-go's is
	// NewReno's: at 20 ms and 0.5 % loss one connection per Kafka connection carried 11 MB/s where one per broker carried 4.
	maxOwn = 16

	// maxIdle is how many carriers without streams are kept for longer than timing.idle.
	maxIdle = 2
)

// A carrier is a QUIC connection to the gateway, as an HTTP/3 client has it.
type carrier struct {
	conn     *quic.Conn
	settings chan struct{} // closed when SETTINGS came
	extended bool          // SETTINGS allow extended CONNECT; valid after settings is closed

	// Guarded by carriers.mu.
	streams int
	goaway  bool // takes no new streams
	idle    *time.Timer
}

// carriers are the carriers of a Dialer. They share one UDP socket.
type carriers struct {
	own int // as maxOwn, which 0 means

	mu      sync.Mutex
	tr      *quic.Transport
	list    []*carrier
	dialled int // dials in progress
	tasks   sync.WaitGroup
}

// dialH3 opens a request stream. The request leaves with the first write, and its answer is read by the first read.
func (d *Dialer) dialH3(ctx context.Context) (exchange, error) {
	if d.URL.Scheme != "https" {
		return nil, errors.New("h3 needs an https:// URL")
	}
	header, err := d.header()
	if err != nil {
		return nil, err
	}
	c, err := d.h3.take(ctx, d)
	if err != nil {
		return nil, err
	}
	stream, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		d.h3.free(c, d.t.idle)
		return nil, err
	}
	x := &h3Exchange{stream: stream, ends: stream, conn: c.conn, free: func() { d.h3.free(c, d.t.idle) }}
	x.request = d.request(header)
	x.wrap = func(err error) error {
		if e, ok := errors.AsType[*AnswerError](err); ok {
			e.URL = d.target().String()
		}
		return explain(fmt.Errorf("dial gateway %s over %s: %w", d.addr(), TransportH3, err))
	}
	x.lastByte.Store(clock())
	return x, nil
}

// request is the HEADERS frame of the extended CONNECT.
func (d *Dialer) request(header http.Header) []byte {
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	field := func(name, value string) { enc.WriteField(qpack.HeaderField{Name: name, Value: value}) }
	u := d.target()
	field(":method", http.MethodConnect)
	field(":protocol", h3Protocol)
	field(":scheme", u.Scheme)
	field(":authority", u.Host)
	field(":path", u.EscapedPath())
	for _, name := range slices.Sorted(maps.Keys(header)) {
		field(strings.ToLower(name), header.Get(name))
	}
	frame := appendVarint([]byte{frameHeaders}, uint64(block.Len()))
	return append(frame, block.Bytes()...)
}

// take returns a carrier with room for a stream, and counts that stream: an idle one, a new one until there are maxOwn, the least loaded one,
// or again a new one when all are full.
func (p *carriers) take(ctx context.Context, d *Dialer) (*carrier, error) {
	p.mu.Lock()
	c := p.leastLoaded()
	if c != nil && (c.streams == 0 || len(p.list)+p.dialled >= cmp.Or(p.own, maxOwn)) {
		p.use(c)
		p.mu.Unlock()
		return c, nil
	}
	p.dialled++
	p.mu.Unlock()

	fresh, err := d.dialCarrier(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialled--
	if err == nil {
		p.list = append(p.list, fresh)
		p.use(fresh)
		return fresh, nil
	}
	if c := p.leastLoaded(); c != nil && ctx.Err() == nil {
		p.use(c)
		return c, nil
	}
	return nil, err
}

// leastLoaded forgets the dead, and returns nil when there is no room. The caller holds mu.
func (p *carriers) leastLoaded() *carrier {
	p.list = slices.DeleteFunc(p.list, func(c *carrier) bool { return c.conn.Context().Err() != nil })
	var best *carrier
	for _, c := range p.list {
		if c.streams < maxStreams && !c.goaway && (best == nil || c.streams < best.streams) {
			best = c
		}
	}
	return best
}

func (p *carriers) use(c *carrier) {
	c.streams++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
}

// free takes a stream off a carrier. One that has none left is closed after a while, unless it is one of the few that are kept.
func (p *carriers) free(c *carrier, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	if c.streams > 0 {
		return
	}
	if c.goaway {
		after = 0
	}
	c.idle = time.AfterFunc(after, func() { p.retire(c) })
}

func (p *carriers) retire(c *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	idle := 0
	for _, other := range p.list {
		if other.streams == 0 && !other.goaway {
			idle++
		}
	}
	if c.streams > 0 || c.idle == nil || idle <= maxIdle && !c.goaway {
		return
	}
	p.list = slices.DeleteFunc(p.list, func(other *carrier) bool { return other == c })
	c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func (p *carriers) close() error {
	p.mu.Lock()
	for _, c := range p.list {
		if c.idle != nil {
			c.idle.Stop()
		}
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
	p.list = nil
	tr := p.tr
	p.tr = nil
	p.mu.Unlock()
	p.tasks.Wait()
	if tr == nil {
		return nil
	}
	return errors.Join(tr.Close(), tr.Conn.Close())
}

// transport is the UDP socket.
func (p *carriers) transport() (*quic.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tr != nil {
		return p.tr, nil
	}
	udp, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	p.tr = &quic.Transport{Conn: udp}
	return p.tr, nil
}

// dialCarrier makes a carrier that is ready for requests. It tries the gateway's addresses one after the other.
func (d *Dialer) dialCarrier(ctx context.Context) (*carrier, error) {
	tr, err := d.h3.transport()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(d.addr())
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		addr := &net.UDPAddr{IP: ip.Unmap().AsSlice(), Port: n, Zone: ip.Zone()}
		var c *carrier
		if c, err = d.dialCarrierAt(ctx, tr, addr, len(ips)-i); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// dialCarrierAt spends its share of the time on one of n addresses.
func (d *Dialer) dialCarrierAt(ctx context.Context, tr *quic.Transport, addr *net.UDPAddr, n int) (*carrier, error) {
	if by, ok := ctx.Deadline(); ok && n > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(by)/time.Duration(n))
		defer cancel()
	}
	cfg := d.tls.Clone()
	cfg.NextProtos = []string{http3.NextProtoH3}
	cfg.MinVersion = tls.VersionTLS13
	conn, err := tr.Dial(ctx, addr, cfg, quicConfig(-1))
	if err != nil {
		return nil, fmt.Errorf("QUIC handshake: %w", err)
	}
	c := &carrier{conn: conn, settings: make(chan struct{})}
	if err := d.h3.ready(ctx, c); err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		return nil, err
	}
	return c, nil
}

// ready sends our SETTINGS and waits for the gateway's.
func (p *carriers) ready(ctx context.Context, c *carrier) error {
	control, err := c.conn.OpenUniStream()
	if err != nil {
		return err
	}
	// Stream type "control", and a SETTINGS frame with SETTINGS_MAX_FIELD_SECTION_SIZE.
	settings := quicvarint.Append([]byte{0x06}, maxHeader)
	if _, err := control.Write(append([]byte{0x00, 0x04, byte(len(settings))}, settings...)); err != nil {
		return err
	}
	p.tasks.Go(func() { p.acceptUni(c) })
	select {
	case <-c.settings:
	case <-c.conn.Context().Done():
		return context.Cause(c.conn.Context())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !c.extended {
		return errors.New("what answered speaks HTTP/3 and does not take extended CONNECT")
	}
	return nil
}

// acceptUni serves the streams that only the gateway sends on, until the carrier ends.
func (p *carriers) acceptUni(c *carrier) {
	for {
		s, err := c.conn.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.readUni(c, s) })
	}
}

func (p *carriers) readUni(c *carrier, s *quic.ReceiveStream) {
	r := quicvarint.NewReader(s)
	typ, err := quicvarint.Read(r)
	switch {
	case err != nil:
	case typ == 0x00: // control
		err := p.readControl(c, r)
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeClosedCriticalStream), err.Error())
	case typ == 0x02 || typ == 0x03: // QPACK's: we use no dynamic table
		io.Copy(io.Discard, r)
	default:
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeStreamCreationError))
	}
}

// readControl reads SETTINGS, and then waits for a GOAWAY. It always returns an error.
func (p *carriers) readControl(c *carrier, r quicvarint.Reader) error {
	for first := true; ; first = false {
		typ, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		size, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		body := &io.LimitedReader{R: r, N: int64(size)}
		switch {
		case first != (typ == 0x04):
			return errors.New("SETTINGS must come first, and once")
		case first && size > maxHeader:
			return fmt.Errorf("SETTINGS of %d bytes", size)
		case first:
			if c.extended, err = allowsExtended(quicvarint.NewReader(body)); err != nil {
				return err
			}
			close(c.settings)
		case typ == 0x07: // GOAWAY
			p.leave(c)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
	}
}

// leave puts no more streams on a carrier, and closes it when it has none.
func (p *carriers) leave(c *carrier) {
	p.mu.Lock()
	c.goaway = true
	unused := c.streams == 0
	p.mu.Unlock()
	if unused {
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

// allowsExtended looks for SETTINGS_ENABLE_CONNECT_PROTOCOL = 1.
func allowsExtended(r quicvarint.Reader) (allowed bool, err error) {
	for {
		id, err := quicvarint.Read(r)
		if err == io.EOF {
			return allowed, nil
		}
		if err != nil {
			return false, err
		}
		value, err := quicvarint.Read(r)
		if err != nil {
			return false, err
		}
		if id == 0x08 {
			allowed = value == 1
		}
	}
}
