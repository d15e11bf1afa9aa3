package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tlsBroker is a broker that speaks TLS and says so to nobody else: it ends what is none.
func tlsBroker(t *testing.T, config *tls.Config) string {
	t.Helper()
	serve := answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) })
	return fakeBroker(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			serve(s)
			s.Close()
		}
	})
}

// brokersWith dials one broker with files, each of which may be left out.
func brokersWith(t *testing.T, broker string, files credentials.ClientTLS, name string) *Brokers {
	t.Helper()
	b := &Brokers{Bootstrap: []string{broker}, ServerName: name, Names: flags}
	config, err := credentials.ClientTLS{CertFile: files.CertFile, KeyFile: files.KeyFile}.Config(name)
	b.TLS = mustConfig(t, config, err)
	if files.CAFile.Path != "" {
		if b.CA, err = credentials.ReadCA(files.CAFile, nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// Whatever is wrong between culvert and a broker, the log says it once, aloud and with what to look
// at, at either end, and no client waits.
func TestBrokerTLSErrorsAreOneSentence(t *testing.T) {
	own, other := newTLSFixture(t, "own"), newTLSFixture(t, "other")
	serverConfig := func(s credentials.ServerTLS) *tls.Config {
		config, err := s.Config()
		return mustConfig(t, config, err)
	}
	server := serverConfig(credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile})
	mutual := serverConfig(credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile, ClientCAFile: own.caFile})
	mutual12 := mutual.Clone()
	mutual12.MaxVersion = tls.VersionTLS12
	cert, key := own.ca.PairUntil(t, "culvert.example", time.Now().Add(-time.Minute))
	expired := serverConfig(credentials.ServerTLS{CertFile: testFile(t, "c", cert), KeyFile: testFile(t, "k", key)})
	oldest := server.Clone()
	oldest.MinVersion, oldest.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	ends := func(answer string) string {
		return fakeBroker(t, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 4)) // a length of 369 MB, which Kafka answers with an end
			io.WriteString(c, answer)
		})
	}
	for _, test := range []struct {
		what, broker string
		files        credentials.ClientTLS
		name         string
		want         []string
	}{
		{"a broker that speaks plaintext", ends(""), credentials.ClientTLS{}, "", []string{"TLS handshake: ", "does this broker listener speak TLS? If not, leave out --broker-tls"}},
		{"something that answers otherwise", ends("SSH-2.0-OpenSSH_9.2\r\n"), credentials.ClientTLS{}, "", []string{"does not look like a TLS handshake", "leave out --broker-tls"}},
		{"a CA that has not signed", tlsBroker(t, server), credentials.ClientTLS{CAFile: other.caFile}, "", []string{"unknown authority", `is "CN=own", which signed the broker's certificate, in --broker-ca-file?`}},
		{"a CA that the system does not know", tlsBroker(t, server), credentials.ClientTLS{}, "", []string{"unknown authority", "in --broker-ca-file?"}},
		{"an expired certificate", tlsBroker(t, expired), credentials.ClientTLS{CAFile: own.caFile}, "", []string{"expired", "if this machine's clock is right, ask whoever runs the broker to renew it"}},
		{"another name", tlsBroker(t, server), credentials.ClientTLS{CAFile: own.caFile}, "kafka.example", []string{"not kafka.example", "--broker-server-name sets the name that the certificate must contain"}},
		{"no certificate of ours", tlsBroker(t, mutual), credentials.ClientTLS{CAFile: own.caFile}, "", []string{"from the broker; does it require a client certificate", "--broker-cert-file and --broker-key-file"}},
		{"no certificate of ours, TLS 1.2", tlsBroker(t, mutual12), credentials.ClientTLS{CAFile: own.caFile}, "", []string{"from the broker; does it require a client certificate"}},
		{"a certificate of another CA", tlsBroker(t, mutual), credentials.ClientTLS{CAFile: own.caFile, CertFile: other.certFile, KeyFile: other.keyFile}, "", []string{"from a CA that it trusts?"}},
		{"TLS of long ago", tlsBroker(t, oldest), credentials.ClientTLS{CAFile: own.caFile}, "", []string{"TLS handshake: ", "protocol version not supported", "which TLS versions"}},
	} {
		for _, transport := range []string{"ws", "direct"} {
			t.Run(test.what+"/"+transport, func(t *testing.T) {
				agentLog, gatewayLog := &memoryLog{}, &memoryLog{}
				logs := []*memoryLog{agentLog}
				var up Upstream = NewDirect(brokersWith(t, test.broker, test.files, test.name))
				var gateway *Gateway
				if transport != "direct" {
					logs = append(logs, gatewayLog)
					up = tunnelTo(t, startGateway(t, []string{test.broker}, func(g *Gateway) {
						gateway, g.Brokers, g.Logger = g, brokersWith(t, test.broker, test.files, test.name), gatewayLog.logger()
					}).address, transport)
				}
				agent := startAgent(t, up, func(a *Agent) { a.Logger = agentLog.logger() })
				c := dialKafka(t, agent.address)
				c.send(kmsg.NewPtrMetadataRequest(), 1)
				if got, reset := ended(t, c); len(got) > 0 || !reset {
					t.Errorf("the client read %q, reset %v, want a reset", got, reset)
				}
				for _, log := range logs {
					waitFor(t, "the log to say "+test.want[0], func() bool { return warns(log.String(), test.want) })
				}
				if gateway == nil {
					return
				}
				waitFor(t, "the gateway to find out by itself", func() bool {
					return warns(gatewayLog.String(), append([]string{"no bootstrap broker answers"}, test.want...))
				})
				if err := gateway.Ready(); err == nil {
					t.Error("the gateway is ready")
				}
			})
		}
	}
}

// An alert on a connection that has long stood is none of the handshake's.
func TestALateAlertIsNotAHandshakeError(t *testing.T) {
	own := newTLSFixture(t, "own")
	config, err := credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile}.Config()
	config = mustConfig(t, config, err)
	broker := fakeBroker(t, func(c net.Conn) {
		s := tls.Server(c, config)
		s.Write([]byte("x"))
		io.Copy(io.Discard, s) // which answers what is no TLS with an alert
	})
	conn, err := brokersWith(t, broker, credentials.ClientTLS{CAFile: own.caFile}, "").dial(t.Context(), broker)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 1)
	if _, err := conn.Read(b); err != nil {
		t.Fatal(err)
	}
	conn.(*brokerConn).NetConn().Write([]byte("\x17\x03\x03\x00\x20 32 bytes that nobody has encrypted"))
	if _, err := conn.Read(b); !isAlert(err) || strings.Contains(err.Error(), "TLS handshake") {
		t.Errorf("read = %v, want an alert that is not the handshake's", err)
	}
}

// What accepts a connection and says nothing is no TLS either.
func TestABrokerThatIsSilentInTheHandshakeIsReported(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := brokersWith(t, broker, credentials.ClientTLS{}, "").dial(ctx, broker)
	if want := "the broker sends nothing: does this listener speak TLS?"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("dial = %v, want %q", err, want)
	}
}

// A gateway is ready when a broker has answered it.
func TestAGatewayIsReadyWhenABrokerAnswers(t *testing.T) {
	own := newTLSFixture(t, "own")
	config, err := credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile, ClientCAFile: own.caFile}.Config()
	broker := tlsBroker(t, mustConfig(t, config, err))
	ours := credentials.ClientTLS{CAFile: own.caFile, CertFile: own.certFile, KeyFile: own.keyFile}
	var gateway *Gateway
	startGateway(t, []string{broker}, func(g *Gateway) { gateway, g.Brokers = g, brokersWith(t, broker, ours, "") })
	waitFor(t, "the gateway to be ready", func() bool { return gateway.Ready() == nil })
}

// warns reports whether one line of a log is a warning with all these words.
func warns(log string, words []string) bool {
	for line := range strings.Lines(log) {
		all := strings.Contains(line, "level=WARN")
		for _, w := range words {
			all = all && strings.Contains(strings.ReplaceAll(line, `\"`, `"`), w)
		}
		if all {
			return true
		}
	}
	return false
}

// Files are read again for dials of brokers as they are for handshakes of others: a gateway
// outlives certificates.
func TestNewDialsOfBrokersUseNewFiles(t *testing.T) {
	old, next := newTLSFixture(t, "old"), newTLSFixture(t, "next")
	server := func(f tlsFixture) string {
		config, err := credentials.ServerTLS{CertFile: f.certFile, KeyFile: f.keyFile, ClientCAFile: f.caFile}.Config()
		return tlsBroker(t, mustConfig(t, config, err))
	}
	before, after := server(old), server(next)
	cert, key := old.ca.Pair(t, "culvert.example")
	ours := credentials.ClientTLS{CAFile: testFile(t, "ca", old.ca.PEM()), CertFile: testFile(t, "cert", cert), KeyFile: testFile(t, "key", key)}
	brokers := brokersWith(t, before, ours, "")
	works := func(broker string) bool {
		c, err := brokers.dial(t.Context(), broker)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
		_, err = readFrame(c)
		return err == nil
	}
	if !works(before) || works(after) {
		t.Fatal("the old files are not good for the old broker alone")
	}
	cert, key = next.ca.Pair(t, "culvert.example")
	writeFile(t, ours.CAFile, next.ca.PEM())
	writeFile(t, ours.CertFile, cert)
	writeFile(t, ours.KeyFile, key)
	if works(before) || !works(after) {
		t.Error("the new files are not good for the new broker alone")
	}
}

// A client whose security.protocol or certificates do not fit is ended at once, and the agent's log
// says why.
func TestClientTLSErrorsAreOneSentence(t *testing.T) {
	own, other := newTLSFixture(t, "own"), newTLSFixture(t, "other")
	config, err := credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile, ClientCAFile: own.caFile}.Config()
	listen := mustConfig(t, config, err)
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	tlsClient := func(files credentials.ClientTLS) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn {
			config, err := files.Config("127.0.0.1")
			return tls.Client(c, mustConfig(t, config, err))
		}
	}
	plain := func(c net.Conn) net.Conn { return c }
	for _, test := range []struct {
		what   string
		listen *tls.Config
		wrap   func(net.Conn) net.Conn
		says   string
		want   []string
	}{
		{"plaintext to TLS", listen, plain, "", []string{"client's TLS handshake failed", "is the client's security.protocol SSL or SASL_SSL?"}},
		{"HTTP to TLS", listen, plain, "GET / HTTP/1.1\r\n\r\n", []string{"client's TLS handshake failed", "this port speaks TLS"}},
		{"TLS to plaintext", nil, tlsClient(credentials.ClientTLS{CAFile: own.caFile}), "", []string{"a TLS ClientHello", "the client speaks TLS and this port does not: set security.protocol to PLAINTEXT or SASL_PLAINTEXT in the client, or give the agent --listen-tls-cert-file"}},
		{"the end of TLS to plaintext", nil, plain, "\x15\x03\x01\x00\x02\x02\x28", []string{"a TLS alert", "the client speaks TLS and this port does not"}},
		{"HTTP to plaintext", nil, plain, "GET / HTTP/1.1\r\n\r\n", []string{"an HTTP request", "does a browser, a health check or an HTTP client have its address?"}},
		{"PROXY protocol to plaintext", nil, plain, "PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n", []string{"a PROXY protocol header", "turn the PROXY protocol off where the load balancer connects to this port"}},
		{"a length of -1", nil, plain, "\xff\xff\xff\xff\x00\x00\x00\x00", []string{"length -1", `hint="is this a Kafka client, or something that scans ports?"`}},
		{"no certificate", listen, tlsClient(credentials.ClientTLS{CAFile: own.caFile}), "", []string{"provide a certificate", "--listen-client-ca-file", "ssl.keystore.location"}},
		{"a certificate of another CA", listen, tlsClient(credentials.ClientTLS{CAFile: own.caFile, CertFile: other.certFile, KeyFile: other.keyFile}), "", []string{"unknown authority", "--listen-client-ca-file"}},
		{"a client that trusts others", listen, tlsClient(credentials.ClientTLS{CAFile: other.caFile}), "", []string{"remote error", "does the client trust the CA that signed --listen-tls-cert-file"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			log := &memoryLog{}
			agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.ListenTLS, a.Logger = test.listen, log.logger() })
			c := test.wrap(dialAgent(t, agent.address))
			if test.says == "" {
				test.says = string(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
			}
			io.WriteString(c, test.says)
			if got, err := io.ReadAll(c); tunnel.IsTimeout(err) || strings.Contains(string(got), "127.0.0.1") {
				t.Errorf("the client read %q, %v, want an end", got, err)
			}
			waitFor(t, "the log to say "+test.want[0], func() bool { return warns(log.String(), test.want) })
			if strings.HasPrefix(test.want[0], "client's TLS") && gauge(t, agent, "culvert_refused_total") != 1 {
				t.Error("the refusal was not counted")
			}
		})
	}
}

// A probe that only checks whether the port is open causes no warning.
func TestAProbeOfATLSListenerIsNoWarning(t *testing.T) {
	own := newTLSFixture(t, "own")
	config, err := credentials.ServerTLS{CertFile: own.certFile, KeyFile: own.keyFile}.Config()
	listen := mustConfig(t, config, err)
	log := &memoryLog{}
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) {
		a.ListenTLS, a.Logger = listen, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	dialAgent(t, agent.address).Close()
	waitFor(t, "the probe", func() bool { return strings.Contains(log.String(), "client did not finish its TLS handshake") })
	if strings.Contains(log.String(), "level=WARN") || gauge(t, agent, "culvert_refused_total") != 0 {
		t.Errorf("the probe caused a warning:\n%s", log)
	}
}
