package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// smallMachine is the GOMEMLIMIT of a gateway in these tests.
const smallMachine = 64 << 20

// smallGateway starts a gateway on a small machine, and an agent on a larger one. It returns the
// gateway and the agent's bootstrap address.
func smallGateway(t *testing.T, broker, transport string) (gateway *process, bootstrap string) {
	t.Helper()
	cert, key := certificate(t)
	tokens := write(t, "laptop=0123456789abcdef\n")
	t.Setenv("GOMEMLIMIT", strconv.Itoa(smallMachine))
	gateway = start(t, "gateway", "--bootstrap", broker, "--token-file", tokens, "--listen", "127.0.0.1:0",
		"--tls-cert-file", cert, "--tls-key-file", key, "--admin-listen", "127.0.0.1:0")
	t.Setenv("GOMEMLIMIT", "")
	address := find(t, `listening on (127\.0\.0\.1:\d+)`, gateway.listening())
	agent := start(t, "agent", "--gateway-url", "https://"+address, "--gateway-ca-file", cert, "--token-file", tokens,
		"--transport", transport, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none")
	return gateway, find(t, `bootstrap (127\.0\.0\.1:\d+)`, agent.listening())
}

// peak is the most that the process has had in memory, without its binary, in bytes.
func (p *process) peak() int {
	p.t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		p.t.Fatal(err)
	}
	kib := func(field string) int {
		n, err := strconv.Atoi(find(p.t, field+`:\s+(\d+) kB`, string(status)))
		if err != nil {
			p.t.Fatal(err)
		}
		return n
	}
	return (kib("VmHWM") - kib("RssFile")) << 10
}

// A gateway with 64 MiB used to refuse 67 to 98 of 200 connections that came at once, although it
// never had more than 35 MiB in memory.
func TestASmallMachineHasRoomForTwoHundredConnections(t *testing.T) {
	if underRace {
		t.Skip("the race detector takes memory: run it without -race, as go run ./test/all does")
	}
	for _, transport := range []string{"ws", "h2", "h3"} {
		t.Run(transport, func(t *testing.T) {
			gateway, bootstrap := smallGateway(t, cluster(t), transport)
			const connections = 200
			results := make(chan error, connections)
			for range connections {
				go func() {
					c, err := askVersions(bootstrap)
					if c != nil {
						t.Cleanup(func() { c.Close() })
					}
					results <- err
				}()
			}
			refused := 0
			for range connections {
				if err := <-results; err != nil {
					refused++
					t.Log(err)
				}
			}
			if most := gateway.peak(); refused > 0 || most > smallMachine {
				t.Errorf("%d of %d connections were refused, with at most %d MiB in memory", refused, connections, most>>20)
			}
		})
	}
}

// Streams that nobody reads used to take three times GOMEMLIMIT over HTTP/2, since only one of them
// ended every 250 ms. What comes within a moment through loopback is a quarter of it.
func TestStalledStreamsDoNotTakeASmallMachine(t *testing.T) {
	if underRace {
		t.Skip("the race detector takes memory: run it without -race, as go run ./test/all does")
	}
	for _, transport := range []string{"ws", "h2", "h3"} {
		t.Run(transport, func(t *testing.T) {
			gateway, bootstrap := smallGateway(t, stuckBroker(t), transport)
			for range 200 {
				go produceForEver(t, bootstrap)
			}
			for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if most := gateway.peak(); most > smallMachine*5/4 {
					t.Fatalf("the gateway has had %d MiB in memory, and may use %d", most>>20, smallMachine>>20)
				}
			}
		})
	}
}

// stuckBroker accepts connections and never reads.
func stuckBroker(t *testing.T) (address string) {
	t.Helper()
	return acceptEach(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
}

// produceForEver sends one endless Produce request.
func produceForEver(t *testing.T, address string) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	t.Cleanup(func() { c.Close() })
	// Produce v3 of 48 MiB, correlation id 1, no client id, no transactional id, acks 1, 30 s.
	c.Write([]byte{3, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30})
	for zeros := make([]byte, 64<<10); err == nil; {
		_, err = c.Write(zeros)
	}
}
