package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
)

const (
	demoListen   = "127.0.0.1:9092" // the default of demo --listen
	demoPortBase = 19092            // the default of agent --broker-port-base
	// The default of agent --admin-listen; that of gateway --admin-listen is one port above it.
	demoAdminHost, demoAdminPort = "127.0.0.1", 9464
	// Where a default port is taken, ports in steps of portStep above it are tried, so that a port
	// still shows which default it replaces.
	portStep  = 100
	portTries = 50
	// dialCheck bounds a dial on loopback, which is answered or refused at once.
	dialCheck = 100 * time.Millisecond
)

// checkListenFree refuses a --listen that is taken. The default is not refused: choosePorts
// replaces it.
func checkListenFree(l proxy.Listen) error {
	if l.Bind == demoListen {
		return nil
	}
	return listenFailed(tryListen(l.Bind), l.Bind, "--listen")
}

// choosePorts returns --listen and the base of the brokers' ports, or others where the defaults are
// taken; moved has a sentence for each of those.
func choosePorts(l proxy.Listen) (listen proxy.Listen, portBase int, moved []string, err error) {
	host, port, err := splitAddress(l.Bind, 0)
	if err != nil {
		return l, 0, nil, err
	}
	if l.Bind == demoListen {
		if port, err = freeRange(host, port, 1, noPort); err != nil {
			return l, 0, nil, err
		}
		if l.Bind = net.JoinHostPort(host, strconv.Itoa(port)); l.Bind != demoListen {
			moved = append(moved, fmt.Sprintf("%s is taken, so the agent listens on %s.", demoListen, l.Bind))
		}
	}
	if portBase, err = freeRange(host, demoPortBase, demoBrokers, port); err != nil {
		return l, 0, nil, err
	}
	if portBase != demoPortBase {
		moved = append(moved, fmt.Sprintf("Ports from %d are taken, so brokers have ports from %d.", demoPortBase, portBase))
	}
	return l, portBase, moved, nil
}

// noPort is freeRange's reserved if no port is.
const noPort = -1

// freeRange returns the first port of n in a row that are free on host and not reserved: first, or
// a number of steps above.
func freeRange(host string, first, n, reserved int) (int, error) {
	var err error
	for try := range portTries {
		base := first + try*portStep
		if err = checkFree(host, base, n, reserved); err == nil {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports on %s in %d places from %d: %w", n, host, portTries, first, err)
}

// checkFree refuses n ports from base if one of them is reserved or taken.
func checkFree(host string, base, n, reserved int) error {
	for port := base; port < base+n; port++ {
		address := net.JoinHostPort(host, strconv.Itoa(port))
		if port == reserved {
			return fmt.Errorf("port %d is needed for --listen", port)
		}
		if err := tryListen(address); err != nil {
			return err
		}
		// Some systems let us listen on 127.0.0.1:9092 while another process listens on *:9092. We
		// would get its clients.
		if conn, err := net.DialTimeout("tcp", address, dialCheck); err == nil {
			conn.Close()
			return fmt.Errorf("another process answers at %s", address)
		}
	}
	return nil
}

// tryListen listens on address for a moment.
func tryListen(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return ln.Close()
}
