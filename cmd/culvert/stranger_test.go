package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// hostile sets a terminal's title, clears its screen, reverses the direction of the line, uses C1
// controls as characters and as bytes, and hides text.
const hostile = "\x1b]0;owned\a\x1b[2J\u202e\u009b2J\x9b2J\x00\x7f\u2028\ufe0f\u200b\r\n\tend"

// huge is hostile and too long for a log record.
var huge = hostile + strings.Repeat("A", 1<<20)

// maxLine is the longest line that culvert may print: an error and its hint, each of the largest
// size and with every character escaped.
const maxLine = 24 << 10

// checkText fails the test if a terminal would act on anything in text.
func checkText(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > maxLine {
			t.Errorf("%s: a line of %d bytes: %.100q…", what, len(line), line)
		}
		if !utf8.ValidString(line) {
			t.Errorf("%s: no UTF-8: %.300q", what, line)
		}
		for _, r := range line {
			if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector) {
				t.Errorf("%s: %U in %.300q", what, r, line)
				break
			}
		}
	}
}

// examine runs culvert doctor with and without --json, and returns its output.
func examine(t *testing.T, what string, args ...string) string {
	t.Helper()
	var all strings.Builder
	for _, format := range [][]string{nil, {"--json"}, {"--log-format", "json", "--log-level", "debug"}, {"--log-format", "text", "--log-level", "debug"}} {
		var stdout, stderr bytes.Buffer
		run(append(append([]string{"doctor"}, args...), format...), &stdout, &stderr)
		checkText(t, what+", stdout", stdout.String())
		checkText(t, what+", stderr", stderr.String())
		all.WriteString(stdout.String() + stderr.String())
	}
	return all.String()
}

// hostileCertificate has names that a terminal should not show. Its file makes it trusted.
func hostileCertificate(t *testing.T, names ...string) (pair tls.Certificate, file string) {
	t.Helper()
	return certificateOf(t, strings.ToValidUTF8(hostile, "?")+strings.Repeat("A", 10<<10), names)
}

func certificateOf(t *testing.T, commonName string, names []string) (pair tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var addresses []net.IP
	if len(names) == 1 {
		addresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: commonName}, DNSNames: names, IPAddresses: addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// ascii is the part of hostile that a DNS name in a certificate can hold.
var ascii = strings.Map(func(r rune) rune {
	if r > unicode.MaxASCII {
		return -1
	}
	return r
}, hostile)

// serveConns listens on a free port, calls serve for each connection, and closes them when the test
// ends.
func serveConns(t *testing.T, config *tls.Config, serve func(net.Conn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c)
			}()
		}
	}()
	return ln.Addr().String()
}

// answerWith answers each request with the same bytes.
func answerWith(answer string) func(net.Conn) {
	return func(c net.Conn) {
		request := make([]byte, 4<<10)
		if n, err := c.Read(request); err == nil && n > 0 {
			io.WriteString(c, answer)
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c)
		}
	}
}

// hostileAnswers are HTTP answers from something that is not a gateway.
var hostileAnswers = map[string]string{
	"body of a gateway":     "HTTP/1.1 401 Unauthorized\r\nCulvert-Gateway: x\r\nConnection: close\r\n\r\n" + huge,
	"body of a gateway 400": "HTTP/1.1 400 Bad Request\r\nCulvert-Gateway: x\r\nConnection: close\r\n\r\n" + hostile,
	"body of somebody":      "HTTP/1.1 403 Forbidden\r\nServer: _\r\nConnection: close\r\n\r\n" + huge,
	"redirect":              "HTTP/1.1 302 Found\r\nLocation: /%1b]0;owned%07%1b[2J%e2%80%ae%c2%9b%9b\r\nConnection: close\r\n\r\n",
	"redirect to a host":    "HTTP/1.1 302 Found\r\nLocation: https://%e2%80%ae%c2%9b.example/\r\nConnection: close\r\n\r\n",
	"type":                  "HTTP/1.1 200 OK\r\nContent-Type: \x1b]0;owned\a\u202e\u009b\x9b\x7f\r\nConnection: close\r\n\r\n",
	"status line":           "HTTP/1.1 200 \x1b]0;owned\a\u202e\r\nConnection: close\r\n\r\n",
	"no HTTP":               hostile,
	"header line":           "HTTP/1.1 200 OK\r\n\x1b]0;owned\a\u202e\r\n\r\n",
}

// trusted is a certificate, and the flags with which an agent trusts it.
func trusted(t *testing.T) (config *tls.Config, flags []string) {
	t.Helper()
	certFile, keyFile := certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, []string{"--gateway-ca-file", certFile, "--transport", "ws"}
}

func TestADoctorPrintsNothingRawOfWhatAnswersForAGateway(t *testing.T) {
	config, flags := trusted(t)
	for what, answer := range hostileAnswers {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			address := serveConns(t, config, answerWith(answer))
			said := examine(t, what, append(flags, "--gateway-url", "https://"+address)...)
			if !strings.Contains(said, "fail  ws") {
				t.Errorf("the doctor did not come as far:\n%s", said)
			}
		})
	}
}

func TestADoctorPrintsNothingRawOfACertificate(t *testing.T) {
	var many []string
	for range 100 {
		many = append(many, ascii)
	}
	for what, names := range map[string][]string{"for us": {ascii + ".example"}, "for others": many, "for a CN": nil} {
		pair, file := hostileCertificate(t, names...)
		address := serveConns(t, &tls.Config{Certificates: []tls.Certificate{pair}}, answerWith(""))
		said := examine(t, what+", not trusted", "--gateway-url", "https://"+address, "--transport", "ws") +
			examine(t, what, "--gateway-url", "https://"+address, "--gateway-ca-file", file, "--transport", "ws")
		if !strings.Contains(said, `\x1b]0;owned`) {
			t.Errorf("%s: its name is not shown at all:\n%s", what, said)
		}
	}
}

// hostileGateway speaks the protocol of the tunnel, with hostile texts in it.
func hostileGateway(t *testing.T, config *tls.Config, refuse bool) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = ln.Addr().String()
	said := hostile + strings.Repeat("A", 8<<10)
	s := &tunnel.Server{
		TLS:    config,
		Opened: func() tunnel.Opened { return tunnel.Opened{Gateway: said} },
		Tickets: func() []tunnel.Ticket {
			return []tunnel.Ticket{{ClusterID: said, NodeID: 7, Address: "\x1b[2J\u202e.example:9092", Expires: time.Now().Add(time.Hour).Unix(), MAC: []byte("x")}}
		},
		Serve: func(_ context.Context, c *tunnel.Conn, _ *tunnel.Open, _ *tunnel.Peer) {
			if !refuse {
				brokerSays(c)
				return
			}
			c.Reset(&tunnel.Error{Code: tunnel.Code(hostile), Message: said})
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln, nil) }()
	t.Cleanup(func() {
		stop()
		<-done
		over, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(over)
	})
	return address
}

// brokerSays is a broker that answers with hostile names.
func brokerSays(c net.Conn) {
	for {
		frame, err := nextFrame(c)
		if err != nil || len(frame) < 8 {
			return
		}
		request := kmsg.RequestForKey(int16(frame[0])<<8 | int16(frame[1]))
		if request == nil {
			return
		}
		response := request.ResponseKind()
		response.SetVersion(int16(frame[2])<<8 | int16(frame[3]))
		var body []byte
		switch r := response.(type) {
		case *kmsg.ApiVersionsResponse:
			for key, most := range map[int16]int16{0: 9, 1: 12, 3: 8, 18: 3} {
				r.ApiKeys = append(r.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: most})
			}
			body = r.AppendTo(frame[4:8:8])
		case *kmsg.MetadataResponse:
			id := hostile + strings.Repeat("A", 8<<10)
			r.ClusterID = &id
			for node, host := range []string{"\x1b]0;owned\a.example", "\u202e\u009b\x9b", strings.Repeat("a", 20<<10), "127.0.0.1"} {
				r.Brokers = append(r.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(node), Host: host, Port: 1})
			}
			body = r.AppendTo(frame[4:8:8])
		default:
			return
		}
		c.Write(append([]byte{0, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...))
	}
}

func TestADoctorPrintsNothingRawOfWhatAGatewayAndABrokerSay(t *testing.T) {
	broker := serveConns(t, nil, brokerSays)
	noBroker := serveConns(t, nil, answerWith(hostile))
	config, flags := trusted(t)
	for what, test := range map[string]struct{ url, want string }{
		"gateway that refuses": {"https://" + hostileGateway(t, config, true), `\x1b]0;owned`},
		"gateway that goes on": {"https://" + hostileGateway(t, config, false), `broker 7`},
		"broker":               {"tcp://" + broker, `\x1b]0;owned`},
		"what is no broker":    {"tcp://" + noBroker, "not a Kafka broker"},
	} {
		args := []string{"--gateway-url", test.url}
		if strings.HasPrefix(test.url, "https") {
			args = append(args, flags...)
		}
		if said := examine(t, what, args...); !strings.Contains(said, test.want) {
			t.Errorf("%s: no %q in\n%.9000s", what, test.want, said)
		}
	}
}

// nextFrame reads a Kafka frame and returns it without its length.
func nextFrame(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:])&0xfffff)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// askForNodes sends what a Kafka client sends first.
func askForNodes(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for _, request := range []kmsg.Request{kmsg.NewPtrApiVersionsRequest(), kmsg.NewPtrMetadataRequest()} {
		c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(hostile)).AppendRequest(nil, request, 1))
		if _, err := nextFrame(c); err != nil {
			return
		}
	}
}

func TestAnAgentLogsNothingRaw(t *testing.T) {
	pair, _ := hostileCertificate(t, ascii)
	config, flags := trusted(t)
	for what, url := range map[string]string{
		"body of a gateway":    "https://" + serveConns(t, config, answerWith(hostileAnswers["body of a gateway"])),
		"redirect":             "https://" + serveConns(t, config, answerWith(hostileAnswers["redirect"])),
		"certificate":          "https://" + serveConns(t, &tls.Config{Certificates: []tls.Certificate{pair}}, answerWith("")),
		"gateway that refuses": "https://" + hostileGateway(t, config, true),
		"gateway that goes on": "https://" + hostileGateway(t, config, false),
		"broker that goes on":  "tcp://" + serveConns(t, nil, brokerSays),
	} {
		for _, format := range []string{formatText, formatJSON} {
			t.Run(what+" "+format, func(t *testing.T) {
				t.Parallel()
				args := []string{"agent", "--gateway-url", url, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t),
					"--admin-listen", "127.0.0.1:0", "--log-format", format, "--log-level", "debug"}
				if strings.HasPrefix(url, "https") {
					args = append(args, flags...)
				}
				agent := start(t, args...)
				line := agent.listening()
				askForNodes(t, find(t, `bootstrap (\S+:\d+)`, line))
				admin := find(t, `admin (http://[\d.:]+)`, line)
				for _, page := range []string{"/status", "/readyz", "/metrics"} {
					_, body := get(t, admin+page)
					checkText(t, page, body)
				}
				agent.stop()
				checkText(t, "log", agent.text())
				if tells := !strings.Contains(what, "goes on"); !strings.Contains(agent.text(), "connection") || tells && !strings.Contains(agent.text(), "x1b") {
					t.Errorf("nothing was logged of it:\n%s", agent.text())
				}
			})
		}
	}
}

func TestAGatewayLogsNothingRaw(t *testing.T) {
	certFile, keyFile := certificate(t)
	pair, caFile := certificateOf(t, strings.ToValidUTF8(hostile, "?"), []string{ascii}) // one that is longer is no identity
	for _, format := range []string{formatText, formatJSON} {
		gateway := start(t, "gateway", "--bootstrap", serveConns(t, nil, brokerSays), "--listen", "127.0.0.1:0", "--admin-listen", "none",
			"--tls-cert-file", certFile, "--tls-key-file", keyFile, "--client-ca-file", caFile, "--token-file", write(t, "one=1"),
			"--log-format", format, "--log-level", "debug")
		address := find(t, `listening on (\S+:\d+)`, gateway.listening())
		config := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
		for _, header := range []string{
			"Sf-Context-Current-User: \x1b\u202e\u009b\x9bBOB" + strings.Repeat("A", 8<<10),
			"Sf-Context-Current-User: \u202e\u009b\x9bBOB" + strings.Repeat("A", 8<<10),
			"Culvert-Authorization: Bearer \u202e\u009b\x9b",
			"Origin: http://\u202e\u009b\x9b.example",
		} {
			c, err := tls.Dial("tcp", address, config)
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(c, "GET /culvert HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n\r\n", header)
			answer, _ := io.ReadAll(c)
			c.Close()
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			checkText(t, "answer to "+header[:20], body)
		}
		if plain, err := net.Dial("tcp", address); err == nil {
			io.WriteString(plain, hostile)
			plain.Close()
		}
		agent := &tunnel.Dialer{URL: &url.URL{Scheme: "https", Host: address}, Transport: "ws", TLS: config, Token: func() (string, error) { return "1", nil }}
		for _, target := range []string{tunnel.TargetBootstrap, hostile + ":9092", "\u202e\u009b.example:9092", strings.Repeat("a", 10<<10) + ":9092"} {
			if c, err := agent.Dial(t.Context(), tunnel.Open{Target: target}, nil); err == nil {
				c.SetDeadline(time.Now().Add(5 * time.Second))
				if target != tunnel.TargetBootstrap {
					c.Read(make([]byte, 1))
				}
				c.Reset(&tunnel.Error{Code: tunnel.Code(hostile), Message: hostile})
				c.Close()
			}
		}
		agent.Close()
		gateway.stop()
		checkText(t, "log", gateway.text())
		for _, want := range []string{"request refused", "stream refused"} {
			if !strings.Contains(gateway.text(), want) {
				t.Errorf("no %q in\n%.3000s", want, gateway.text())
			}
		}
	}
}
