package doctor

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestTheHolderOfAPort(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			t.Logf("%s: %v", listen, err) // a machine without IPv6
			continue
		}
		if h := holderOf(ln.Addr().String()); h.pid != os.Getpid() || h.connected {
			t.Errorf("holderOf(%s) = %+v, want this process", ln.Addr(), h)
		}
		at := ln.Addr().String()
		ln.Close()
		if h := holderOf(at); h.pid != 0 || h.untold == "" {
			t.Errorf("holderOf(%s) = %v after it was closed", at, h)
		}
	}
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999"} {
		if h := holderOf(bad); h.pid != 0 {
			t.Errorf("holderOf(%q) = %v", bad, h)
		}
	}
}

// A port that one end of a connection has cannot be listened on, and that is no listener.
func TestAPortThatAConnectionHas(t *testing.T) {
	at, _ := listenOn(t)
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d := &Doctor{Names: flags}
	h, err := d.tryPort(c.LocalAddr().String())
	if f := d.taken(c.LocalAddr().String(), h, err); h.pid != os.Getpid() || !h.connected || !strings.Contains(f.Text, "for an outgoing connection") {
		t.Errorf("%+v: %+v", h, f)
	}
}

func TestAddressesOfTheKernel(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("these are addresses of a little-endian machine")
	}
	for s, want := range map[string]string{
		"0100007F:2384":                         "127.0.0.1:9092",
		"00000000000000000000000001000000:0016": "[::1]:22",
		"0000000000000000FFFF00000100007F:2384": "127.0.0.1:9092",
	} {
		ip, port, err := kernelAddress(s)
		if got := netip.AddrPortFrom(ip, uint16(port)).String(); err != nil || got != want {
			t.Errorf("kernelAddress(%s) = %s, %v, want %s", s, got, err, want)
		}
	}
	for _, bad := range []string{"", "zz:1", "01:zz", "0100007F"} {
		if _, _, err := kernelAddress(bad); err == nil {
			t.Errorf("kernelAddress(%q) is no error", bad)
		}
	}
}
