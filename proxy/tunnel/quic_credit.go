package tunnel

import (
	"errors"
	"reflect"

	"github.com/quic-go/quic-go"
)

// quic-go grants flow-control credit as bytes are read, and has no call that raises the credit of a
// connection: Config applies for the life of a connection, and the window of a stream adds only
// half as much again. But an unauthenticated peer must get little credit, and an authenticated one
// enough that 63 streams that nobody reads cannot stall the 64th (see windows). So this file, and
// no other, reaches for
//	func (*connectionFlowController) EnsureMinimumWindowSize(inc protocol.ByteCount, now monotime.Time)
//
// in the field connFlowController of the connection. The method takes a lock, and quic-go itself
// calls it from several goroutines. checkQUIC refuses to serve h3 with a version of quic-go that
// lacks it, and a test checks the credit that arrives.

// creditMethod looks up the field and the method, and checks the method's parameters.
func creditMethod() (field []int, method reflect.Method, err error) {
	f, ok := reflect.TypeFor[quic.Conn]().FieldByName("connFlowController")
	if !ok || f.Type.Kind() != reflect.Pointer {
		return nil, method, errQUICChanged
	}
	m, ok := f.Type.MethodByName("EnsureMinimumWindowSize")
	if !ok || m.Type.NumIn() != 3 || m.Type.In(1).Kind() != reflect.Int64 || m.Type.In(2).Kind() != reflect.Int64 {
		return nil, method, errQUICChanged
	}
	return f.Index, m, nil
}

var errQUICChanged = errors.New("this version of quic-go has no Conn.connFlowController.EnsureMinimumWindowSize(bytes, now), which h3 needs")

// checkQUIC returns an error if giveCredit would have no effect.
func checkQUIC() error {
	_, _, err := creditMethod()
	return err
}

// giveCredit raises what the peer may send on all streams of c together to bytes. The peer learns
// it with the next packet.
func giveCredit(c *quic.Conn, bytes int) {
	field, method, err := creditMethod()
	if err != nil {
		return // checkQUIC has returned this error before
	}
	controller := reflect.ValueOf(c).Elem().FieldByIndex(field)
	// The same pointer, without the flag that forbids method calls on unexported fields.
	controller = reflect.NewAt(controller.Type().Elem(), controller.UnsafePointer())
	// Start of the next auto-tuning epoch; the zero time will do.
	now := reflect.Zero(method.Type.In(2))
	method.Func.Call([]reflect.Value{controller, reflect.ValueOf(int64(bytes)).Convert(method.Type.In(1)), now})
}
