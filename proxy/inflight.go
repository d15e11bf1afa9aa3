package proxy

import (
	"errors"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// maxInflight bounds the requests of one connection that await their response.
// Java keeps 5 by default and librdkafka a million; beyond the bound the client
// is simply not read from, as a busy broker would do.
const maxInflight = 4096

var errConnOver = errors.New("connection is over")

// request is one request in flight.
type request struct {
	protocol.Request
	at     time.Time // its header had been read
	queued bool      // it waited behind another one of its connection
	answer []byte    // our own answer, where the request is not forwarded
	own    bool      // the requests' side writes answer itself: nothing was in flight
}

// inflight is the queue of requests that await their response, in the order in
// which a broker answers, and the state that both directions of a Kafka
// connection share. A request stays in it until its response has been relayed.
type inflight struct {
	mu      sync.Mutex
	changed sync.Cond // for whoever waits for room or for emptiness
	ring    []request // grows up to maxInflight
	head, n int

	deaf     bool // nobody takes requests out any more
	tokens   bool // raw SASL tokens travel, not frames with headers
	answered bool // the broker has answered one of them
	opaque   bool // frames are not followed any more
	closed   bool
}

func newInflight() *inflight {
	q := &inflight{}
	q.changed.L = &q.mu
	return q
}

// push appends r once there is room. It fails when the connection is over. An
// answer of our own that comes to stand alone is the caller's to write, who
// then calls done: nothing can come from the broker meanwhile.
func (q *inflight) push(r request) (own bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == maxInflight && !q.closed && !q.deaf {
		q.changed.Wait()
	}
	if q.closed {
		return false, errConnOver
	}
	q.tokens = false
	if q.deaf {
		return false, nil
	}
	r.queued = q.n > 0
	r.own = r.answer != nil && !r.queued
	if q.n == len(q.ring) {
		q.grow()
	}
	q.ring[(q.head+q.n)%len(q.ring)] = r
	q.n++
	return r.own, nil
}

func (q *inflight) grow() {
	ring := make([]request, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = q.ring[(q.head+i)%len(q.ring)]
	}
	q.ring, q.head = ring, 0
}

// oldest returns the request that the next response answers. ok is false when
// none is in flight.
func (q *inflight) oldest() (r request, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return request{}, false
	}
	return q.ring[q.head], true
}

// done removes the oldest request: its response has been relayed.
func (q *inflight) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ring[q.head] = request{}
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	q.changed.Broadcast()
}

// stopAnswers says that the client is gone: nothing is waited for any more,
// while requests that were received before still go to the broker.
func (q *inflight) stopAnswers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deaf = true
	q.changed.Broadcast()
}

// drain waits until nothing is in flight, or nobody takes answers.
func (q *inflight) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n > 0 && !q.closed && !q.deaf {
		q.changed.Wait()
	}
}

// close ends every wait.
func (q *inflight) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// startTokens says that raw SASL tokens follow, both ways, until the next push.
func (q *inflight) startTokens() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tokens, q.answered = true, false
}

// tokenAnswered says that the broker has answered a raw token.
func (q *inflight) tokenAnswered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answered = true
}

// inTokens reports whether raw SASL tokens travel, and whether the broker has
// answered one of them.
func (q *inflight) inTokens() (tokens, answered bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tokens, q.answered
}

// full reports whether a push would wait.
func (q *inflight) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n == maxInflight
}

// giveUp says that frames cannot be followed any more.
func (q *inflight) giveUp() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.opaque, q.deaf = true, true
	q.changed.Broadcast()
}

func (q *inflight) givenUp() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.opaque
}
