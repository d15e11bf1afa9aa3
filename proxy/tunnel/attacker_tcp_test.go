package tunnel

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A tcpAttacker is a peer without credentials. do gets a connection and sends, or withholds, what
// costs a gateway most. over "tcp" is a connection without TLS to a gateway that expects TLS; "h1"
// and "h2" are TLS with that ALPN protocol; "plain" is a connection to a gateway without TLS.
type tcpAttacker struct {
	name, over string
	do         func(net.Conn) error
}

var tcpAttackers = []tcpAttacker{
	{"TCP, silent", "tcp", silent},
	{"TLS, half a handshake", "tcp", halfHandshake},
	{"TLS, silent", "h1", silent},
	{"HTTP/1.1, half a header", "h1", halfHeader},
	{"HTTP/1.1, half a header, no TLS", "plain", halfHeader},
	{"HTTP/1.1, refused with a body", "h1", refusedBody},
	{"HTTP/1.1, refused with a body, no TLS", "plain", refusedBody},
	{"WebSocket, refused", "h1", refusedUpgrade},
	{"HTTP/2, idle", "h2", h2Idle},
	{"HTTP/2, idle, no TLS", "plain", h2Idle},
	{"HTTP/2, refused POSTs", "h2", h2Posts},
	{"HTTP/2, refused POSTs, no TLS", "plain", h2Posts},
	{"HTTP/2, POSTs, answers not read", "h2", h2Unread},
	{"HTTP/2, POSTs, answers not read, no TLS", "plain", h2Unread},
	{"HTTP/2, long headers, answers not read", "h2", h2LongHeaders},
	{"HTTP/2, half a header", "h2", h2HalfHeader},
	{"HTTP/2, pings", "h2", h2Pings},
	{"HTTP/2, settings", "h2", h2Settings},
	{"HTTP/2, resets", "h2", h2Resets},
}

func silent(net.Conn) error { return nil }

// halfHandshake sends a ClientHello without its last bytes.
func halfHandshake(c net.Conn) error {
	hello := append([]byte{1, 0, 0xff, 0xff}, make([]byte, 62<<10)...)
	for len(hello) > 0 {
		n := min(len(hello), 16<<10)
		c.Write(append([]byte{22, 3, 1, byte(n >> 8), byte(n)}, hello[:n]...))
		hello = hello[n:]
	}
	return nil
}

func halfHeader(c net.Conn) error {
	_, err := io.WriteString(c, "GET /culvert HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", exchange.MaxHeader-100))
	return err
}

func refusedBody(c net.Conn) error {
	io.WriteString(c, "POST /culvert HTTP/1.1\r\nHost: x\r\nContent-Type: "+exchange.PostType+"\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n")
	c.Write(make([]byte, 1<<20))
	return nil
}

func refusedUpgrade(c net.Conn) error {
	_, err := io.WriteString(c, "GET /culvert HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	return err
}

// An h2Attacker writes HTTP/2 frames and reads none.
type h2Attacker struct {
	*http2.Framer
	out  *bufio.Writer
	enc  *hpack.Encoder
	head bytes.Buffer
}

func newH2Attacker(c net.Conn) *h2Attacker {
	s := &h2Attacker{out: bufio.NewWriterSize(c, 16<<10)}
	s.Framer = http2.NewFramer(s.out, nil)
	s.Framer.AllowIllegalWrites = true
	s.enc = hpack.NewEncoder(&s.head)
	io.WriteString(s.out, http2.ClientPreface)
	s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	s.WriteSettingsAck()
	return s
}

func (s *h2Attacker) header(fields ...string) []byte {
	s.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return s.head.Bytes()
}

func (s *h2Attacker) post(id uint32, more ...string) {
	fields := append([]string{":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/culvert", "content-type", exchange.PostType}, more...)
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.header(fields...), EndHeaders: true})
}

func h2Idle(c net.Conn) error { return newH2Attacker(c).out.Flush() }

// h2Posts sends requests and reads the responses, but never sends a body.
func h2Posts(c net.Conn) error {
	s := newH2Attacker(c)
	for i := range uint32(2 * maxStreams) {
		s.post(2*i + 1)
	}
	return s.out.Flush()
}

// block makes the gateway send more than the kernels buffer, so that its writes block.
func (s *h2Attacker) block() {
	for range 9 << 10 {
		s.WritePing(false, [8]byte{})
	}
	s.out.Flush()
}

func h2Unread(c net.Conn) error {
	s := newH2Attacker(c)
	s.block()
	for i := range uint32(maxStreams) {
		s.post(2*i + 1)
		for range 16 {
			s.WriteData(2*i+1, false, make([]byte, exchange.MaxRequestFrame))
		}
	}
	return s.out.Flush()
}

// h2LongHeaders sends headers with as many fields as allowed, each encoded in one byte.
func h2LongHeaders(c net.Conn) error {
	s := newH2Attacker(c)
	s.block()
	var many []string
	for range 400 {
		many = append(many, "a", "b")
	}
	for i := range uint32(maxStreams) {
		s.post(2*i+1, many...)
	}
	return s.out.Flush()
}

func h2HalfHeader(c net.Conn) error {
	s := newH2Attacker(c)
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: s.header(":method", "POST")})
	for range 1 << 10 {
		s.WriteContinuation(1, false, s.header("a", strings.Repeat("b", 1<<10)))
	}
	return s.out.Flush()
}

func h2Pings(c net.Conn) error {
	s := newH2Attacker(c)
	s.block()
	return nil
}

func h2Settings(c net.Conn) error {
	s := newH2Attacker(c)
	for range 32 << 10 {
		s.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 30})
	}
	return s.out.Flush()
}

func h2Resets(c net.Conn) error {
	s := newH2Attacker(c)
	for i := range uint32(16 * maxStreams) {
		s.post(2*i + 1)
		s.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	}
	return s.out.Flush()
}

// runAttackers is the main function of a process of attackers; a process of their own keeps their
// memory apart from the gateway's. It prints "done" when all have sent what they send. Then they do
// nothing until a line on standard input makes them read. It prints "closed" when the gateway has
// closed all their connections.
func runAttackers() {
	var which, addr string
	var n int
	if _, err := fmt.Sscanf(os.Getenv(attackersEnv), "%s %s %d", &which, &addr, &n); err != nil {
		panic(err)
	}
	withTLS := slices.DeleteFunc(slices.Clone(tcpAttackers), func(s tcpAttacker) bool { return s.over == "plain" })
	time.AfterFunc(5*time.Minute, func() { panic("nobody has ended the attackers") })
	var done, closed sync.WaitGroup
	slots, read := make(chan struct{}, 100), make(chan struct{})
	for i := range n {
		s := withTLS[i%len(withTLS)]
		if k, err := strconv.Atoi(which); err == nil {
			s = tcpAttackers[k]
		}
		done.Add(1)
		closed.Go(func() {
			slots <- struct{}{}
			c, err := dialOver(s.over, addr)
			if err == nil {
				// A gateway that stops reading must not block the attacker for ever.
				c.SetDeadline(time.Now().Add(2 * time.Second))
				s.do(c)
				c.SetDeadline(time.Time{})
			}
			<-slots
			done.Done()
			if err == nil {
				<-read
				io.Copy(io.Discard, c)
				c.Close()
			}
		})
	}
	done.Wait()
	fmt.Println("done")
	in := bufio.NewReader(os.Stdin)
	in.ReadString('\n')
	close(read)
	closed.Wait()
	fmt.Println("closed")
	in.ReadString('\n')
}

func dialOver(over, addr string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.(*net.TCPConn).SetReadBuffer(4 << 10)
	if over == "tcp" || over == "plain" {
		return c, nil
	}
	proto := map[string]string{"h1": "http/1.1", "h2": "h2"}[over]
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
	t.SetDeadline(time.Now().Add(time.Minute))
	return t, t.Handshake()
}

// attackersEnv tells such a process which attackers to run, at which address, and how many.
const attackersEnv = "CULVERT_TEST_ATTACKERS"

// A crowd is a process of attackers, as the test sees it.
type crowd struct {
	t    testing.TB
	in   io.Writer
	said chan string
}

func startCrowd(t *testing.T, which, addr string, n int) *crowd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", fmt.Sprintf("%s=%s %s %d", attackersEnv, which, addr, n))
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &crowd{t, in, make(chan string, 10)}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.said <- lines.Text()
		}
		close(c.said)
	})
	t.Cleanup(func() {
		in.Close()
		reading.Wait()
		cmd.Wait()
	})
	return c
}

// wait waits until the process prints word.
func (c *crowd) wait(word string) {
	c.t.Helper()
	for said := range c.said {
		if said == word {
			return
		}
	}
	c.t.Fatalf("the attackers have ended before they were %s", word)
}

// read makes the attackers read what they were sent.
func (c *crowd) read() { io.WriteString(c.in, "\n") }

// held is what this process holds: bytes of memory and goroutines.
type held struct{ bytes, goroutines int }

func holdNow() held {
	runtime.GC()
	runtime.GC() // pools release what they hold in two collections
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{int(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()}
}

// settledHolding returns what is held once everything that has arrived is processed.
func settledHolding() held {
	for last, same := holdNow(), 0; ; {
		now := holdNow()
		if same++; now.goroutines != last.goroutines || now.bytes > last.bytes+last.bytes/50 {
			same = 0
		}
		if last = now; same == 5 {
			return now
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// withToken makes the gateway require a token and gives it to the agent.
func withToken(r *rig) {
	r.dialer.Token = func() (string, error) { return "secret", nil }
	r.server.Authenticate = func(req *http.Request) (string, error) {
		if req.Header.Get(headerAuthorization) != "Bearer secret" {
			return "", errors.New("no token")
		}
		return "alice", nil
	}
}

// newUnauthenticatedRig is a gateway that does not close connections without authentication for the
// duration of a test.
func newUnauthenticatedRig(t *testing.T, over string) *rig {
	kind := "h2"
	if over == "plain" {
		kind = "h2c"
	}
	return newRig(t, kind, withToken, func(r *rig) {
		r.server.Logger, r.server.timing = nil, defaultTiming
		r.server.timing.handshake = time.Hour
	})
}
