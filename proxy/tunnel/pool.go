package tunnel

import (
	"context"
	"log/slog"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A pool opens the streams of one transport. It keeps some carriers or exchanges ready, so that a
// new stream need not wait for handshakes.
type pool interface {
	// take opens a stream. open is its OPEN capsule, which leaves with the first write. If fresh is
	// false, take prefers what is ready and returns ready = true; nobody knows then whether the
	// gateway is still reachable over it.
	take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error)
	// missing returns how many more calls of prepare it takes until enough is ready for n new
	// streams, and lets any surplus expire. It may return fewer than that, to be asked again.
	missing(n int) int
	// prepare makes something ready, for one new stream or for several.
	prepare(ctx context.Context) error
	// drop puts no new streams on anything that exists now. Open streams continue.
	drop()
	// elsewhere has the next carrier begin at another address of this machine. A balancer that goes
	// by addresses may then lead it to another gateway. Carriers that exist stay in use.
	elsewhere()
	// otherMethod returns a function that switches to another HTTP method for opening streams and
	// returns the method's name and a function that switches back. It returns nil if the transport
	// has only one method.
	otherMethod() func() (by string, undo func())
	// otherSending returns another way to send that may be faster, and a function that changes to
	// it and returns one that changes back. how is "" if there is none.
	otherSending() (how string, try func() (undo func()))
	close() error
}

// poolEnv is what all pools of a Dialer share.
type poolEnv struct {
	*route
	*credentials
	t   timing
	w   windows
	log *slog.Logger

	carriers     int        // how many carriers there are at most while none is full
	spares       func() int // how many streams should be ready
	memory       *memoryWatch
	onUDPBuffers func(receive, send int)

	newStream func(x exchange.Exchange, transport string, open []byte) (*Conn, error)
	dialSpare func(ctx context.Context, transport string) (*Conn, error) // dials a stream that has no OPEN yet
	// Dials a carrier and authenticates on it, for later streams.
	introduce func(ctx context.Context, transport string) error
	// Asks for the spares to be replenished soon; does not block.
	wantSpares func()
	// Asks for something to be ready soon, also where no spares are wanted; does not block.
	wantOne func()
	// Wants no more spares than were set, until the next burst.
	forgetBursts func()
}
