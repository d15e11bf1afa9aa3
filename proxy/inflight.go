package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// maxInflight bounds the requests of one connection that await their response.
// Java keeps 5 by default and librdkafka a million; beyond the bound the client
// is simply not read from, as a busy broker would do.
const maxInflight = 4096

// keptInflight is for how many requests a connection keeps room when it has none:
// a few KiB.
const keptInflight = 64

var errConnOver = errors.New("connection is over")

// request is one request in flight, or a raw SASL token, which is answered in
// its turn as requests are.
type request struct {
	protocol.Request
	// sent is the correlation id that the broker is given in the place of the
	// client's. Nobody can foresee it: a response to another request, which a
	// client has hidden from us, cannot pass for this one's.
	sent   int32
	at     time.Time // its header had been read
	queued bool      // it waited behind another one of its connection
	answer []byte    // our own answer, where the request is not forwarded
	own    bool      // the requests' side writes answer itself: nothing was in flight
	token  bool      // a raw SASL token
}

// correlationIDs makes ids that nobody can foresee. The zero value is ready.
type correlationIDs struct {
	random [32]byte // for some ids: the system is asked for fewer bytes at a time at the same cost
	left   int
}

// next is never 0.
func (c *correlationIDs) next() int32 {
	for {
		if c.left == 0 {
			rand.Read(c.random[:])
			c.left = len(c.random)
		}
		c.left -= 4
		if id := int32(binary.BigEndian.Uint32(c.random[c.left:])); id != 0 {
			return id
		}
	}
}

// inflight is the queue of requests that await their response, in the order in
// which a broker answers, and the state that both directions of a Kafka
// connection share. A request stays in it until its response has been relayed.
type inflight struct {
	mu      sync.Mutex
	changed sync.Cond // for whoever waits for room, for emptiness or for a login's next step
	ring    []request // grows up to maxInflight
	head, n int

	login  bool            // what the client sends next depends on an answer that has not come
	tokens protocol.Tokens // of a login that is under way

	deaf   bool // nobody takes requests out any more
	opaque bool // frames are not followed any more
	closed bool
}

func newInflight() *inflight {
	q := &inflight{}
	q.changed.L = &q.mu
	return q
}

// placed says what became of a request that was pushed.
type placed uint8

const (
	awaited   placed = iota // its response is awaited
	alone                   // it is the caller's to answer, who then calls done: nothing can come from the broker meanwhile
	unawaited               // nobody waits for its response any more
)

// push appends r once there is room. It fails when the connection is over.
func (q *inflight) push(r request) (placed, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == maxInflight && !q.closed && !q.deaf {
		q.changed.Wait()
	}
	switch {
	case q.closed:
		return unawaited, errConnOver
	case q.deaf:
		return unawaited, nil
	}
	r.queued = q.n > 0
	r.own = r.answer != nil && !r.queued
	q.append(r)
	switch {
	case r.token:
		q.tokens.Sent()
		q.login = true
	case r.answer == nil && handshakesV0(r.Request):
		q.login = true
	}
	if r.own {
		return alone, nil
	}
	return awaited, nil
}

// handshakesV0 reports whether raw tokens follow the request if the broker
// accepts it.
func handshakesV0(r protocol.Request) bool {
	return r.Key == protocol.SASLHandshake && r.Version == 0
}

func (q *inflight) append(r request) {
	if q.n == len(q.ring) {
		q.grow()
	}
	*q.at(q.n) = r
	q.n++
}

// at is the request that is i-th to be answered.
func (q *inflight) at(i int) *request { return &q.ring[(q.head+i)%len(q.ring)] }

func (q *inflight) grow() {
	ring := make([]request, max(4, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = *q.at(i)
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
	return *q.at(0), true
}

// done removes the oldest request: its response has been relayed.
func (q *inflight) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove()
	q.changed.Broadcast()
}

func (q *inflight) remove() {
	*q.at(0) = request{}
	q.head = (q.head + 1) % len(q.ring)
	if q.n--; q.n == 0 && len(q.ring) > keptInflight {
		q.ring, q.head = nil, 0
	}
}

// stopAnswers says that the client is gone: nothing is waited for any more,
// while requests that were received before still go to the broker.
func (q *inflight) stopAnswers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deaf = true
	q.changed.Broadcast()
}

// bound ends the waits of the requests' side, who reads from the client no more while it waits, when the time is over: a client that has gone
// meanwhile is not seen. stop is to be called when the wait has ended.
func (q *inflight) bound(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, q.stopAnswers).Stop
}

// drain waits until nothing is in flight, or nobody takes answers. For tokens
// that may stay unanswered it does not wait.
func (q *inflight) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.tokens.InTurn() {
		q.dropTokens()
	}
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

// startTokens says that raw SASL tokens of a mechanism follow.
func (q *inflight) startTokens(m protocol.Mechanism) (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tokens, err = protocol.NewTokens(m)
	return err
}

// handshakeAnswered says that the broker has answered a SaslHandshake v0.
func (q *inflight) handshakeAnswered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.login = false
	q.changed.Broadcast()
}

// tokenDone is done for a raw token, which the broker has answered with size
// bytes.
func (q *inflight) tokenDone(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 || !q.at(0).token {
		return // the login was over for the client before
	}
	q.remove()
	q.tokens.Answered(size)
	q.login = false
	q.changed.Broadcast()
}

// inLogin returns the tokens of a login that is under way, and whether what the
// client sends next depends on an answer that has not come.
func (q *inflight) inLogin() (tokens protocol.Tokens, waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tokens, q.login
}

// awaitLogin waits for that answer. It fails where it will not be seen.
func (q *inflight) awaitLogin() (protocol.Tokens, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.login && !q.closed && !q.deaf {
		q.changed.Wait()
	}
	if q.login {
		return protocol.Tokens{}, errConnOver
	}
	return q.tokens, nil
}

// endLogin says that requests follow again. A token that is still in flight gets
// no answer.
func (q *inflight) endLogin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tokens, q.login = protocol.Tokens{}, false
	q.dropTokens()
	q.changed.Broadcast()
}

// dropTokens forgets the tokens that were pushed last.
func (q *inflight) dropTokens() {
	for q.n > 0 && q.at(q.n-1).token {
		q.n--
		*q.at(q.n) = request{}
	}
}

// full reports whether a push would wait.
func (q *inflight) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n == maxInflight
}

// giveUp says that frames cannot be followed any more. What is in flight keeps
// its place, for restore.
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

// restore returns the client's correlation id of a request that was given
// another before frames were not followed any more, and forgets the request.
// left is how many there are.
func (q *inflight) restore(id int32) (original int32, found bool, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.n {
		r := q.at(i)
		switch {
		case r.sent == 0: // a token, an answer of ours, or restored already
		case !found && r.sent == id:
			original, found = r.CorrelationID, true
			*r = request{}
		default:
			left++
		}
	}
	return original, found, left
}
