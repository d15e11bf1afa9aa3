package remedies

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// failed is how package net reports what a system call returned.
func failed(call string, number syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, number)}
}

func TestEachCauseIsTold(t *testing.T) {
	timedOut, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, test := range []struct {
		err  error
		want Cause
	}{
		{nil, Other},
		{errors.New("refused"), Other},
		{failed("connect", syscall.ECONNREFUSED), Refused},
		{fmt.Errorf("dial: %w", failed("connect", syscall.EHOSTUNREACH)), NoRoute},
		{failed("connect", syscall.ENETUNREACH), NoRoute},
		{failed("connect", syscall.ETIMEDOUT), Silence},
		{failed("socket", syscall.EMFILE), NoDescriptors},
		{failed("accept4", syscall.ENFILE), NoDescriptors},
		{timedOut.Err(), Silence},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, Silence},
		{&net.DNSError{Err: "no such host", Name: "kafka", IsNotFound: true}, NoSuchName},
		{&net.DNSError{Err: "i/o timeout", Name: "kafka", IsTimeout: true}, NoNameServer},
		{&net.DNSError{Err: "server misbehaving", Name: "kafka", IsTemporary: true}, NoNameServer},
		{errors.Join(timedOut.Err(), failed("connect", syscall.ECONNREFUSED)), Refused},
	} {
		if got := CauseOf(test.err); got != test.want {
			t.Errorf("CauseOf(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

// The causes as this machine's network reports them.
func TestCausesOfRealDials(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := net.Dial("tcp", ln.Addr().String()); CauseOf(err) != Refused {
		t.Errorf("a closed port: %v is %d, want %d", err, CauseOf(err), Refused)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := new(net.Dialer).DialContext(late, "tcp", ln.Addr().String()); CauseOf(err) != Silence {
		t.Errorf("a dial without time: %v is %d, want %d", err, CauseOf(err), Silence)
	}
}

func TestWhatIsWrongWithACertificate(t *testing.T) {
	now := time.Now()
	cert := func(from, to time.Duration) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "kafka\x1b"}, NotBefore: now.Add(from), NotAfter: now.Add(to)}
	}
	expired := func(c *x509.Certificate) error {
		return fmt.Errorf("TLS handshake: %w", x509.CertificateInvalidError{Cert: c, Reason: x509.Expired})
	}
	named := cert(-time.Hour, time.Hour)
	named.DNSNames = []string{"other.example"}
	numbered := cert(-time.Hour, time.Hour)
	numbered.IPAddresses = []net.IP{netip.MustParseAddr("127.0.0.1").AsSlice()}
	for _, test := range []struct {
		what string
		err  error
		want string
	}{
		{"expired", expired(cert(-2*time.Hour, -time.Hour)), "the certificate expired on " + now.Add(-time.Hour).UTC().Format("2006-01-02 15:04") + " UTC: if this machine's clock is right, ask its owner to renew it"},
		{"not valid yet", expired(cert(time.Hour, 2*time.Hour)), "the certificate is valid only from " + now.Add(time.Hour).UTC().Format("2006-01-02 15:04") + " UTC: is this machine's clock wrong?"},
		{"without names", x509.HostnameError{Certificate: cert(-time.Hour, time.Hour), Host: "kafka.example"}, `the common name ("kafka\x1b") is ignored: ask its owner to issue it again with kafka.example as subjectAltName`},
		{"for another name", x509.HostnameError{Certificate: named, Host: "kafka.example"}, ""},
		{"for an IP address", x509.HostnameError{Certificate: numbered, Host: "kafka.example"}, ""},
		{"of another authority", x509.UnknownAuthorityError{Cert: named}, ""},
		{"for another use", x509.CertificateInvalidError{Cert: named, Reason: x509.IncompatibleUsage}, ""},
		{"none", nil, ""},
	} {
		got := Certificate(test.err, "its owner")
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") || strings.ContainsRune(got, 0x1b) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

func TestIPv6WithoutBracketsIsRewritten(t *testing.T) {
	for address, want := range map[string]string{
		"::1:9092": "[::1]:9092", "fd00::5:9092": "[fd00::5]:9092", "fd00:0:0:0:0:0:0:5:9092": "[fd00:0:0:0:0:0:0:5]:9092",
		"::8443": "[::]:8443", ":::8443": "[::]:8443", "fd00::5": "[fd00::5]", "fe80::1%eth0:9092": "[fe80::1%eth0]:9092", "fd00::beef": "[fd00::beef]",
		"::ffff:10.0.0.1:9092": "[::ffff:10.0.0.1]:9092",
		"[::1]:9092":           "", "[::1]": "", ":9092": "", "kafka-0:9092": "", "10.0.0.1:9092": "", "kafka:9092:9093": "", "a:b:c": "", "": "", "1:2:3": "",
	} {
		err := MissingBrackets("tcp://", address, "/x")
		got := ""
		if err != nil {
			got = strings.Join(hints.Of(err, nil), "; ")
		}
		if want != "" {
			want = "write it as tcp://" + want + "/x"
		}
		if got != want || err != nil && err.Error() != "an IPv6 address needs brackets" {
			t.Errorf("%s: %v, hint %q, want %q", address, err, got, want)
		}
	}
}
