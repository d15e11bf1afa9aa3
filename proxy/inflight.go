package proxy

import (
	"errors"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// maxInflight bounds the requests of one connection that await their response. Java clients send up
// to 5 by default, librdkafka up to a million. At the bound we stop reading from the client, as a
// busy broker does.
const maxInflight = 4096

var errConnOver = errors.New("connection has ended")

// inflight is what the two directions of a Kafka connection share: the requests that await their
// response, and the progress of a login. Brokers answer in the order of the requests. A request
// stays in the queue until its response has been relayed. All methods may be called concurrently;
// push, drain and awaitLogin block.
type inflight struct {
	mu      sync.Mutex
	changed sync.Cond // signals those who wait for room, for an empty queue, or for a login's next step
	queue   queue     // up to maxInflight
	login   login

	answersStopped bool // nothing more is pushed, and nobody waits any more
	unfollowed     bool // frames are no longer decoded
	closed         bool // every wait ends with errConnOver
}

func newInflight() *inflight {
	q := &inflight{}
	q.changed.L = &q.mu
	return q
}

// placement says who answers a request that was pushed.
type placement uint8

const (
	awaited   placement = iota // the responses' side, when its turn comes
	ours                       // the caller, at once, who then calls done: no response can arrive in between
	unawaited                  // nobody: see stopAnswers
)

// push appends r, and blocks until there is room. It returns errConnOver if the connection has
// ended.
func (q *inflight) push(r request) (placement, error) {
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
		return ours, nil
	}
	return awaited, nil
}

// waitWhile waits until blocked returns false, or until nothing will change that. The caller holds
// mu.
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

// oldest returns the request that the next response answers. ok is false if no request is in
// flight.
func (q *inflight) oldest() (r request, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.n == 0 {
		return request{}, false
	}
	return *q.queue.at(0), true
}

// done removes the oldest request. Its response has been relayed.
func (q *inflight) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue.pop()
	q.changed.Broadcast()
}

// drain waits, for at most d, until nothing is in flight or no more responses are relayed. It does
// not wait for tokens that the broker may leave unanswered, as in GSSAPI.
func (q *inflight) drain(d time.Duration) {
	defer q.bound(d)()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.login.tokens.InTurn() {
		q.queue.dropTokens()
	}
	q.waitWhile(func() bool { return q.queue.n > 0 })
}

// stopAnswers says that nobody waits for responses any more: the client has disconnected, or a wait
// took too long. All waits end, but requests that were received before are still written to the
// broker.
func (q *inflight) stopAnswers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answersStopped = true
	q.changed.Broadcast()
}

// bound ends the waits of the requests' side after d. While that side waits it does not read from
// the client, so it would not notice that the client has disconnected. The caller calls stop when
// its wait has ended.
func (q *inflight) bound(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, q.stopAnswers).Stop
}

// close ends every wait, now and later.
func (q *inflight) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// stopFollowing says that frames can no longer be decoded, and reports whether this is the first
// call. Requests in flight stay in the queue, for restore.
func (q *inflight) stopFollowing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.unfollowed
	q.unfollowed, q.answersStopped = true, true
	q.changed.Broadcast()
	return !before
}

// followed reports whether frames are still decoded.
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

// startLogin says that raw SASL tokens follow without a SaslHandshake. Clients of Kafka
// 0.9 do that with GSSAPI; KIP-43 added the handshake.
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

// tokenDone removes a raw token, which the broker has answered with a token of size bytes.
func (q *inflight) tokenDone(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.n == 0 || !q.queue.at(0).token {
		return // the client had ended the login already
	}
	q.queue.pop()
	q.login.tokenAnswered(size)
	q.changed.Broadcast()
}

// inLogin returns the progress of the login.
func (q *inflight) inLogin() login {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.login
}

// awaitLogin waits, for at most d, for the broker's next answer in a login. It returns errConnOver
// if none will come.
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

// endLogin says that requests follow again. Tokens that are still in flight will not be answered.
func (q *inflight) endLogin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.login = login{}
	q.queue.dropTokens()
	q.changed.Broadcast()
}
