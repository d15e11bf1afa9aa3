package tunnel

import (
	"context"
	"log/slog"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// A pool makes the streams of one transport, and has some of what they need ready beforehand.
type pool interface {
	// take makes a stream; open is its OPEN capsule, which leaves with the first write. Unless fresh is wanted, it takes what is ready, and
	// says so: whether the gateway is still behind that is not known.
	take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error)
	// fill makes as much ready as n new streams need, and keeps no more of it for long.
	fill(ctx context.Context, n int) error
	// drop keeps new streams off all that is there now. Those that are open go on.
	drop()
	// otherWay is what has streams opened in another way from now on, says which, and returns what undoes that; nil where there is but one way.
	otherWay() func() (by string, undo func())
	close() error
}

// poolEnv is what the pools of a Dialer share.
type poolEnv struct {
	*route
	*credentials
	t   timing
	w   windows
	log *slog.Logger

	carriers     int        // how many streams get a carrier of their own
	spares       func() int // how many streams are to be ready
	memory       *memoryWatch
	onUDPBuffers func(receive, send int)

	newStream  func(x exchange.Exchange, transport string, open []byte) (*Conn, error)
	dialSpare  func(ctx context.Context, transport string) (*Conn, error) // dials a stream without OPEN
	introduce  func(ctx context.Context, transport string) error          // dials a carrier for streams to come
	wantSpares func()                                                     // has the spares looked after soon
}
