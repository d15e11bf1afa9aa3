package happyeyeballs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A network has the same answer for each dial of an address.
type network struct {
	mu      sync.Mutex
	answers map[string]answer
	dialled []string
	open    int // connections that nobody has discarded
	wins    int // connections that connect has returned
}

// An answer comes after some time. The zero value never comes.
type answer struct {
	after time.Duration
	err   error
}

func (n *network) dial(ctx context.Context, ip netip.Addr) (string, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, ip.String())
	a := n.answers[ip.String()]
	n.mu.Unlock()
	if a == (answer{}) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if a.err != nil {
		return "", a.err
	}
	n.mu.Lock()
	n.open++
	n.mu.Unlock()
	return ip.String(), nil
}

func (n *network) discard(string) {
	n.mu.Lock()
	n.open--
	n.mu.Unlock()
}

func (n *network) set(ip string, a answer) {
	n.mu.Lock()
	n.answers[ip] = a
	n.mu.Unlock()
}

var gateway = Host{"tcp", "gateway.example:443"}

// stillOpen returns how many connections nobody has discarded.
func (n *network) stillOpen() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// connect dials the gateway, within ten seconds.
func (n *network) connect(t *testing.T, h *History, to Host, ips ...string) (ip string, took time.Duration, err error) {
	t.Helper()
	var addresses []netip.Addr
	for _, ip := range ips {
		addresses = append(addresses, netip.MustParseAddr(ip))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := time.Now()
	ip, err = Dial(ctx, h, to, addresses, n.dial, n.discard)
	if err == nil {
		n.wins++
	}
	return ip, time.Since(start), err
}

// newHistory returns a history and its log.
func newHistory(t *testing.T) (*History, *bytes.Buffer) {
	var log bytes.Buffer
	h := &History{Log: slog.New(slog.NewTextHandler(&log, nil))}
	t.Cleanup(h.Close)
	return h, &log
}

func mustTake(t *testing.T, ip string, took time.Duration, err error, wantIP string, want time.Duration) {
	t.Helper()
	if ip != wantIP || took != want || err != nil {
		t.Errorf("connected to %q after %v (%v), want %s after %v", ip, took, err, wantIP, want)
	}
}

func TestADeadAddressCostsAQuarterOfASecondOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.2": {after: 10 * time.Millisecond}}}
		ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
		mustTake(t, ip, took, err, "10.0.0.2", 260*time.Millisecond)
		if _, delay := h.order(gateway, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}); delay != Delay {
			t.Errorf("the next head start is %v, want %v after a handshake of 10ms", delay, Delay)
		}
		for range 3 {
			ip, took, err = n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			mustTake(t, ip, took, err, "10.0.0.2", 10*time.Millisecond)
		}
		time.Sleep(2 * patience)
		for range 20 { // ten minutes in which it is checked again and again
			n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			n.connect(t, h, Host{"udp", gateway.Name}, "10.0.0.1", "10.0.0.2")
			time.Sleep(30 * time.Second)
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") ||
			!strings.Contains(got, "address=10.0.0.1") || !strings.Contains(got, "gateway.example:443") || !strings.Contains(got, "hint=") {
			t.Errorf("log = %q, want one warning with name, address and hint", got)
		}
		log.Reset()
		n.set("10.0.0.1", answer{after: 20 * time.Millisecond})
		for range 3 {
			ip, took, err = n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			mustTake(t, ip, took, err, "10.0.0.2", 10*time.Millisecond)
			n.connect(t, h, Host{"udp", gateway.Name}, "10.0.0.1", "10.0.0.2")
			time.Sleep(time.Minute)
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "address answers again") || !strings.Contains(got, "after=10m") {
			t.Errorf("log = %q, want one all-clear", got)
		}
		h.Close()
		if open := n.stillOpen(); open != n.wins {
			t.Errorf("%d connections are open, want %d", open, n.wins)
		}
	})
}

func TestTheNextAddressIsDialledAsSoonAsOneHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{
			"10.0.0.1": {time.Millisecond, errors.New("connection refused")},
			"10.0.0.2": {time.Millisecond, errors.New("TLS handshake failed")},
			"10.0.0.3": {after: time.Millisecond},
		}}
		ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		mustTake(t, ip, took, err, "10.0.0.3", 3*time.Millisecond)
		if got := log.String(); strings.Count(got, "WARN") != 2 || !strings.Contains(got, "connection refused") || !strings.Contains(got, "TLS handshake failed") {
			t.Errorf("log = %q, want why each address did not answer", got)
		}
	})
}

// What all addresses say is the caller's to report, and no address is to blame.
func TestAHostThatDoesNotAnswerAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.1": {time.Millisecond, errors.New("refused")}, "10.0.0.2": {time.Millisecond, errors.New("refused")}}}
		if _, _, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2"); err == nil || err.Error() != "refused" {
			t.Errorf("error = %v, want it once", err)
		}
		_, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.3")
		if took != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused; ") {
			t.Errorf("error = %v after %v, want that of each address, in their order, after 10s", err, took)
		}
		if log.Len() > 0 {
			t.Errorf("log = %q", log)
		}
	})
}

func TestASlowAddressIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.1": {after: 4 * time.Second}, "10.0.0.2": {after: time.Millisecond}}}
		ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
		mustTake(t, ip, took, err, "10.0.0.2", Delay+time.Millisecond)
		time.Sleep(time.Minute)
		if open := n.stillOpen(); log.Len() > 0 || open != 1 {
			t.Errorf("%d connections, log = %q", open, log)
		}
	})
}

// Without a route to an address, as with IPv6 on most machines, the address is not to blame.
func TestAnAddressWithoutARouteIsNotNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"2001:db8::1": {time.Millisecond, syscall.ENETUNREACH}, "10.0.0.2": {after: time.Millisecond}}}
		ip, took, err := n.connect(t, h, gateway, "2001:db8::1", "10.0.0.2")
		mustTake(t, ip, took, err, "10.0.0.2", 2*time.Millisecond)
		if log.Len() > 0 {
			t.Errorf("log = %q", log)
		}
	})
}

// Over a satellite a handshake takes longer than Delay, and one of them is enough.
func TestTheHeadStartFollowsTheRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.1": {after: 900 * time.Millisecond}, "10.0.0.2": {after: 900 * time.Millisecond}}}
		for range 2 {
			n.dialled = nil
			ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			mustTake(t, ip, took, err, "10.0.0.1", 900*time.Millisecond)
		}
		if len(n.dialled) != 1 {
			t.Errorf("dialled %s, want one address", n.dialled)
		}
		n.set("10.0.0.1", answer{})
		ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
		mustTake(t, ip, took, err, "10.0.0.2", 2700*time.Millisecond)
	})
}

func TestFamiliesTakeTurns(t *testing.T) {
	for answer, want := range map[string]string{
		"::1 ::2 10.0.0.1 10.0.0.2 10.0.0.3": "::1 10.0.0.1 ::2 10.0.0.2 10.0.0.3",
		"10.0.0.1 10.0.0.2 ::1":              "10.0.0.1 ::1 10.0.0.2",
		"::1 ::2":                            "::1 ::2",
	} {
		var addresses []netip.Addr
		for ip := range strings.FieldsSeq(answer) {
			addresses = append(addresses, netip.MustParseAddr(ip))
		}
		if got := fmt.Sprint(Interleave(addresses)); got != "["+want+"]" {
			t.Errorf("%s: %s, want %s", answer, got, want)
		}
	}
}

// Whoever controls a name in DNS may answer with a whole network, and its names may be many.
func TestWhatDNSCanMakeUsDoIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{}}
		var many []string
		for i := range 1000 {
			many = append(many, fmt.Sprintf("10.0.%d.%d", i/250, i%250))
		}
		many = append(many, "2001:db8::1")
		if _, took, err := n.connect(t, h, gateway, many...); err == nil || took != 10*time.Second || len(n.dialled) != MaxAddresses || !slices.Contains(n.dialled, "2001:db8::1") {
			t.Errorf("dialled %s in %v: %v", n.dialled, took, err)
		}
		n.set("10.0.0.1", answer{after: time.Millisecond})
		for i := range 2 * maxHosts {
			dead := fmt.Sprintf("10.9.%d.%d", i/250, i%250)
			n.set(dead, answer{time.Millisecond, errors.New("refused")})
			if ip, _, err := n.connect(t, h, Host{"tcp", fmt.Sprint(i)}, dead, "10.0.0.1"); ip != "10.0.0.1" || err != nil {
				t.Fatalf("connected to %q: %v", ip, err)
			}
		}
		for i := range 2 * maxSilent {
			dead := fmt.Sprintf("10.9.%d.%d", i/250, i%250)
			n.connect(t, h, gateway, dead, "10.0.0.1")
			h.Leave(gateway, netip.MustParseAddr("10.0.0.1")) // so that the dead one is dialled
		}
		if len(h.hosts) > maxHosts || len(h.hosts[gateway].silent) > maxSilent || strings.Count(log.String(), "\n") > maxLines {
			t.Errorf("%d hosts, %d silent addresses, %d lines", len(h.hosts), len(h.hosts[gateway].silent), strings.Count(log.String(), "\n"))
		}
	})
}

// Whatever a line has said must have its end, also when there are many: the status document shows it
// as going on until then.
func TestEachWarningHasItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.1": {after: time.Millisecond}}}
		both := func(answers answer) {
			for i := range 2 * maxLines {
				ip := fmt.Sprintf("10.9.0.%d", i)
				n.set(ip, answers)
				to := Host{"tcp", fmt.Sprint(i)}
				if answers.err == nil {
					n.connect(t, h, to, ip, "10.0.0.1")
					h.Leave(to, netip.MustParseAddr("10.0.0.1")) // so that the other one is dialled
				}
				n.connect(t, h, to, ip, "10.0.0.1")
			}
		}
		both(answer{time.Millisecond, errors.New("refused")})
		time.Sleep(time.Second)
		both(answer{after: time.Millisecond})
		began, ended := strings.Count(log.String(), "does not answer"), strings.Count(log.String(), "answers again")
		if began != maxLines || ended != began {
			t.Errorf("%d lines say that an address does not answer, and %d that it does again, want %d each", began, ended, maxLines)
		}
	})
}

// The hint says to remove such an address from DNS. That is the end of it too.
func TestAnAddressThatIsRemovedIsForgotten(t *testing.T) {
	for _, left := range [][]string{{"10.0.0.1"}, {"10.0.0.1", "10.0.0.2"}} {
		synctest.Test(t, func(t *testing.T) {
			h, log := newHistory(t)
			n := &network{answers: map[string]answer{
				"10.0.0.1": {after: time.Millisecond}, "10.0.0.2": {after: time.Millisecond}, "10.9.0.1": {time.Millisecond, errors.New("refused")},
			}}
			n.connect(t, h, gateway, "10.9.0.1", "10.0.0.1")
			for range 2 * forgetAfter / checkEvery { // as long as the name has it
				time.Sleep(checkEvery)
				n.connect(t, h, gateway, "10.9.0.1", "10.0.0.1")
			}
			if strings.Count(log.String(), "\n") != 1 {
				t.Errorf("before: %s, want one warning", log)
			}
			for range 2 * forgetAfter / checkEvery {
				time.Sleep(checkEvery)
				n.connect(t, h, gateway, left...)
			}
			if strings.Count(log.String(), "address that did not answer is dialled no more") != 1 || len(h.hosts[gateway].silent) != 0 {
				t.Errorf("after: %s, want the end of it", log)
			}
		})
	}
}

// A gateway that drains still accepts. What left it must reach another one.
func TestAnAddressThatIsLeftIsDialledLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{"10.0.0.1": {after: time.Millisecond}, "10.0.0.2": {after: time.Millisecond}}}
		n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
		h.Leave(gateway, netip.MustParseAddr("10.0.0.1"))
		for range 2 {
			ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			mustTake(t, ip, took, err, "10.0.0.2", time.Millisecond)
		}
		n.set("10.0.0.2", answer{time.Millisecond, errors.New("refused")})
		for _, want := range []time.Duration{2 * time.Millisecond, time.Millisecond} { // it is back
			ip, took, err := n.connect(t, h, gateway, "10.0.0.1", "10.0.0.2")
			mustTake(t, ip, took, err, "10.0.0.1", want)
		}
		if strings.Count(log.String(), "\n") != 1 {
			t.Errorf("log = %q, want one line, about the address that refuses", log)
		}
	})
}

func TestWhoGivesUpEndsAllDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newHistory(t)
		n := &network{answers: map[string]answer{}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err := Dial(ctx, h, gateway, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, n.dial, n.discard)
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		n.set("10.0.0.3", answer{after: time.Millisecond})
		n.connect(t, h, gateway, "10.0.0.1", "10.0.0.3")
		start = time.Now()
		h.Close()
		if time.Since(start) != 0 || log.Len() > 0 {
			t.Errorf("closed after %v, log = %q", time.Since(start), log)
		}
		n.connect(t, h, gateway, "10.0.0.1", "10.0.0.3") // harmless
	})
}

func TestLosersAreDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]answer{"10.0.0.1": {after: 300 * time.Millisecond}, "10.0.0.2": {after: 150 * time.Millisecond}}}
		conn, err := Race(t.Context(), 2, 200*time.Millisecond, func(_ context.Context, i int) (string, error) {
			return n.dial(context.Background(), []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}[i])
		}, n.discard)
		if conn != "10.0.0.1" || err != nil {
			t.Errorf("%q, %v", conn, err)
		}
		time.Sleep(time.Second)
		if open := n.stillOpen(); open != 1 {
			t.Errorf("%d connections are open", open)
		}
	})
}
