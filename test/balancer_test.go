package test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// balancer sits in front of several gateways, as kube-proxy does. It does not look into what it
// carries. A new connection goes to any ready gateway. A UDP flow (all packets from one socket)
// stays at one gateway until that is no longer ready; then the flow is cut.
type balancer struct {
	tcp    net.Listener
	udp    *net.UDPConn
	all    sync.WaitGroup
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	ready  []*gateway
	flows  map[netip.AddrPort]*flow
	conns  map[net.Conn]struct{}
}

// flow is a UDP flow.
type flow struct {
	to   *gateway
	conn *net.UDPConn // to the gateway; its own address is that of this flow
}

// newBalancer starts a balancer before gateways, at an address where TCP and UDP are free. It ends
// with the test.
func newBalancer(t *testing.T, listen string, gateways ...*gateway) *balancer {
	t.Helper()
	tcp, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(listen)))
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{tcp: tcp, udp: udp, flows: make(map[netip.AddrPort]*flow), conns: make(map[net.Conn]struct{})}
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(context.Background())
	b.look(ctx, gateways)
	b.all.Go(func() { b.watch(ctx, gateways) })
	b.all.Go(b.carryTCP)
	b.all.Go(b.carryUDP)
	t.Cleanup(b.close)
	return b
}

func (b *balancer) close() {
	b.cancel()
	b.tcp.Close()
	b.udp.Close()
	b.mu.Lock()
	b.closed = true
	for c := range b.conns {
		c.Close()
	}
	for _, f := range b.flows {
		f.conn.Close()
	}
	b.mu.Unlock()
	b.all.Wait()
}

// watch asks five times a second which gateways are ready. So the balancer learns of a change a
// little late, as real ones do.
func (b *balancer) watch(ctx context.Context, gateways []*gateway) {
	for ctx.Err() == nil {
		b.look(ctx, gateways)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *balancer) look(ctx context.Context, gateways []*gateway) {
	var ready []*gateway
	for _, g := range gateways {
		if isReady(ctx, g.admin) {
			ready = append(ready, g)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = ready
	for from, f := range b.flows {
		if !slices.Contains(ready, f.to) {
			f.conn.Close()
			delete(b.flows, from)
		}
	}
}

func isReady(ctx context.Context, admin string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return false
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// pick returns a gateway that was ready when last asked, or nil. The caller holds mu.
func (b *balancer) pick() *gateway {
	if len(b.ready) == 0 {
		return nil
	}
	return b.ready[rand.N(len(b.ready))]
}

func (b *balancer) carryTCP() {
	for {
		near, err := b.tcp.Accept()
		if err != nil {
			return
		}
		b.all.Go(func() { b.carryConn(near.(*net.TCPConn)) })
	}
}

func (b *balancer) carryConn(near *net.TCPConn) {
	if !b.add(near) {
		return
	}
	defer b.remove(near)
	b.mu.Lock()
	to := b.pick()
	b.mu.Unlock()
	if to == nil {
		near.SetLinger(0)
		return
	}
	c, err := net.Dial("tcp", to.listen)
	if err != nil {
		near.SetLinger(0)
		return
	}
	far := c.(*net.TCPConn)
	if !b.add(far) {
		return
	}
	defer b.remove(far)
	var both sync.WaitGroup
	both.Go(func() { copyTCP(far, near) })
	both.Go(func() { copyTCP(near, far) })
	both.Wait()
}

// copyTCP passes on an orderly end as an end, and a reset as a reset.
func copyTCP(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil && !errors.Is(err, net.ErrClosed) {
		to.SetLinger(0)
		to.Close()
		from.SetLinger(0)
		from.Close()
		return
	}
	to.CloseWrite()
}

// add reports false, and closes c, when the balancer is closed.
func (b *balancer) add(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		c.Close()
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *balancer) remove(c net.Conn) {
	c.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

func (b *balancer) carryUDP() {
	packet := make([]byte, 64<<10)
	for {
		n, from, err := b.udp.ReadFromUDPAddrPort(packet)
		if err != nil {
			return
		}
		if f := b.flow(from); f != nil {
			f.conn.Write(packet[:n])
		}
	}
}

// flow returns the flow of a socket. If the last one was cut, it opens one to another gateway.
func (b *balancer) flow(from netip.AddrPort) *flow {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.flows[from]; f != nil {
		return f
	}
	to := b.pick()
	if to == nil || b.closed {
		return nil
	}
	c, err := net.Dial("udp", to.listen)
	if err != nil {
		return nil
	}
	f := &flow{to, c.(*net.UDPConn)}
	b.flows[from] = f
	b.all.Go(func() { b.carryBack(f, from) })
	return f
}

func (b *balancer) carryBack(f *flow, to netip.AddrPort) {
	packet := make([]byte, 64<<10)
	for {
		n, err := f.conn.Read(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if n > 0 {
			b.udp.WriteToUDPAddrPort(packet[:n], to)
		}
	}
}
