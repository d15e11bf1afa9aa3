package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// An agent or gateway that has run out of file descriptors logs that at a bounded rate, keeps
// serving its open connections, and accepts new ones again when descriptors are free.
func TestAnEndWithoutDescriptorsRecovers(t *testing.T) {
	broker := cluster(t)
	cert, key := certificate(t)
	for _, transport := range []string{"ws", "h3", "h2"} {
		for _, exhausted := range []string{"agent", "gateway"} {
			t.Run(exhausted+"_"+transport, func(t *testing.T) {
				tokens := write(t, "laptop=0123456789abcdef\n")
				gateway := start(t, "gateway", "--bootstrap", broker, "--token-file", tokens, "--listen", "127.0.0.1:0",
					"--tls-cert-file", cert, "--tls-key-file", key, "--admin-listen", "127.0.0.1:0")
				line := gateway.listening()
				door, admin := find(t, `listening on (127\.0\.0\.1:\d+)`, line), find(t, `admin (http://\S+)$`, line)
				agent := start(t, "agent", "--gateway-url", "https://"+door, "--gateway-ca-file", cert, "--token-file", tokens,
					"--transport", transport, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0")
				line = agent.listening()
				bootstrap := find(t, agentLine, line)
				victim, crowd := gateway, door
				if exhausted == "agent" {
					victim, crowd, admin = agent, bootstrap, find(t, `admin (http://\S+)$`, line)
				}
				roundTrip(t, bootstrap)
				old := dial(t, bootstrap)
				ask(t, old)

				restore := victim.limitDescriptors(20)
				var idle []net.Conn
				for range 40 {
					idle = append(idle, dial(t, crowd)) // the kernel accepts them
				}
				victim.says(`accept failed, trying again.*"hint":"every connection needs a file descriptor or two: raise the limit with ulimit -n.*too many open files`)
				time.Sleep(time.Second) // of tries
				if n := strings.Count(victim.text(), "accept failed"); n != 1 {
					t.Errorf("it says so %d times within a second", n)
				}
				ask(t, old)
				for _, c := range idle {
					c.Close()
				}
				roundTrip(t, bootstrap)
				if code, _ := get(t, admin+"/healthz"); code != http.StatusOK {
					t.Errorf("/healthz: %d", code)
				}
				ask(t, old)
				restore()
			})
		}
	}
}

// limitDescriptors lets the process open n more descriptors than it has.
func (p *process) limitDescriptors(n uint64) (restore func()) {
	p.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		p.t.Fatal(err)
	}
	set := func(limit unix.Rlimit) {
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			p.t.Fatal(err)
		}
	}
	set(unix.Rlimit{Cur: uint64(len(open)) + n, Max: old.Max})
	return func() { set(old) }
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, readyTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(4 * readyTimeout))
	return c
}

// ask sends an ApiVersions request and reads the whole response.
func ask(t *testing.T, c net.Conn) {
	t.Helper()
	request := kmsg.NewPtrApiVersionsRequest()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("old")).AppendRequest(nil, request, 1)
	if _, err := c.Write(frame); err != nil {
		t.Fatalf("ask on the connection that is open: %v", err)
	}
	if _, err := nextFrame(c); err != nil {
		t.Fatalf("answer on the connection that is open: %v", err)
	}
}
