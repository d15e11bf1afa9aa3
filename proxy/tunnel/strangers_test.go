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

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// A stranger is a peer without credentials. It is given a connection, and says and withholds there what costs a gateway most. Over "tcp" that is
// a connection without TLS to a gateway that wants it, over "h1" and "h2" TLS with that ALPN protocol, over "plain" it is to a gateway without TLS.
type tcpStranger struct {
	name, over string
	do         func(net.Conn) error
}

var tcpStrangers = []tcpStranger{
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

// halfHandshake is a ClientHello of which the last bytes are missing.
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

// An h2Stranger writes frames, and reads none.
type h2Stranger struct {
	*http2.Framer
	out  *bufio.Writer
	enc  *hpack.Encoder
	head bytes.Buffer
}

func newH2Stranger(c net.Conn) *h2Stranger {
	s := &h2Stranger{out: bufio.NewWriterSize(c, 16<<10)}
	s.Framer = http2.NewFramer(s.out, nil)
	s.Framer.AllowIllegalWrites = true
	s.enc = hpack.NewEncoder(&s.head)
	io.WriteString(s.out, http2.ClientPreface)
	s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	s.WriteSettingsAck()
	return s
}

func (s *h2Stranger) header(fields ...string) []byte {
	s.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return s.head.Bytes()
}

func (s *h2Stranger) post(id uint32, more ...string) {
	fields := append([]string{":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/culvert", "content-type", exchange.PostType}, more...)
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.header(fields...), EndHeaders: true})
}

func h2Idle(c net.Conn) error { return newH2Stranger(c).out.Flush() }

// h2Posts sends requests and reads the answers, but never sends a body.
func h2Posts(c net.Conn) error {
	s := newH2Stranger(c)
	for i := range uint32(2 * maxStreams) {
		s.post(2*i + 1)
	}
	return s.out.Flush()
}

// block has the gateway say more than the kernels keep.
func (s *h2Stranger) block() {
	for range 9 << 10 {
		s.WritePing(false, [8]byte{})
	}
	s.out.Flush()
}

func h2Unread(c net.Conn) error {
	s := newH2Stranger(c)
	s.block()
	for i := range uint32(maxStreams) {
		s.post(2*i + 1)
		for range 16 {
			s.WriteData(2*i+1, false, make([]byte, exchange.MaxRequestFrame))
		}
	}
	return s.out.Flush()
}

// h2LongHeaders sends headers of which a byte is a field, as many as a list may have.
func h2LongHeaders(c net.Conn) error {
	s := newH2Stranger(c)
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
	s := newH2Stranger(c)
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: s.header(":method", "POST")})
	for range 1 << 10 {
		s.WriteContinuation(1, false, s.header("a", strings.Repeat("b", 1<<10)))
	}
	return s.out.Flush()
}

func h2Pings(c net.Conn) error {
	s := newH2Stranger(c)
	s.block()
	return nil
}

func h2Settings(c net.Conn) error {
	s := newH2Stranger(c)
	for range 32 << 10 {
		s.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 30})
	}
	return s.out.Flush()
}

func h2Resets(c net.Conn) error {
	s := newH2Stranger(c)
	for i := range uint32(16 * maxStreams) {
		s.post(2*i + 1)
		s.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	}
	return s.out.Flush()
}

// beStrangers is what a process of this test does when it is started for it, so that what strangers hold is not held by the gateway's process. It
// says when they have done what they do. From then on they do nothing, until a line of standard input has them read what they were sent; it says
// when the gateway has closed all of their connections.
func beStrangers() {
	var which, addr string
	var n int
	if _, err := fmt.Sscanf(os.Getenv(strangersEnv), "%s %s %d", &which, &addr, &n); err != nil {
		panic(err)
	}
	withTLS := slices.DeleteFunc(slices.Clone(tcpStrangers), func(s tcpStranger) bool { return s.over == "plain" })
	time.AfterFunc(5*time.Minute, func() { panic("nobody has ended the strangers") })
	var done, closed sync.WaitGroup
	slots, read := make(chan struct{}, 100), make(chan struct{})
	for i := range n {
		s := withTLS[i%len(withTLS)]
		if k, err := strconv.Atoi(which); err == nil {
			s = tcpStrangers[k]
		}
		done.Add(1)
		closed.Go(func() {
			slots <- struct{}{}
			c, err := meet(s.over, addr)
			if err == nil {
				c.SetDeadline(time.Now().Add(2 * time.Second)) // a gateway that reads no more has let it do what it can
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

func meet(over, addr string) (net.Conn, error) {
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

// strangersEnv says to a process of this test which strangers it is, at which address, and how many.
const strangersEnv = "CULVERT_TEST_STRANGERS"

// A crowd is a process of strangers.
type crowd struct {
	t    testing.TB
	in   io.Writer
	said chan string
}

func startCrowd(t *testing.T, which, addr string, n int) *crowd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", fmt.Sprintf("%s=%s %s %d", strangersEnv, which, addr, n))
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

// wait waits until the crowd says that.
func (c *crowd) wait(word string) {
	c.t.Helper()
	for said := range c.said {
		if said == word {
			return
		}
	}
	c.t.Fatalf("the strangers have ended before they were %s", word)
}

// read has the crowd read what it was sent.
func (c *crowd) read() { io.WriteString(c.in, "\n") }

// held is what this process holds: bytes, and goroutines.
type held struct{ bytes, goroutines int }

func holdNow() held {
	runtime.GC()
	runtime.GC() // pools give back what they hold in two rounds
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{int(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()}
}

// settledHolding is what is held when everything that came has been looked at.
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

// withToken has a gateway want a token, and gives it to the agent.
func withToken(r *rig) {
	r.dialer.Token = func() (string, error) { return "secret", nil }
	r.server.Authenticate = func(req *http.Request) (string, error) {
		if req.Header.Get(headerAuthorization) != "Bearer secret" {
			return "", errors.New("no token")
		}
		return "alice", nil
	}
}

// newStrangersRig is a gateway that leaves connections open for as long as a test takes, whoever is at the other end.
func newStrangersRig(t *testing.T, over string) *rig {
	kind := "h2"
	if over == "plain" {
		kind = "h2c"
	}
	return newRig(t, kind, withToken, func(r *rig) {
		r.server.Logger, r.server.timing = nil, defaultTiming
		r.server.timing.handshake = time.Hour
	})
}
