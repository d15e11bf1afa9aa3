package tunnel

import (
	"context"
	"errors"
	"net"
	"net/http"
)

const h3Protocol = "culvert"

type carriers struct{}

func (c *carriers) close() error { return nil }

func (d *Dialer) dialH3(context.Context) (exchange, error) { return nil, errors.ErrUnsupported }

func (s *Server) listenH3(net.PacketConn) func() error { return func() error { return http.ErrServerClosed } }

func (s *Server) serveH3(http.ResponseWriter, Peer) {}
