package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

func inFlight(id int32) request {
	return request{Request: protocol.Request{CorrelationID: id}}
}

func TestInflightKeepsOrderWhileItGrowsAndWraps(t *testing.T) {
	q := newInflight(nil)
	next, due := int32(0), int32(0)
	for round := range 200 {
		for range round%7 + 1 {
			if _, err := q.push(inFlight(next)); err != nil {
				t.Fatal(err)
			}
			next++
		}
		for range round % 7 {
			r, ok := q.oldest()
			if !ok || r.CorrelationID != due {
				t.Fatalf("oldest = %d, %v, want %d", r.CorrelationID, ok, due)
			}
			q.done()
			due++
		}
	}
	if got := int(next - due); got != q.queue.n {
		t.Errorf("%d in flight, want %d", q.queue.n, got)
	}
}

func TestInflightMarksWhatWaited(t *testing.T) {
	q := newInflight(nil)
	q.push(inFlight(1))
	q.push(inFlight(2))
	if r, _ := q.oldest(); r.queued {
		t.Error("the first request counts as queued")
	}
	q.done()
	if r, _ := q.oldest(); !r.queued {
		t.Error("the second request does not count as queued")
	}
}

func TestFullInflightStopsReadingUntilThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInflight(nil)
		for i := range maxInflight {
			q.push(inFlight(int32(i)))
		}
		pushed := make(chan error)
		push := func(id int32) {
			_, err := q.push(inFlight(id))
			pushed <- err
		}
		go push(maxInflight)
		synctest.Wait()
		select {
		case <-pushed:
			t.Fatal("push beyond the limit did not wait")
		default:
		}
		q.done()
		if err := <-pushed; err != nil {
			t.Fatal(err)
		}
		go push(0)
		synctest.Wait()
		q.close()
		if err := <-pushed; err != errConnOver {
			t.Errorf("push after close = %v, want %v", err, errConnOver)
		}
	})
}

// While a push waits, nobody reads from the client, so nobody would see it leave.
func TestFullInflightIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInflight(nil)
		for i := range maxInflight {
			q.push(inFlight(int32(i)))
		}
		start := time.Now()
		if _, err := q.push(inFlight(maxInflight)); !errors.Is(err, errUnanswered) || time.Since(start) != answerTimeout {
			t.Errorf("push = %v after %v, want %v after %v", err, time.Since(start), errUnanswered, answerTimeout)
		}
	})
}

// noneInFlight fails if requests are counted as in flight. No connection may be open.
func noneInFlight(t *testing.T, m *metrics.Metrics) {
	t.Helper()
	_, _, apis := m.APIs()
	for _, a := range apis {
		if a.InFlight != 0 {
			t.Errorf("%d requests of %s are in flight when all connections are over", a.InFlight, a.Name)
		}
	}
}

// Both directions change the queue in any order, and end it in any way. At each step, what is
// counted as in flight is what a broker is to answer.
func TestWhatIsInFlightIsCountedExactly(t *testing.T) {
	m := metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test")
	keys := []protocol.APIKey{protocol.Produce, protocol.Fetch, protocol.MaxKey, 1234, -7}
	random := rand.New(rand.NewPCG(1, 2))
	most := 0
	for range 2000 {
		q := newInflight(m)
		ended, id := false, int32(0)
		for range 40 {
			id++
			r := request{Request: protocol.Request{Key: keys[random.IntN(len(keys))], CorrelationID: id}, sentID: id}
			switch oldest, ok := q.oldest(); random.IntN(16) {
			case 0, 1, 2, 3, 4:
				q.push(r)
			case 5:
				q.push(request{token: true})
			case 6:
				r.answer, r.sentID = []byte("ours"), 0
				q.push(r)
			case 7, 8, 9:
				if ok && !oldest.token {
					q.done()
				}
			case 10:
				q.tokenDone(1)
			case 11:
				q.leaveTokens()
			case 12:
				q.endLogin()
			case 13:
				if !q.followed() {
					q.restore(id - int32(random.IntN(5)))
				}
			case 14:
				q.finish()
			case 15:
				end := []func(){q.close, q.stopAnswers, func() { q.stopFollowing() }}[random.IntN(3)]
				if random.IntN(4) == 0 {
					end()
					ended = true
				}
			}
			want := 0
			for i := range q.queue.n {
				if r := q.queue.at(i); !ended && r.answer == nil && !r.token {
					want++
				}
			}
			got := 0
			for _, k := range keys {
				if n := m.API(k).InFlight.Load(); k >= 0 { // both unknown keys have one series
					got += int(n)
				}
			}
			if most = max(most, want); got != want {
				t.Fatalf("%d are counted as in flight, want %d", got, want)
			}
		}
		q.close()
		noneInFlight(t, m)
	}
	if most < 5 {
		t.Errorf("%d were in flight at most: the test tests nothing", most)
	}
}

// A gateway that cannot follow a connection any more does not know what is in flight on it.
func TestAGatewayThatStopsFollowingCountsNothingInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test")
		client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
		far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
		s := looking{gateway: true}.settings()
		s.report.metrics = m
		c := newConn(near, s)
		c.connect(far)
		over := make(chan struct{})
		go func() { c.run(context.Background()); close(over) }()
		inFlight := func(when string, want int64) {
			t.Helper()
			synctest.Wait()
			if got := m.API(16).InFlight.Load(); got != want {
				t.Errorf("%s: %d requests are in flight, want %d", when, got, want)
			}
		}
		go io.Copy(io.Discard, broker)
		go io.Copy(io.Discard, client)
		client.Write(request16(1))
		client.Write(request16(2))
		inFlight("at first", 2)
		broker.Write(answer16(-1, 10)) // which no request has
		inFlight("after a response that was not asked for", 0)
		client.Write(request16(3))
		inFlight("later", 0)
		broker.Close()
		client.Close()
		<-over
		inFlight("at the end", 0)
	})
}

// BenchmarkInflight is what the queue costs for one request, counted as in flight or not.
func BenchmarkInflight(b *testing.B) {
	for name, m := range map[string]*metrics.Metrics{"counted": metrics.New(prometheus.NewRegistry(), metrics.Agent, "test"), "bare": nil} {
		b.Run(name, func(b *testing.B) {
			q := newInflight(m)
			b.ReportAllocs()
			for b.Loop() {
				q.push(inFlight(1))
				q.done()
			}
		})
	}
}
