package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// selfSigned returns a certificate of an agent.
func selfSigned(t *testing.T, serial int64) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "agent"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Sessions are resumed over each transport, without 0-RTT. They end when the agent's certificate is
// renewed, which the gateway must see at once, and after an hour, so that the agent sees that the
// gateway's was.
func TestTLSSessionsAreResumedUntilACertificateMayHaveChanged(t *testing.T) {
	for _, transport := range []string{TransportWS, TransportH2, TransportH3} {
		t.Run(transport, func(t *testing.T) {
			var own atomic.Pointer[tls.Certificate]
			own.Store(selfSigned(t, 1))
			var resumed atomic.Bool
			seen := make(chan int64, 100)
			r := newRig(t, transport, func(r *rig) {
				r.server.TLS = r.server.TLS.Clone()
				r.server.TLS.ClientAuth = tls.RequestClientCert
				r.server.Authenticate = func(q *http.Request) (string, error) {
					seen <- q.TLS.PeerCertificates[0].SerialNumber.Int64()
					return "", nil
				}
				r.dialer.TLS = r.dialer.TLS.Clone()
				r.dialer.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.Load(), nil }
				r.dialer.TLS.VerifyConnection = func(s tls.ConnectionState) error {
					resumed.Store(s.DidResume)
					return nil
				}
			})
			connect := func(what string, want bool, serial int64) {
				t.Helper()
				r.dialer.route.front.expires.Store(nil)
				c := r.unopened(Open{Target: TargetHello})
				if _, err := c.Opened(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := <-seen; resumed.Load() != want || got != serial {
					t.Errorf("%s: resumed %t with certificate %d, want %t with %d", what, resumed.Load(), got, want, serial)
				}
				if at := r.dialer.CertificateExpires(); time.Until(at) < time.Minute {
					t.Errorf("%s: the gateway's certificate expires at %v", what, at)
				}
				if transport == TransportH3 {
					p := r.h3()
					for _, k := range p.all() {
						if k.conn.ConnectionState().Used0RTT {
							t.Errorf("%s: 0-RTT was used", what)
						}
					}
				}
			}
			r.dialer.init()
			connect("first", false, 1)
			connect("second", true, 1)
			own.Store(selfSigned(t, 2))
			connect("with another certificate", false, 2)
			connect("again", true, 2)
			s := &r.dialer.route.sessions
			s.mu.Lock()
			s.until = time.Now()
			s.mu.Unlock()
			connect("an hour later", false, 2)
			connect("and again", true, 2)
		})
	}
}
