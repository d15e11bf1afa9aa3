package proxy

import (
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// keptInflight is how many requests an empty queue keeps memory for, which is a few KiB. Most
// clients never have more in flight; of those that do, many are idle for long.
const keptInflight = 64

// request is a request in flight, or a raw SASL token, which the broker answers in its turn, as it
// does requests.
type request struct {
	protocol.Request
	// sentID is the correlation id that we send to the broker instead of the client's. It is
	// random, so a client cannot guess it. A client that hides a request from us, by making us read
	// frames in another way than the broker does, gets a response that matches no sentID, and that
	// response is refused.
	sentID int32
	at     time.Time // when its header had been read
	queued bool      // another request of its connection was in flight before it
	answer []byte    // our own answer; nil if the request goes to the broker
	token  bool      // it is a raw SASL token
}

// queue holds requests in the order in which they are answered, in a ring that grows as needed. The
// zero value is empty. An empty queue gives back its memory, up to keptInflight.
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

// at returns the request that is answered after i others.
func (q *queue) at(i int) *request { return &q.ring[(q.head+i)%len(q.ring)] }

func (q *queue) grow() {
	ring := make([]request, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
	}
	q.ring, q.head = ring, 0
}

// pop removes the request that is answered next.
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

// restore returns the client's correlation id of the request that we sent to the broker as id, and
// clears that request. left is how many other requests have ids of ours. id 0 matches nothing, and
// only counts.
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
