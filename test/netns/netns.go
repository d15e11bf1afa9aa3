// Package netns creates a network for a test: clients on one side, servers on the other, and
// between them a router with faults on demand. Each of the three is a network namespace of Linux:
//
//	client 10.99.1.2 ──link── 10.99.1.1 router 10.99.2.1 ─── 10.99.2.2 server
//
// The link is as fast as the machine, or has delay, loss, a rate and an MTU: see Link. Faults
// happen in the router, so neither end gets an error unless the fault sends one.
//
// The namespaces have no names. They live as long as this process, or a program that runs in them,
// so nothing is left behind however the process ends.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// The addresses of the two sides.
const (
	ClientIP = "10.99.1.2"
	ServerIP = "10.99.2.2"

	clientGateway = "10.99.1.1"
	serverGateway = "10.99.2.1"
)

// The interfaces: uplink on either side, and those of the router.
const (
	uplink   = "up0"
	toClient = "client0"
	toServer = "server0"
)

// A Link connects the client to the router. The zero value is a pair of veth devices, which costs
// nothing.
type Link struct {
	Delay time.Duration // each way
	Loss  float64       // probability that a packet is lost, each way
	Rate  int           // bytes a second each way; 0: no limit
	Queue int           // bytes that are queued if there is a Rate; packets beyond are lost; 0: 256 KiB
	MTU   int           // 0: 1500
	Seed  uint64        // of the random losses
}

// emulated reports whether packets must pass through this process.
func (l Link) emulated() bool { return l.Delay != 0 || l.Loss != 0 || l.Rate != 0 }

// Network is a network with two sides. Close ends it.
type Network struct {
	Client, Server *Namespace

	router *Namespace
	more   []*Namespace // see AddServer
	link   *link        // nil when it is not emulated

	mu       sync.Mutex
	natPorts int    // the first port of the NAT; 0: no NAT
	clientIP string // now
}

// Start returns a network that ends with the test. It skips the test where networks cannot be
// created.
func Start(t testing.TB, l Link) *Network {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	n, err := New(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// New makes a network.
func New(l Link) (_ *Network, err error) {
	if l.MTU == 0 {
		l.MTU = 1500
	}
	n := &Network{clientIP: ClientIP}
	defer func() {
		if err != nil {
			n.Close()
			err = fmt.Errorf("make a network: %w", err)
		}
	}()
	for _, ns := range []**Namespace{&n.Client, &n.router, &n.Server} {
		if *ns, err = newNamespace(); err != nil {
			return nil, err
		}
		// Kernels with IPv6 send IPv6 packets by themselves.
		if err := (*ns).sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := n.connectClient(l); err != nil {
		return nil, err
	}
	if err := n.router.veth(toServer, n.Server); err != nil {
		return nil, err
	}
	return n, errors.Join(
		n.Client.configure(uplink, ClientIP, clientGateway),
		n.Server.configure(uplink, ServerIP, serverGateway),
		n.router.configure(toClient, clientGateway, ""),
		n.router.configure(toServer, serverGateway, ""),
		n.router.sysctl("net/ipv4/ip_forward", "1"),
		// The router does not answer packets to itself, like home routers.
		n.router.iptables("-P", "INPUT", "DROP"),
	)
}

// connectClient creates the devices of the link.
func (n *Network) connectClient(l Link) (err error) {
	if l.emulated() {
		n.link, err = newLink(l, n.Client, n.router)
	} else {
		err = n.router.veth(toClient, n.Client)
	}
	if err != nil {
		return err
	}
	return n.SetMTU(l.MTU)
}

// Close ends the link and releases the namespaces. Programs that still run in them keep them alive.
func (n *Network) Close() {
	if n.link != nil {
		n.link.close()
	}
	for _, ns := range append([]*Namespace{n.Client, n.router, n.Server}, n.more...) {
		if ns != nil {
			ns.file.Close()
		}
	}
}

// AddServer adds another machine behind the router, with its own address.
func (n *Network) AddServer() (ns *Namespace, ip string, err error) {
	if ns, err = newNamespace(); err != nil {
		return nil, "", err
	}
	n.more = append(n.more, ns)
	net := fmt.Sprintf("10.99.%d.", 2+len(n.more))
	device := fmt.Sprintf("server%d", len(n.more))
	if err := n.router.veth(device, ns); err != nil {
		return nil, "", err
	}
	return ns, net + "2", errors.Join(ns.configure(uplink, net+"2", net+"1"), n.router.configure(device, net+"1", ""))
}

// Lost returns how many packets the link has lost so far, and of how many.
func (n *Network) Lost() (lost, of int64) { return n.link.lost() }

// SetMTU changes the MTU of the link at both ends. The client's kernel knows it; the server learns
// it from the router.
func (n *Network) SetMTU(mtu int) error {
	size := fmt.Sprint(mtu)
	return errors.Join(
		n.Client.ip("link set dev "+uplink+" mtu "+size),
		n.router.ip("link set dev "+toClient+" mtu "+size))
}

// A Namespace is one side of a network. Nil is this process's own.
type Namespace struct{ file *os.File }

// path is a path to the namespace for other programs, valid while this process has it open.
func (ns *Namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// Do runs f in the namespace and waits for it. Sockets that f opens stay in the namespace.
// Goroutines that f starts (Go resolves names in one) and programs (see Enter) run outside.
func (ns *Namespace) Do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error)
	go func() { done <- ns.enter(f) }()
	return <-done
}

// Dial dials from the namespace. The host must be an IP address.
func (ns *Namespace) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the namespace. The host must be an IP address.
func (ns *Namespace) Listen(network, address string) (ln net.Listener, err error) {
	err = ns.Do(func() error {
		ln, err = net.Listen(network, address)
		return err
	})
	return ln, err
}

// ListenPacket is Listen for UDP.
func (ns *Namespace) ListenPacket(network, address string) (conn net.PacketConn, err error) {
	err = ns.Do(func() error {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// Enter changes cmd so that it runs in the namespace, and returns it. The process that cmd starts
// becomes the program, so the pid is the program's.
func (ns *Namespace) Enter(cmd *exec.Cmd) *exec.Cmd {
	if ns == nil {
		return cmd
	}
	enter := exec.Command("nsenter", append([]string{"--net=" + ns.path(), "--", cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path, cmd.Args, cmd.Err = enter.Path, enter.Args, enter.Err
	return cmd
}

// run runs one of the programs that set up networks.
func (ns *Namespace) run(stdin, name string, args ...string) error {
	cmd := ns.Enter(exec.Command(name, args...))
	cmd.Stdin = strings.NewReader(stdin)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := proc.Run(ctx, cmd); err != nil {
		return fmt.Errorf("%s %s%s: %w", name, strings.Join(args, " "), stdin, err)
	}
	return nil
}

// ip runs commands of ip(8), each without the word ip.
func (ns *Namespace) ip(commands ...string) error {
	return ns.run(strings.Join(commands, "\n"), "ip", "-batch", "-")
}

func (ns *Namespace) iptables(args ...string) error {
	return ns.run("", "iptables", append([]string{"--wait"}, args...)...)
}

func (ns *Namespace) sysctl(name, value string) error {
	return ns.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}

// veth creates a pair of devices: name here, and uplink in the other namespace.
func (ns *Namespace) veth(name string, to *Namespace) error {
	return ns.ip(fmt.Sprintf("link add %s type veth peer name %s netns %s", name, uplink, to.path()))
}

// configure sets a device's address and the namespace's default route, if there is one.
func (ns *Namespace) configure(device, ip, gateway string) error {
	commands := []string{
		"link set dev lo up",
		"address add " + ip + "/24 dev " + device,
		"link set dev " + device + " up",
	}
	if gateway != "" {
		commands = append(commands, "route add default via "+gateway)
	}
	return ns.ip(commands...)
}

// available is the result of Available.
var available = sync.OnceValue(func() error {
	for _, name := range []string{"ip", "iptables", "conntrack", "nsenter", "ss"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("no networks for tests: %w (Debian: apt-get install iproute2 iptables conntrack)", err)
		}
	}
	n, err := New(Link{Delay: time.Millisecond})
	if err != nil {
		return fmt.Errorf("no networks for tests: run them on Linux as root, with /dev/net/tun: %w", err)
	}
	n.Close()
	return nil
})

// Available returns nil, or why networks cannot be created here.
func Available() error { return available() }
