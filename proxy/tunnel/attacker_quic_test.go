package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// attackEnv turns a process that runs this test binary into an attacker. Its value is an attack in
// JSON.
const attackEnv = "CULVERT_TEST_ATTACK"

// An attack is what unauthenticated peers do to a gateway over QUIC. It runs in a process of its
// own, so that its memory is not counted as the gateway's.
type attack struct {
	Addr    string
	Conns   int  // QUIC connections, which stay open
	Streams int  // on each of them
	Uni     bool // whether they are unidirectional
	Bytes   int  // sent on each stream, starting at offset 1: offset 0 never comes, so nothing can be delivered
	Frame   int  // bytes of each STREAM frame
	Crypto  int  // bytes in CRYPTO frames of one byte, starting at offset 1
}

// start starts the attack and returns when the gateway has received all of it. Connections stay
// open until the test ends or stop is called.
func (a attack) start(t *testing.T) (stop func()) {
	t.Helper()
	spec, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), attackEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "done\n" {
		t.Fatalf("the attacker printed %q, %v", line, err)
	}
	return stop
}

// runAttack is the attacker's process. It ends when its standard input is closed.
func runAttack(spec string) error {
	var a attack
	if err := json.Unmarshal([]byte(spec), &a); err != nil {
		return err
	}
	next := make(chan struct{}, a.Conns)
	for range a.Conns {
		next <- struct{}{}
	}
	close(next)
	var workers sync.WaitGroup
	var failed atomic.Value
	var kept sync.Map
	for i := range 16 {
		workers.Go(func() {
			for n := 0; ; n++ {
				if _, ok := <-next; !ok {
					return
				}
				p, err := a.open()
				if err != nil {
					failed.Store(err)
					continue
				}
				kept.Store([2]int{i, n}, p)
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return err.(error)
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// open makes one connection and sends what the gateway has to hold.
func (a attack) open() (*puppet, error) {
	p, err := dialPuppet(a.Addr)
	if err != nil {
		return nil, err
	}
	data := make([]byte, max(a.Frame, 1))
	for i := range a.Streams {
		id := uint64(4 * i)
		if a.Uni {
			id += 2
		}
		for sent := 0; sent < a.Bytes; sent += a.Frame {
			p.add(streamFrame(id, uint64(1+sent), data[:min(a.Frame, a.Bytes-sent)]))
		}
		if a.Bytes == 0 {
			p.add(streamFrame(id, 0, nil))
		}
	}
	for i := range a.Crypto {
		p.add(append(quicvarint.Append([]byte{0x06}, uint64(1+i)), 1, 0))
	}
	return p, p.sync()
}

// streamFrame returns a STREAM frame, RFC 9000 §19.8.
func streamFrame(id, offset uint64, data []byte) []byte {
	b := quicvarint.Append([]byte{0x08 | 0x04 | 0x02}, id)
	b = quicvarint.Append(b, offset)
	b = quicvarint.Append(b, uint64(len(data)))
	return append(b, data...)
}

// A puppet is one end of a QUIC connection that can send frames that quic-go never would. quic-go
// makes the handshake. After that its socket (a muzzle) passes nothing on in either direction, and
// the puppet encrypts and sends its own packets with the connection's keys.
type puppet struct {
	sock *muzzle
	to   net.Addr
	dest []byte // connection ID of the peer
	aead cipher.AEAD
	iv   []byte
	mask cipher.Block
	next uint32 // packet number

	gone    bool // the peer has closed the connection
	payload []byte
	packets int // since the last sync
}

// puppetPayload is how many bytes of frames go into one packet.
const puppetPayload = 1100

func dialPuppet(addr string) (*puppet, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: to.IP})
	if err != nil {
		return nil, err
	}
	sock := newMuzzle(udp)
	tr := &quic.Transport{Conn: sock}
	var keys keyLog
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}, KeyLogWriter: &keys}
	c, err := tr.Dial(ctx, to, cfg, &quic.Config{HandshakeIdleTimeout: 10 * time.Second, DisablePathMTUDiscovery: true})
	if err != nil {
		return nil, err
	}
	s, err := c.OpenUniStream()
	if err != nil {
		return nil, err
	}
	// A packet with the application's keys: the handshake is then confirmed and the peer's
	// connection ID known.
	if _, err := s.Write([]byte{0x21}); err != nil {
		return nil, err
	}
	if err := sock.seize(ctx); err != nil {
		return nil, err
	}
	p, err := newPuppet(sock, to, keys.secret("CLIENT_TRAFFIC_SECRET_0"))
	c.CloseWithError(0, "") // stays in the muzzle: the peer does not see it
	return p, err
}

func newPuppet(sock *muzzle, to net.Addr, secret []byte) (*puppet, error) {
	if len(secret) != sha256.Size {
		return nil, fmt.Errorf("a traffic secret of %d bytes: the cipher suite is not TLS_AES_128_GCM_SHA256", len(secret))
	}
	p := &puppet{sock: sock, to: to, dest: sock.dest, iv: expand(secret, "quic iv", 12), next: 1 << 20}
	block, err := aes.NewCipher(expand(secret, "quic key", 16))
	if err != nil {
		return nil, err
	}
	if p.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	p.mask, err = aes.NewCipher(expand(secret, "quic hp", 16))
	return p, err
}

// expand is HKDF-Expand-Label, RFC 8446 §7.1.
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := append([]byte{0, byte(n), byte(len(label))}, label...)
	key, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		panic(err)
	}
	return key
}

// add adds a frame to the next packet, and sends the packet when it is full.
func (p *puppet) add(frame []byte) {
	if p.gone {
		return
	}
	if len(p.payload)+len(frame) > puppetPayload && len(p.payload) > 0 {
		p.send()
	}
	p.payload = append(p.payload, frame...)
}

// send sends the packet, and from time to time waits for the peer.
func (p *puppet) send() error {
	for len(p.payload) < 4 { // header protection needs a sample of this length
		p.payload = append(p.payload, 0)
	}
	head := append([]byte{0x43}, p.dest...)
	head = binary.BigEndian.AppendUint32(head, p.next)
	nonce := slices.Clone(p.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, uint64(p.next)) {
		nonce[4+i] ^= b
	}
	packet := p.aead.Seal(slices.Clone(head), nonce, p.payload, head)
	number := 1 + len(p.dest)
	var mask [16]byte
	p.mask.Encrypt(mask[:], packet[number+4:][:16])
	packet[0] ^= mask[0] & 0x1f
	for i := range 4 {
		packet[number+i] ^= mask[1+i]
	}
	p.next++
	p.payload = p.payload[:0]
	if _, err := p.sock.PacketConn.WriteTo(packet, p.to); err != nil {
		return err
	}
	if p.packets++; p.packets < 16 {
		return nil
	}
	return p.sync()
}

// sync waits until the peer has received everything: it acknowledges a PING, unless it has closed
// the connection.
func (p *puppet) sync() error {
	for range 4 {
		if p.gone {
			return nil
		}
		p.sock.drain()
		p.packets = -1
		p.payload = append(p.payload, 0x01)
		if err := p.send(); err != nil {
			return err
		}
		p.packets = 0
		select {
		case <-p.sock.heard:
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
	p.gone = true
	return nil
}

// A muzzle is a socket for quic-go that can be silenced after the handshake.
type muzzle struct {
	net.PacketConn
	heard chan struct{} // closed when a packet has arrived after seize

	mu     sync.Mutex
	dest   []byte // of the last packet with a short header
	sent   chan struct{}
	seized bool
}

func newMuzzle(c net.PacketConn) *muzzle {
	return &muzzle{PacketConn: c, heard: make(chan struct{}, 1), sent: make(chan struct{}, 1)}
}

// seize waits until quic-go has sent a packet with a short header, and then passes nothing on.
func (m *muzzle) seize(ctx context.Context) error {
	select {
	case <-m.sent:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seized = true
	return nil
}

func (m *muzzle) drain() {
	select {
	case <-m.heard:
	default:
	}
}

func (m *muzzle) WriteTo(b []byte, to net.Addr) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seized {
		return len(b), nil
	}
	if b[0]&0x80 == 0 {
		m.dest = slices.Clone(b[1:5]) // quic-go's connection IDs have 4 bytes
		select {
		case m.sent <- struct{}{}:
		default:
		}
	}
	return m.PacketConn.WriteTo(b, to)
}

func (m *muzzle) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := m.PacketConn.ReadFrom(b)
		m.mu.Lock()
		seized := m.seized
		m.mu.Unlock()
		if err != nil || !seized {
			return n, from, err
		}
		select {
		case m.heard <- struct{}{}:
		default:
		}
	}
}

// A keyLog collects secrets from crypto/tls.
type keyLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (k *keyLog) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.Write(b)
}

func (k *keyLog) secret(label string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	for line := range strings.Lines(k.b.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			secret, _ := hex.DecodeString(f[2])
			return secret
		}
	}
	return nil
}
