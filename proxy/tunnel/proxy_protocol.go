package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/pires/go-proxyproto"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// headerBuffer is how many bytes are read at once for a PROXY header. One of version 1 has at most
// 107, and is refused unless it comes in one piece. Of version 2, go-proxyproto takes up to 4 KiB.
const headerBuffer = 256

// proxyHeaders decides about the headers of the PROXY protocol, with which a load balancer says from
// whom it has a TCP connection. A peer in one of the networks must send one; it is believed. One of
// any other peer is refused: its sender could claim any address.
type proxyHeaders struct {
	from    []netip.Prefix
	names   hints.Names
	refused func(error, Peer) // nil: nobody is told
}

// wrap returns a connection that was just accepted.
func (h *proxyHeaders) wrap(c net.Conn) *headedConn { return &headedConn{Conn: c, headers: h} }

// refuse reports why a connection is refused, and returns that.
func (h *proxyHeaders) refuse(c *headedConn, why error) error {
	if h.refused != nil {
		h.refused(why, c.peer())
	}
	return why
}

// A headedConn is a TCP connection that may begin with a PROXY header.
type headedConn struct {
	net.Conn
	headers *proxyHeaders
	client  atomic.Pointer[net.TCPAddr] // that the header names; nil: none

	// Owned by the reader.
	rest   []byte // what came behind the header
	looked bool   // the first bytes after that were looked at
}

// RemoteAddr returns the address that the header names, or that of the peer.
func (c *headedConn) RemoteAddr() net.Addr {
	if a := c.client.Load(); a != nil {
		return a
	}
	return c.Conn.RemoteAddr()
}

// peer returns who has sent the connection, as far as that is known.
func (c *headedConn) peer() Peer {
	return Peer{Addr: c.RemoteAddr().String(), Proxy: c.proxy()}
}

// proxy returns the address of the load balancer that has sent a header which names a client; "" if
// none has.
func (c *headedConn) proxy() string {
	if c.client.Load() == nil {
		return ""
	}
	return c.Conn.RemoteAddr().String()
}

// CloseWrite closes one direction, where there are two.
func (c *headedConn) CloseWrite() error {
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}

// Read refuses a connection that begins with a PROXY header which awaitHeader has not read. Nothing
// would understand the header: this only finds the words for it.
func (c *headedConn) Read(p []byte) (n int, err error) {
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else if n, err = c.Conn.Read(p); n == 0 {
		return 0, err
	}
	if c.looked {
		return n, err
	}
	c.looked = true
	if beginsHeader(p[:n]) {
		err := c.headers.refuse(c, c.unexpected())
		c.Conn.Close() // net/http would answer
		return 0, err
	}
	return n, err
}

// unexpected is the error of a header that nobody has asked for.
func (c *headedConn) unexpected() error {
	if c.client.Load() != nil {
		return fmt.Errorf("load balancer %s sent two PROXY protocol headers", c.Conn.RemoteAddr())
	}
	host := c.host().WithZone("").String() // as the setting takes it
	return hints.New(errors.New(c.headers.names.Sprintf("%s sent a PROXY protocol header, and is not in %s", host, hints.ProxyProtocol)),
		"if it is your load balancer, name it with %s "+host+"; whoever may send such a header can claim any address", hints.ProxyProtocol)
}

// beginsHeader reports whether bytes are the beginning of a PROXY header, and of nothing else that a
// gateway is sent.
func beginsHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PROXY ")) || bytes.HasPrefix(b, proxyproto.SIGV2)
}

// host is the IP address of the peer; the zero Addr if it has none.
func (c *headedConn) host() netip.Addr {
	at, _ := netip.ParseAddrPort(c.Conn.RemoteAddr().String())
	return at.Addr().Unmap()
}

// mustBegin reports whether the peer has to send a header.
func (c *headedConn) mustBegin() bool {
	if len(c.headers.from) == 0 {
		return false
	}
	host := c.host()
	return slices.ContainsFunc(c.headers.from, func(p netip.Prefix) bool { return p.Contains(host.WithZone("")) })
}

// awaitHeader reads the header of a peer that must send one. It blocks until the header is complete,
// the connection is closed, or ctx is done, which closes the connection. A connection that ends
// without a byte is no news: health checks do that.
func (c *headedConn) awaitHeader(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { c.Conn.Close() })()
	r := bufio.NewReaderSize(c.Conn, headerBuffer)
	if _, err := r.Peek(1); err != nil {
		return err
	}
	header, err := proxyproto.Read(r)
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return c.headers.refuse(c, hints.New(errors.New(c.headers.names.Sprintf("%s is in %s, and sent no PROXY protocol header", c.host(), hints.ProxyProtocol)),
			"does the load balancer send one, as with send-proxy-v2 in HAProxy and proxy_protocol in nginx? If it does, does this connection pass it by?"))
	case err != nil:
		return c.headers.refuse(c, fmt.Errorf("read the PROXY protocol header of %s: %w", c.host(), err))
	}
	client, err := clientOf(header)
	if err != nil {
		return c.headers.refuse(c, fmt.Errorf("read the PROXY protocol header of %s: %w", c.host(), err))
	}
	behind, _ := r.Peek(r.Buffered())
	c.rest = bytes.Clone(behind)
	c.client.Store(client)
	return nil
}

// clientOf returns the address that a header names, or nil if the connection is the load balancer's
// own, or it does not know.
func clientOf(h *proxyproto.Header) (*net.TCPAddr, error) {
	if h.Command.IsLocal() {
		return nil, nil
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return nil, errors.New("it names no TCP address of a client")
	}
	return &net.TCPAddr{IP: a.IP, Port: a.Port}, nil
}

// headedOf returns the connection below a wire, or nil for one that was dialled.
func headedOf(w *exchange.Wire) *headedConn {
	if l, ok := w.Conn.(*tcpLink); ok {
		c, _ := l.Conn.(*headedConn)
		return c
	}
	return nil
}

// proxyOf returns the address of the load balancer that has named the address of a request's client;
// "" if none has.
func proxyOf(r *http.Request) string {
	if w := wireOf(r); w != nil {
		if c := headedOf(w); c != nil {
			return c.proxy()
		}
	}
	return ""
}
