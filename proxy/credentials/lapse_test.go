package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// lapsing is a file with a gateway's credentials, the check of who is accepted by it, and what is
// logged.
type lapsing struct {
	file File
	may  func(who string) error
	log  *memoryLog
}

func lapsingTokens(t *testing.T) (l lapsing, content string) {
	t.Helper()
	content = "alice=one\nbob=two\n"
	l = lapsing{file: testFile(t, "--token-file", content), log: &memoryLog{}}
	tokens, err := ReadTokens(l.file, l.log.logger())
	if err != nil {
		t.Fatal(err)
	}
	c := &Policy{Tokens: tokens}
	l.may = func(token string) error {
		_, err := c.Authenticate(httpRequest("Authorization", "Bearer "+token))
		return err
	}
	return l, content
}

func lapsingCA(t *testing.T) (l lapsing, content string) {
	t.Helper()
	ours := testca.New(t, "ours")
	l = lapsing{file: testFile(t, "--client-ca-file", ours.PEM()), log: &memoryLog{}}
	ca, err := ReadClientCA(l.file, l.log.logger())
	if err != nil {
		t.Fatal(err)
	}
	c := &Policy{ClientCA: ca}
	cert := ours.Client(t, "agent")
	l.may = func(string) error {
		r := httpRequest()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		_, err := c.Authenticate(r)
		return err
	}
	return l, ours.PEM()
}

var lapses = map[string]func(*testing.T) (lapsing, string){"tokens": lapsingTokens, "client CA": lapsingCA}

// breaks are what can happen to a file that says who may come in.
var breaks = map[string]func(t *testing.T, f File){
	"deleted": func(t *testing.T, f File) { remove(t, f) },
	"emptied": func(t *testing.T, f File) { writeFile(t, f, "") },
	"garbage": func(t *testing.T, f File) { writeFile(t, f, "\x00\x01 no line of this\n is one\n") },
	"directory": func(t *testing.T, f File) {
		remove(t, f)
		if err := os.Mkdir(f.Path, 0o700); err != nil {
			t.Fatal(err)
		}
	},
	"dangling link": func(t *testing.T, f File) {
		remove(t, f)
		if err := os.Symlink("nowhere", f.Path); err != nil {
			t.Fatal(err)
		}
	},
}

func remove(t *testing.T, f File) {
	t.Helper()
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
}

// Who deletes the file of those who may come in does not mean that they all still may.
func TestAMissingFileAcceptsNobody(t *testing.T) {
	for what, open := range lapses {
		for how, spoil := range breaks {
			t.Run(what+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, content := open(t)
					time.Sleep(lapseAfter / 2)
					if err := l.may("one"); err != nil {
						t.Fatal(err)
					}
					spoil(t, l.file)
					time.Sleep(lapseAfter - 1)
					if err := l.may("one"); err != nil {
						t.Errorf("refused before %v were over: %v", lapseAfter, err)
					}
					time.Sleep(time.Nanosecond)
					for range 3 {
						err := l.may("one")
						if err == nil || !strings.Contains(err.Error(), "the gateway cannot read its ") || strings.Contains(err.Error(), l.file.Path) {
							t.Errorf("%v, want that the gateway cannot read it, and not where it is", err)
						}
					}
					if n := strings.Count(l.log.String(), "its credentials are rejected"); n != 1 || !strings.Contains(l.log.String(), l.file.String()) {
						t.Errorf("logged %d times, want once with its name:\n%s", n, l.log)
					}
					os.Remove(l.file.Path)
					writeFile(t, l.file, content)
					for range 2 {
						if err := l.may("one"); err != nil {
							t.Errorf("not let in though the file is back: %v", err)
						}
					}
					if n := strings.Count(l.log.String(), "file can be read again"); n != 1 {
						t.Errorf("all-clear given %d times, want once:\n%s", n, l.log)
					}
				})
			})
		}
	}
}

// A file that nobody has looked at for long may have been gone for long.
func TestAFileFoundMissingLateAcceptsNobody(t *testing.T) {
	for what, open := range lapses {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, _ := open(t)
				time.Sleep(time.Hour)
				remove(t, l.file)
				if l.may("one") == nil {
					t.Error("let in")
				}
			})
		})
	}
}

// To replace a file by removing it first cuts nobody off, and worries nobody.
func TestAFileMayBeReplacedInSteps(t *testing.T) {
	for what, open := range lapses {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, content := open(t)
				for _, step := range []func(){
					func() { remove(t, l.file) },
					func() { writeFile(t, l.file, "") },
					func() { writeFile(t, l.file, content) },
					func() { remove(t, l.file) },
					func() { writeFile(t, l.file, content) },
				} {
					step()
					if err := l.may("one"); err != nil {
						t.Error(err)
					}
					time.Sleep(lapseAfter / 3)
				}
				if s := l.log.String(); s != "" {
					t.Errorf("logged:\n%s", s)
				}
			})
		})
	}
}

// A slip of the pen in one line neither locks everybody out nor keeps a token in force that was
// taken out.
func TestABadLineLeavesTheOthersInUse(t *testing.T) {
	l, _ := lapsingTokens(t)
	writeFile(t, l.file, "alice=one\nthis is no token\n")
	for range 3 {
		if err := l.may("one"); err != nil {
			t.Error(err)
		}
		if l.may("two") == nil {
			t.Error("a token that was taken out is still let in")
		}
	}
	if n := strings.Count(l.log.String(), "line 2"); n != 1 || strings.Contains(l.log.String(), "this is") {
		t.Errorf("logged %d times, want once without the line:\n%s", n, l.log)
	}
}

// What lets nobody in stays in force: without a certificate there is no TLS at all, and without its
// token an agent is refused.
func TestWhatLetsNobodyInDoesNotLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := testca.New(t, "ours")
		caFile, keys := testFile(t, "--gateway-ca-file", ours.PEM()), testFile(t, "--ticket-key-file", "kkkkkkkkkkkkkkkk")
		ca, err := ReadCA(caFile, nil)
		if err != nil {
			t.Fatal(err)
		}
		ticketKeys, err := TicketKeys(keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		remove(t, caFile)
		remove(t, keys)
		time.Sleep(time.Hour)
		if err := ca.verify([]*x509.Certificate{ours.Client(t, "x")}, x509.ExtKeyUsageClientAuth, ""); err != nil {
			t.Errorf("CA: %v", err)
		}
		if got, err := ticketKeys(); len(got) != 1 || err != nil {
			t.Errorf("ticket keys: %q, %v", got, err)
		}
	})
}

func TestAGrantIsOfTheTokenThatWasShown(t *testing.T) {
	tokens, f := testTokens(t, "agent=old\nagent=new\n")
	c := &Policy{Tokens: tokens}
	with := func(token string) *http.Request { return httpRequest("Authorization", "Bearer "+token) }
	before, after := c.Grant(with("old")), c.Grant(with("new"))
	if judge := c.Judge(); judge(before) != nil || judge(after) != nil {
		t.Errorf("%v, %v, want both accepted", judge(before), judge(after))
	}
	writeFile(t, f, "agent=new\n")
	if judge := c.Judge(); judge(before) == nil || judge(after) != nil {
		t.Errorf("%v, %v, want the old one refused and the new one accepted", judge(before), judge(after))
	}
}

func TestAGrantOfACertificateEndsWithItsCA(t *testing.T) {
	old, other := testca.New(t, "old"), testca.New(t, "other")
	f := testFile(t, "--client-ca-file", old.PEM()+other.PEM())
	ca, err := ReadClientCA(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &Policy{ClientCA: ca}
	grantOf := func(cert *x509.Certificate) any {
		r := httpRequest()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		return c.Grant(r)
	}
	short := old.Sign(t, &x509.Certificate{NotAfter: time.Now().Add(-time.Second), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	first, second := grantOf(old.Client(t, "a")), grantOf(other.Client(t, "b"))
	for range 2 {
		if judge := c.Judge(); judge(first) != nil || judge(second) != nil || judge(grantOf(short)) == nil {
			t.Errorf("%v, %v, %v, want but the expired one accepted", judge(first), judge(second), judge(grantOf(short)))
		}
	}
	writeFile(t, f, other.PEM())
	if judge := c.Judge(); judge(first) == nil || judge(second) != nil {
		t.Errorf("%v, %v, want the one refused whose CA was taken out", judge(first), judge(second))
	}
}
