package doctor

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holderOf finds the process whose socket keeps others from listening on an address. It finds
// processes of other users only if this one is privileged.
func holderOf(bind string) holder {
	inode, connected := socketAt(bind)
	if inode == "" {
		return holder{untold: "the program that has it was not found"}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return readHolder(pid, connected)
		}
	}
	return holder{untold: "another user's program has it; run as root to see which"}
}

// maxProc bounds what is read of a file in /proc.
const maxProc = 1 << 20

func readHolder(pid int, connected bool) holder {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	name, _ := os.ReadFile(dir + "comm")
	cwd, _ := os.Readlink(dir + "cwd")
	return holder{
		pid: pid, connected: connected, name: strings.TrimSpace(string(name)),
		args: readList(dir + "cmdline"), environ: readList(dir + "environ"), dir: cwd,
	}
}

// readList reads a file of strings that end in zero bytes.
func readList(file string) []string {
	content, err := os.ReadFile(file)
	if err != nil || len(content) == 0 || len(content) > maxProc {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
}

// socketAt returns the inode of the socket that has an address; "" if there is none. connected
// means that it does not listen: it is one end of a connection.
func socketAt(bind string) (inode string, connected bool) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return "", false
	}
	ip, _ := netip.ParseAddr(host) // of a name, any address with that port will do
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, s := range socketsIn(file, ip.Unmap(), port) {
			if s.state == listening {
				return s.inode, false
			}
			if s.inode != "0" { // as of one that is closed and waits for its peer
				inode, connected = s.inode, true
			}
		}
	}
	return inode, connected
}

// kernelSocket is a line of one of the kernel's tables, which proc_net_tcp(5) describes.
type kernelSocket struct{ state, inode string }

const listening = "0A"

// socketsIn returns the sockets of a table whose local address is this one, or includes it.
func socketsIn(file string, ip netip.Addr, port string) (found []kernelSocket) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		at, n, err := kernelAddress(fields[1])
		if err == nil && strconv.Itoa(n) == port && (!ip.IsValid() || ip == at || ip.IsUnspecified() || at.IsUnspecified()) {
			found = append(found, kernelSocket{fields[3], fields[9]})
		}
	}
	return found
}

// kernelAddress parses an address as the kernel prints it: words of four bytes, each as a number of
// this machine, in hexadecimal.
func kernelAddress(s string) (ip netip.Addr, port int, err error) {
	host, p, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil {
		return ip, 0, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, _ = netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(p, 16, 16)
	return ip.Unmap(), int(n), err
}
