package main

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/status"
)

// noAdmin is the --admin-listen that opens no listener.
const noAdmin = "none"

// admin is the listener for those who look after the process; nil means none.
type admin struct {
	ln     net.Listener
	server status.Server
}

// checkAdmin reads --admin-listen and --admin-host.
func checkAdmin(address string, hosts []string) error {
	for _, host := range values(hosts) {
		if strings.ContainsAny(host, ":/@*[] ") || strings.Trim(host, ".") == "" {
			return wrong("write the name alone, as in http://NAME:9464/metrics: --admin-host NAME", "--admin-host %s: it is no host name", host)
		}
	}
	if address == noAdmin {
		return nil
	}
	if _, _, err := splitAddress(address, 0); err != nil {
		return wrong("write it as 127.0.0.1:9464, or none", "--admin-listen %s: %w", address, err)
	}
	return nil
}

// listenAdmin opens the admin listener, for server, whose Tunnel is shown only
// to those on this machine.
func listenAdmin(address string, server status.Server) (*admin, error) {
	if address == noAdmin {
		return nil, nil
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, sayListen(err, address, "--admin-listen")
	}
	host, _, _ := net.SplitHostPort(ln.Addr().String())
	if !isLoopback(host) {
		server.Tunnel = nil
	}
	return &admin{ln, server}, nil
}

// during serves while run runs, its drain included, so that the last figures
// can be scraped. If it cannot go on, it ends run.
func (s *admin) during(ctx context.Context, run func(context.Context) error) error {
	if s == nil {
		return run(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go s.serve(serving, cancel, served)
	err := run(ctx)
	stop()
	return errors.Join(err, <-served)
}

func (s *admin) serve(ctx context.Context, failed context.CancelCauseFunc, served chan<- error) {
	err := s.server.Serve(ctx, s.ln)
	if err != nil {
		failed(err)
	}
	served <- err
}

// String is how the listener is spoken of in the line that says that clients
// may come.
func (s *admin) String() string {
	if s == nil {
		return "no admin listener"
	}
	return "admin http://" + s.ln.Addr().String()
}
