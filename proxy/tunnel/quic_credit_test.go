package tunnel

import (
	"reflect"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// This test fails if quic-go has changed: see quic_credit.go.
func TestAnAuthenticatedConnectionHasAllTheCredit(t *testing.T) {
	if err := checkQUIC(); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "h3")
	_, s := r.dial()
	controller := reflect.ValueOf(s.x.(*exchange.H3).Conn()).Elem().FieldByName("connFlowController").Elem()
	if n := controller.FieldByName("receiveWindowSize").Int(); n != int64(defaultWindows.connection) {
		t.Errorf("the window of the connection is %d, want %d", n, defaultWindows.connection)
	}
}
