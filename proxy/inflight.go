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

// inflight is what both directions of a Kafka connection share: the requests
// that await their response, in the order in which a broker answers, and how far
// a login is. A request stays in it until its response has been relayed.
type inflight struct {
	mu      sync.Mutex
	changed sync.Cond // for whoever waits for room, for emptiness or for a login's next step
	queue   queue     // up to maxInflight
	login   login

	answersStopped bool // nobody relays answers any more
	unfollowed     bool // frames are not followed any more
	closed         bool
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
	q.waitWhile(func() bool { return q.queue.n == maxInflight })
	switch {
	case q.closed:
		return unawaited, errConnOver
	case q.answersStopped:
		return unawaited, nil
	}
	r.queued = q.queue.n > 0
	r.own = r.answer != nil && !r.queued
	q.queue.push(r)
	q.login.sent(r)
	if r.own {
		return alone, nil
	}
	return awaited, nil
}

// waitWhile waits until blocked is false, or nobody changes that any more.
func (q *inflight) waitWhile(blocked func() bool) {
	for blocked() && !q.closed && !q.answersStopped {
		q.changed.Wait()
	}
}

// full reports whether a push would wait.
func (q *inflight) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queue.n == maxInflight
}

// oldest returns the request that the next response answers. ok is false when
// none is in flight.
func (q *inflight) oldest() (r request, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.n == 0 {
		return request{}, false
	}
	return *q.queue.at(0), true
}

// done removes the oldest request: its response has been relayed.
func (q *inflight) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue.pop()
	q.changed.Broadcast()
}

// drain waits until nothing is in flight, or nobody relays answers, for d at
// most. For tokens that may stay unanswered it does not wait.
func (q *inflight) drain(d time.Duration) {
	defer q.bound(d)()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.login.tokens.InTurn() {
		q.queue.dropTokens()
	}
	q.waitWhile(func() bool { return q.queue.n > 0 })
}

// stopAnswers says that the client is gone: nothing is waited for any more,
// while requests that were received before still go to the broker.
func (q *inflight) stopAnswers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answersStopped = true
	q.changed.Broadcast()
}

// bound ends the waits of the requests' side when d is over: it reads from the
// client no more while it waits, and would not see that the client has gone. stop
// is to be called when the wait has ended.
func (q *inflight) bound(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, q.stopAnswers).Stop
}

// close ends every wait.
func (q *inflight) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// stopFollowing says that frames cannot be followed any more, and reports
// whether that is new. What is in flight keeps its place, for restore.
func (q *inflight) stopFollowing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.unfollowed
	q.unfollowed, q.answersStopped = true, true
	q.changed.Broadcast()
	return !before
}

// followed reports whether frames are.
func (q *inflight) followed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.unfollowed
}

// restore is as [queue.restore].
func (q *inflight) restore(id int32) (original int32, found bool, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queue.restore(id)
}

// startLogin says that raw SASL tokens follow without a handshake.
func (q *inflight) startLogin(m protocol.Mechanism) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.login.start(m)
}

// handshakeAnswered is as [login.handshakeAnswered].
func (q *inflight) handshakeAnswered(m protocol.Mechanism, accepted bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.changed.Broadcast()
	return q.login.handshakeAnswered(m, accepted)
}

// tokenDone is done for a raw token, which the broker has answered with size
// bytes.
func (q *inflight) tokenDone(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.n == 0 || !q.queue.at(0).token {
		return // the login was over for the client before
	}
	q.queue.pop()
	q.login.tokenAnswered(size)
	q.changed.Broadcast()
}

// inLogin returns how far the login is.
func (q *inflight) inLogin() login {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.login
}

// awaitLogin waits for the answer that is pending, for d at most. It fails where
// the answer will not be seen.
func (q *inflight) awaitLogin(d time.Duration) (login, error) {
	defer q.bound(d)()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waitWhile(func() bool { return q.login.pending })
	if q.login.pending {
		return login{}, errConnOver
	}
	return q.login, nil
}

// endLogin says that requests follow again. A token that is still in flight gets
// no answer.
func (q *inflight) endLogin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.login = login{}
	q.queue.dropTokens()
	q.changed.Broadcast()
}
