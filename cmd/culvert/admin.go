package main

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/status"
)

// noAdmin is the --admin-listen that opens no listener. An empty value is refused: it is more
// likely a variable that is missing than a wish to go without metrics.
const noAdmin = "none"

// admin is the listener for metrics and probes; nil means none.
type admin struct {
	ln     net.Listener
	server status.Server
}

// checkAdmin refuses an --admin-listen that is not an address, and an --admin-host that is not a
// bare name.
func checkAdmin(address string, hosts []string) error {
	for _, host := range nonBlank(hosts) {
		if strings.ContainsAny(host, ":/@*[] ") || strings.Trim(host, ".") == "" {
			return wrong("write only the host name, without scheme and port: --admin-host prometheus.example",
				"--admin-host %s: not a host name", host)
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

// checkPprof refuses --admin-pprof on an --admin-listen that others can reach, or that is none.
func checkPprof(wanted bool, address string) error {
	if !wanted {
		return nil
	}
	if address == noAdmin {
		return wrong("remove one of them", "--admin-pprof: there is no admin listener with --admin-listen none")
	}
	if host, _, _ := splitAddress(address, 0); !isLoopback(host) {
		return wrong("remove --admin-listen; kubectl port-forward and ssh -L reach loopback from elsewhere",
			"--admin-pprof: profiles are served only on loopback, and --admin-listen %s is not", address)
	}
	return nil
}

// listenAdmin opens the admin listener for server. Beyond loopback it serves /status and the live
// page only if page says so: they name addresses and errors, and anyone who reaches the listener can
// read it. /readyz then says what is missing without them.
func listenAdmin(address string, page bool, server status.Server) (*admin, error) {
	if address == noAdmin {
		return nil, nil
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenFailed(err, address, "--admin-listen")
	}
	host, _, _ := net.SplitHostPort(ln.Addr().String())
	if !isLoopback(host) {
		server.Profiles, server.Public = false, true
		if !page {
			server.Status = nil
		}
	}
	return &admin{ln, server}, nil
}

// during serves while run runs, which includes the drain after ctx is done, so that the last
// figures can be scraped. If serving fails, it cancels run's context.
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

// serve serves until ctx is done. An error goes to failed, which ends the process in good order,
// and to served, which has it reported.
func (s *admin) serve(ctx context.Context, failed context.CancelCauseFunc, served chan<- error) {
	err := s.server.Serve(ctx, s.ln)
	if err != nil {
		failed(err)
	}
	served <- err
}

// String is what the line with "listening" says of the listener.
func (s *admin) String() string {
	if s == nil {
		return "no admin listener"
	}
	return "admin http://" + s.ln.Addr().String()
}
