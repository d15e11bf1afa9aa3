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

// attackEnv makes a process that runs this test binary an attacker: its value is an attack in JSON.
const attackEnv = "CULVERT_TEST_ATTACK"

// An attack is what strangers do to a gateway, from a process of their own, so that what they hold is not taken for what the gateway holds.
type attack struct {
	Addr    string
	Conns   int  // QUIC connections, which stay open
	Streams int  // on each of them
	Uni     bool // whether they are unidirectional
	Bytes   int  // sent on each stream, from offset 1 on: offset 0 never comes
	Frame   int  // bytes of each STREAM frame
	Crypto  int  // bytes in CRYPTO frames of one byte, from offset 1 on
}

// start makes the attack, and returns when the gateway has taken all of it. What it did stays until the test ends or stop is called.
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
		t.Fatalf("the attacker said %q, %v", line, err)
	}
	return stop
}

// runAttack is the attacker's process. It ends when nobody holds its standard input any more.
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
				p, err := a.strike()
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

// strike makes one connection and sends what shall be held.
func (a attack) strike() (*puppet, error) {
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

// streamFrame is a STREAM frame, RFC 9000 §19.8.
func streamFrame(id, offset uint64, data []byte) []byte {
	b := quicvarint.Append([]byte{0x08 | 0x04 | 0x02}, id)
	b = quicvarint.Append(b, offset)
	b = quicvarint.Append(b, uint64(len(data)))
	return append(b, data...)
}

// A puppet is an end of a QUIC connection that sends whatever frames we like, as quic-go would not: quic-go shakes hands, and is deaf and mute
// from then on, while we write packets with the connection's keys.
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
	packets int // since the peer was last waited for
}

// puppetPayload is how many bytes of frames go into a packet.
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
	if _, err := s.Write([]byte{0x21}); err != nil { // a packet of the application's keys: the handshake is confirmed, and the peer's ID is known
		return nil, err
	}
	if err := sock.seize(ctx); err != nil {
		return nil, err
	}
	p, err := newPuppet(sock, to, keys.secret("CLIENT_TRAFFIC_SECRET_0"))
	c.CloseWithError(0, "") // which the peer does not hear
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

// add puts a frame into the next packet, and sends that when it is full.
func (p *puppet) add(frame []byte) {
	if p.gone {
		return
	}
	if len(p.payload)+len(frame) > puppetPayload && len(p.payload) > 0 {
		p.send()
	}
	p.payload = append(p.payload, frame...)
}

// send sends the packet, and waits now and then for the peer to take it.
func (p *puppet) send() error {
	for len(p.payload) < 4 { // so that there is a sample for the header's protection
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

// sync waits until the peer has taken what was sent: it answers a PING, unless it has closed the connection.
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

// A muzzle is a socket for a quic-go that is to fall silent when its handshake is over.
type muzzle struct {
	net.PacketConn
	heard chan struct{} // something came after seize

	mu     sync.Mutex
	dest   []byte // of the last packet with a short header
	sent   chan struct{}
	seized bool
}

func newMuzzle(c net.PacketConn) *muzzle {
	return &muzzle{PacketConn: c, heard: make(chan struct{}, 1), sent: make(chan struct{}, 1)}
}

// seize waits for a packet with a short header to leave, and lets nothing through from then on.
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

// A keyLog takes secrets from TLS.
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
