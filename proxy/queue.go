package proxy

import (
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// keptInflight is for how many requests a queue keeps room when it has none: a
// few KiB.
const keptInflight = 64

// request is one request in flight, or a raw SASL token, which is answered in
// its turn as requests are.
type request struct {
	protocol.Request
	// sentID is the correlation id that the broker is given in the place of the
	// client's. Nobody can foresee it: a response to another request, which a
	// client has hidden from us, cannot pass for this one's.
	sentID int32
	at     time.Time // its header had been read
	queued bool      // it waited behind another one of its connection
	answer []byte    // our own answer, where the request is not forwarded
	own    bool      // the requests' side writes answer itself: nothing was in flight
	token  bool      // a raw SASL token
}

// queue holds requests in the order in which they are answered. The zero value
// is empty. It grows as it must, and gives its memory back when it is empty.
type queue struct {
	ring    []request
	head, n int
}

func (q *queue) push(r request) {
	if q.n == len(q.ring) {
		q.grow()
	}
	*q.at(q.n) = r
	q.n++
}

// at is the request that is i-th to be answered.
func (q *queue) at(i int) *request { return &q.ring[(q.head+i)%len(q.ring)] }

func (q *queue) grow() {
	ring := make([]request, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
	}
	q.ring, q.head = ring, 0
}

// pop removes the request that is the first to be answered.
func (q *queue) pop() {
	*q.at(0) = request{}
	q.head = (q.head + 1) % len(q.ring)
	if q.n--; q.n == 0 && len(q.ring) > keptInflight {
		q.ring, q.head = nil, 0
	}
}

// dropTokens removes the tokens that were pushed last.
func (q *queue) dropTokens() {
	for q.n > 0 && q.at(q.n-1).token {
		q.n--
		*q.at(q.n) = request{}
	}
}

// restore returns the client's correlation id of the request that the broker was
// given as id, and forgets the request in its place. left is how many there are
// that were given ids of ours.
func (q *queue) restore(id int32) (original int32, found bool, left int) {
	for i := range q.n {
		r := q.at(i)
		switch {
		case r.sentID == 0: // a token, an answer of ours, or restored already
		case !found && r.sentID == id:
			original, found = r.CorrelationID, true
			*r = request{}
		default:
			left++
		}
	}
	return original, found, left
}
