package tunnel

import (
	"errors"
	"reflect"

	"github.com/quic-go/quic-go"
)

// quic-go gives credit back as bytes are read, and raises a connection's credit no other way: there is no call for it, Config is one for the
// life of a connection, and what a stream's window adds is half as much again as that window. But strangers may have only a little, and 63 streams
// that nobody reads, opened right behind the first request, must not stop the 64th (see windows). So this file, and nothing else, reaches for
//
//	func (*connectionFlowController) EnsureMinimumWindowSize(inc protocol.ByteCount, now monotime.Time)
//
// in the connection's field connFlowController. quic-go calls it from other goroutines than the connection's, and it locks what it changes.
// checkQUIC refuses to serve h3 with a quic-go that has it no more; a test reads the credit that arrives.

// creditMethod looks up the method by which a connection gets more credit.
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

// checkQUIC reports that giveCredit would do nothing.
func checkQUIC() error {
	_, _, err := creditMethod()
	return err
}

// giveCredit raises what the peer may send on all streams of c together, which it learns with the next packet.
func giveCredit(c *quic.Conn, bytes int) {
	field, method, err := creditMethod()
	if err != nil {
		return // checkQUIC has said so
	}
	controller := reflect.ValueOf(c).Elem().FieldByIndex(field)
	controller = reflect.NewAt(controller.Type().Elem(), controller.UnsafePointer()) // the same pointer, of which methods may be called
	now := reflect.Zero(method.Type.In(2))                                           // long ago, for when the window shall grow by itself next
	method.Func.Call([]reflect.Value{controller, reflect.ValueOf(int64(bytes)).Convert(method.Type.In(1)), now})
}
