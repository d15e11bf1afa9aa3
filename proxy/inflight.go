package proxy

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// maxInflight bounds the requests of one connection that await their response. Java clients send up
// to 5 by default, librdkafka up to a million. At the bound we stop reading from the client, as a
// busy broker does.
const maxInflight = 4096

var errConnOver = errors.New("connection has ended")

// inflight is what the two directions of a Kafka connection share: the requests that await their
// response, and the progress of a login. Brokers answer in the order of the requests. A request
// stays in the queue until its response has been relayed. All methods may be called concurrently;
// push and awaitLogin block.
type inflight struct {
	mu      sync.Mutex
	changed sync.Cond // signals those who wait for room, or for a login's next step
	queue   queue     // up to maxInflight
	login   login
	seen    seen
	metrics *metrics.Metrics // counts what is in the queue; nil once nobody awaits it, and in tests

	finished       bool // nothing more is pushed
	answersStopped bool // nothing more is pushed, and nobody waits any more
	unfollowed     bool // frames are no longer decoded
	closed         bool // every wait ends with errConnOver
}

func newInflight(m *metrics.Metrics) *inflight {
	q := &inflight{metrics: m}
	q.changed.L = &q.mu
	return q
}

// answerTimeout bounds how long a broker may take to answer where nobody would notice that the
// client has left: while the queue is full, and after the client's FIN. It is longer than the five
// minutes for which the members of a consumer group may be waited for.
const answerTimeout = 10 * time.Minute

// push appends r, and blocks until there is room, for answerTimeout at most. awaited is false if
// nobody relays responses any more: see stopAnswers. It returns errConnOver if the connection has
// ended.
func (q *inflight) push(r request) (awaited bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	inTime := q.waitWhile(func() bool { return q.queue.n == maxInflight }, answerTimeout)
	switch {
	case q.closed:
		return false, errConnOver
	case q.answersStopped:
		return false, nil
	case !inTime:
		return false, fmt.Errorf("%w: %d requests have been in flight for %s, and no response came", errUnanswered, maxInflight, answerTimeout)
	}
	r.queued = q.queue.n > 0
	q.queue.push(r)
	q.count(&r, 1)
	q.login.sent(r)
	q.seen.sent(r)
	return true, nil
}

// waitWhile waits until blocked returns false, or until nothing will change that, for at most d. It
// reports whether it ended in time. The caller holds mu.
func (q *inflight) waitWhile(blocked func() bool, d time.Duration) (inTime bool) {
	if !blocked() {
		return true
	}
	late := false
	defer time.AfterFunc(d, func() { q.set(&late) }).Stop()
	for blocked() && !q.closed && !q.answersStopped && !late {
		q.changed.Wait()
	}
	return !late
}

// set sets a flag that mu guards, and ends the waits that depend on it.
func (q *inflight) set(flag *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*flag = true
	q.changed.Broadcast()
}

// idle reports whether no request is in flight and no login is under way.
func (q *inflight) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queue.n == 0 && !q.login.pending && !q.login.tokens.Expected()
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
	q.seen.answered(*q.queue.at(0))
	q.count(q.queue.at(0), -1)
	q.queue.pop()
	q.changed.Broadcast()
}

// count adds n to the requests in flight of an API key. What the broker does not get is not in
// flight, and a token has no API key. The caller holds mu.
func (q *inflight) count(r *request, n int64) {
	if q.metrics != nil && r.answer == nil && !r.token {
		q.metrics.API(r.Key).InFlight.Add(n)
	}
}

// endWith sets a flag after which nobody awaits what is in flight. The caller holds mu.
func (q *inflight) endWith(flag *bool) {
	*flag = true
	for i := range q.queue.n {
		q.count(q.queue.at(i), -1)
	}
	q.metrics = nil
	q.changed.Broadcast()
}

// unanswered returns the oldest request that the broker has not answered, or nil.
func (q *inflight) unanswered() *unanswered {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.queue.n {
		if r := q.queue.at(i); r.answer == nil && (r.token || r.sentID != 0) {
			return &unanswered{request: *r, seen: q.seen}
		}
	}
	return nil
}

// finish says that nothing more is pushed.
func (q *inflight) finish() { q.set(&q.finished) }

// leaveTokens drops raw tokens that the broker may leave unanswered, as in GSSAPI.
func (q *inflight) leaveTokens() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.login.tokens.InTurn() {
		q.queue.dropTokens()
	}
}

// answered reports whether nothing is in flight, and nothing will be. What is in flight is not known
// once frames are no longer decoded.
func (q *inflight) answered() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.finished && !q.unfollowed && q.queue.n == 0
}

// needsUs reports whether the responses' side has something to do that is no response: an answer of
// ours, or the end.
func (q *inflight) needsUs() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.n == 0 {
		return q.finished && !q.unfollowed
	}
	return q.queue.at(0).answer != nil
}

// stopAnswers says that nobody waits for responses any more: the client has disconnected. All waits
// end, but requests that were received before are still written to the broker.
func (q *inflight) stopAnswers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endWith(&q.answersStopped)
}

// close ends every wait, now and later.
func (q *inflight) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endWith(&q.closed)
}

// stopFollowing says that frames can no longer be decoded, and reports whether this is the first
// call. Requests in flight stay in the queue, for restore.
func (q *inflight) stopFollowing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.unfollowed
	q.unfollowed = true
	q.endWith(&q.answersStopped)
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
	q.seen.answered(*q.queue.at(0))
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
	q.mu.Lock()
	defer q.mu.Unlock()
	inTime := q.waitWhile(func() bool { return q.login.pending }, d)
	switch {
	case !inTime:
		return login{}, fmt.Errorf("%w: the client's login has waited for its next step for %s", errUnanswered, d)
	case q.login.pending:
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
