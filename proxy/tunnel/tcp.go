package tunnel

import (
	"context"
	"net"
)

// dialTCP connects to the gateway, through a proxy if one is set.
func (d *Dialer) dialTCP(ctx context.Context) (net.Conn, error) {
	switch {
	case d.proxyErr != nil:
		return nil, d.proxyErr
	case d.proxy != nil:
		return d.dialThrough(ctx, d.proxy)
	}
	return d.dialAddr(ctx, "tcp", d.addr())
}

func (d *Dialer) dialAddr(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, network, addr)
	}
	var n net.Dialer
	return n.DialContext(ctx, network, addr)
}
