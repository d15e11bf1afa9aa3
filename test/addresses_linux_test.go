package test

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deadHost is an address of gatewayName where nothing answers.
const deadHost = "127.0.0.3"

// TestADeadAddressOfTheGateway gives the gateway's name two addresses. The first drops packets, as
// a machine does that is off. It may delay one client and no more, and the log names it once.
func TestADeadAddressOfTheGateway(t *testing.T) {
	needReal(t)
	t.Parallel()
	b := sharedTestbed(t)
	_, port, err := net.SplitHostPort(b.gateway.listen)
	try(t, err)
	dropSYNs(t, net.JoinHostPort(deadHost, port))
	silent, err := net.ListenPacket("udp", net.JoinHostPort(deadHost, port))
	try(t, err)
	t.Cleanup(func() { silent.Close() })
	hosts := b.file("two-addresses")
	try(t, os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+deadHost+" "+gatewayName+"\n"+clientHost+" "+gatewayName+"\n"), 0o644))
	for _, transport := range []string{"ws", "h2", "h3", "auto"} {
		t.Run(transport, func(t *testing.T) {
			p, err := b.openPath(t.Context(), path{gateway: b.gateway, url: "https://" + net.JoinHostPort(gatewayName, port), transport: transport, hosts: hosts})
			try(t, err)
			closeWith(t, p)
			slow := 0
			for i := range 12 { // more than are made ready in advance
				took := p.connect(t).mustAnswer(t)
				if t.Logf("client %d has its first answer after %v", i, took); took > 4*time.Second {
					slow++
				}
			}
			if slow > 1 {
				t.Errorf("%d of 12 clients wait for the address that is dead", slow)
			}
			await(t, 20*time.Second, "the line about "+deadHost, func() bool {
				return strings.Contains(p.agent.Output().String(), deadHost)
			})
			if log := p.agent.Output().String(); strings.Count(log, `"address":"`+deadHost) != 1 {
				t.Errorf("want one line about %s:\n%s", deadHost, log)
			}
		})
	}
}

// dropSYNs listens at an address with a full queue of connections. Linux then drops further SYNs.
func dropSYNs(t *testing.T, at string) {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	try(t, err)
	t.Cleanup(func() { ln.Close() })
	raw, err := ln.(*net.TCPListener).SyscallConn()
	try(t, err)
	try(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }))
	try(t, err)
	for {
		c, err := net.DialTimeout("tcp", at, 500*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
	}
}
