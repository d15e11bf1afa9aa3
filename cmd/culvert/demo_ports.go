package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
)

const (
	demoListen   = "127.0.0.1:9092" // the default of --listen
	demoPortBase = 19092            // that of culvert agent --broker-port-base
	// When a default port is taken, the next one is tried portStep above it, so
	// that both are easy to tell; portTries of them are never all taken.
	portStep  = 100
	portTries = 50
	// dialCheck is how long we wait for somebody to accept on this machine.
	dialCheck = 100 * time.Millisecond
)

// mustBeFree refuses a --listen that is taken, unless it is the default.
func mustBeFree(l proxy.Listen) error {
	if l.Bind == demoListen {
		return nil
	}
	return listenFailed(tryListen(l.Bind), l.Bind, "--listen")
}

// choosePorts returns --listen and the base of the brokers' ports, or others
// where the defaults are not free. moved says so.
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
			moved = append(moved, fmt.Sprintf("Something else is at %s here, so the agent is at %s.", demoListen, l.Bind))
		}
	}
	if portBase, err = freeRange(host, demoPortBase, demoBrokers, port); err != nil {
		return l, 0, nil, err
	}
	if portBase != demoPortBase {
		moved = append(moved, fmt.Sprintf("Ports from %d are taken, so the brokers are at those from %d.", demoPortBase, portBase))
	}
	return l, portBase, moved, nil
}

// noPort is the reserved port of freeRange where there is none.
const noPort = -1

// freeRange returns the lowest port, first or some steps above it, from which n
// are free on host and not reserved.
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

func checkFree(host string, base, n, reserved int) error {
	for port := base; port < base+n; port++ {
		address := net.JoinHostPort(host, strconv.Itoa(port))
		if port == reserved {
			return fmt.Errorf("port %d is that of --listen", port)
		}
		if err := tryListen(address); err != nil {
			return err
		}
		// Some systems let 127.0.0.1:9092 be taken from under whoever listens on
		// *:9092, whose clients we would get.
		if conn, err := net.DialTimeout("tcp", address, dialCheck); err == nil {
			conn.Close()
			return fmt.Errorf("somebody answers at %s", address)
		}
	}
	return nil
}

func tryListen(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return ln.Close()
}
