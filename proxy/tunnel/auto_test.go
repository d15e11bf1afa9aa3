package tunnel

import (
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestAutoPrefersH3(t *testing.T) {
	r := newRig(t, TransportAuto, func(r *rig) {
		r.dialer.timing = defaultTiming
		r.dialer.timing.h3HeadStart = time.Minute // even on a slow machine
	})
	if c, _ := r.dial(); c.Transport() != TransportH3 {
		t.Errorf("auto took %s", c.Transport())
	}
}

func TestAutoPassesOverWhatIsUnlikely(t *testing.T) {
	r := newRig(t, TransportAuto, func(r *rig) { r.dialer.Unlikely = []string{TransportH3, TransportH2} })
	c, _ := r.dial()
	if s := r.dialer.State(); c.Transport() != TransportWS || s.Why != "h3 is not expected to work at this host" {
		t.Errorf("auto took %s, state %+v", c.Transport(), s)
	}
	if h2 := r.dialer.State().Tried[2]; !h2.Tried.IsZero() {
		t.Errorf("%+v was tried although ws worked", h2)
	}
}

// Many networks drop UDP silently.
func TestAutoFallsBackToWSWhenUDPIsSilent(t *testing.T) {
	r := newRig(t, "silent", func(r *rig) {
		r.dialer.Transport = TransportAuto
	})
	start := time.Now()
	c, s := r.dial()
	if c.Transport() != TransportWS || time.Since(start) > 3*time.Second {
		t.Errorf("auto took %s, after %v", c.Transport(), time.Since(start))
	}
	if s := r.dialer.State(); s.Transport != TransportWS || s.Why != "h3 has not answered yet" {
		t.Errorf("state %+v", s)
	}
	io.WriteString(c, "x")
	io.ReadFull(s, make([]byte, 1))
}

// ICMP reports that UDP is refused, so auto need not even wait for the head start.
func TestAutoDoesNotWaitForH3WhereUDPIsRefused(t *testing.T) {
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.Transport = TransportAuto
		r.dialer.timing = defaultTiming
		r.dialer.timing.h3HeadStart = time.Hour
	})
	c, _ := r.dial()
	if s := r.dialer.State(); c.Transport() != TransportWS || !strings.Contains(s.Why, "UDP does not get through") {
		t.Errorf("state %+v", s)
	}
}

func TestADialerThatReachesNoGateway(t *testing.T) {
	u, _ := url.Parse("https://127.0.0.1:1")
	d := &Dialer{URL: u, timing: defaultTiming}
	d.timing.handshake = time.Second
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "no transport reaches the gateway: ") ||
		!strings.Contains(err.Error(), "; over ws and h2: dial tcp 127.0.0.1:1: ") {
		t.Errorf("Dial = %v", err)
	}
}

// A spare's dial that fails at once reports why, so that the next stream finds another transport
// ready.
func TestTheRaceLearnsOfASpareThatCannotBeDialled(t *testing.T) {
	var sock net.PacketConn
	r := newRig(t, TransportAuto, func(r *rig) {
		sock = r.udp
		r.dialer.timing.spares = 10 * time.Millisecond
	})
	r.dialer.SetSpares(2)
	waitUntil(t, func() bool { return r.dialer.State().Transport == TransportH3 })
	sock.Close() // from now on ICMP reports that the port is closed
	r.h3().drop()
	waitUntil(t, func() bool { return r.dialer.State().Transport == TransportWS })
	p := r.dialer.pools[TransportWS].(*wsPool)
	waitUntil(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.spares) == 2
	})
	if h3 := r.dialer.State().Tried[0]; h3.Error == "" || strings.Contains(h3.Error, "canceled") {
		t.Errorf("what is known of h3: %+v", h3)
	}
}
