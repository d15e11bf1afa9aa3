package credentials

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// A certificate that ends is said a week before, once a day, and when it has ended; and that a new
// one has taken its place.
func TestTheEndOfACertificateIsSaidAWeekBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testca.New(t, "culvert")
		replace := func(certFile, keyFile File, life time.Duration) {
			cert, key := ca.PairUntil(t, "culvert.example", time.Now().Add(life))
			writeFile(t, keyFile, key)
			writeFile(t, certFile, cert)
		}
		certFile, keyFile := testFile(t, "--tls-cert-file", ""), testFile(t, "--tls-key-file", "")
		replace(certFile, keyFile, 9*24*time.Hour)
		var log memoryLog
		e, err := NewExpiry(slog.New(slog.NewTextHandler(&log, nil)), Pair{certFile, keyFile}, Pair{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); e.Watch(ctx) }()
		defer func() { cancel(); <-done }()

		seen := 0 // lines
		passes := func(days float64, want ...string) {
			t.Helper()
			time.Sleep(time.Duration(days * 24 * float64(time.Hour)))
			synctest.Wait()
			lines := strings.Split(log.String(), "\n")
			lines = lines[seen : len(lines)-1]
			seen += len(lines)
			if len(lines) != len(want) {
				t.Fatalf("after %v days %d lines, want %d:\n%s", days, len(lines), len(want), strings.Join(lines, "\n"))
			}
			for i := range want {
				if !regexp.MustCompile(want[i]).MatchString(lines[i]) {
					t.Errorf("line %d is %q, want %s", i, lines[i], want[i])
				}
			}
		}
		soon := `level=WARN msg="certificate expires within a week" err="--tls-cert-file \S+: the certificate for culvert.example is valid until 2000-`
		var named string
		var notAfter func() time.Time
		e.Each(func(setting string, f func() time.Time) { named, notAfter = setting, f })
		passes(1.9)
		if left := time.Until(notAfter()).Round(time.Second); named != "--tls-cert-file" || left.Hours() != 7.1*24 {
			t.Errorf("%s expires in %v, want --tls-cert-file in 7.1 days", named, left)
		}
		passes(0.2, soon)
		passes(3, soon, soon, soon)
		passes(4.2, soon, soon, soon, `level=ERROR msg="certificate has expired" err="--tls-cert-file .* expired at 2000-`)
		replace(certFile, keyFile, 3*24*time.Hour)
		passes(0.01, soon)
		replace(certFile, keyFile, 90*24*time.Hour)
		passes(0.01, `level=INFO msg="certificate is valid" file="--tls-cert-file .*" not_after=2000-`)
		passes(1)
		if left := time.Until(notAfter()); left < 88*24*time.Hour {
			t.Errorf("the new certificate expires in %v, want three months", left)
		}
	})
}

func TestAnExpiredCertificateIsSaidAtTheStart(t *testing.T) {
	ca := testca.New(t, "culvert")
	cert, key := ca.PairUntil(t, "culvert.example", time.Now().Add(-time.Minute))
	var log bytes.Buffer
	if _, err := NewExpiry(slog.New(slog.NewTextHandler(&log, nil)), Pair{testFile(t, "--tls-cert-file", cert), testFile(t, "--tls-key-file", key)}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "certificate has expired"); n != 1 {
		t.Errorf("%d lines, want one:\n%s", n, &log)
	}
	if _, err := NewExpiry(nil, Pair{testFile(t, "--tls-cert-file", key), testFile(t, "--tls-key-file", key)}); err == nil {
		t.Error("files without a certificate are accepted")
	}
}
