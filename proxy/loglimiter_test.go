package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What is warned of once in a while is told apart by its message, so that none silences another,
// whatever both are about.
func TestNoMessageSilencesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l logLimiter
		log := &memoryLog{} // of warnings, not of debug
		say := func(message, about string) bool {
			before := len(log.String())
			l.warn(log.logger(), message, about, "err", "no")
			return len(log.String()) > before
		}
		for _, test := range []struct {
			message, about string
			want           bool
		}{
			{"stream refused", "dial", true}, {"stream refused", "dial", false}, {"connection reset", "dial", true},
			{"stream refused", "target", true}, {"connection reset", "dial", false},
		} {
			if got := say(test.message, test.about); got != test.want {
				t.Errorf("%s, about %s: warned %t, want %t", test.message, test.about, got, test.want)
			}
		}
		time.Sleep(warnEvery)
		if !say("stream refused", "dial") {
			t.Errorf("not warned of again after %v", warnEvery)
		}
	})
}

// A client that speaks TLS, one that speaks HTTP, and a broker that requires TLS cause three
// warnings, although one reason counts them.
func TestEachProtocolThatIsNotKafkaIsWarnedOf(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 4))
		io.WriteString(c, "\x15\x03\x03\x00\x02\x02\x28")
		io.Copy(io.Discard, c)
	})
	log := &memoryLog{}
	agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.Logger = log.logger() })
	for says, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                                 "an HTTP request",
		"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00":               "a TLS ClientHello",
		string(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7)): "require TLS (--broker-tls)?",
	} {
		for range 2 {
			c := dialAgent(t, agent.address)
			io.WriteString(c, says)
			io.ReadAll(c)
		}
		waitFor(t, "the log to say "+want, func() bool { return warns(log.String(), []string{want}) })
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%d warnings of %s, want 1", n, want)
		}
	}
}
