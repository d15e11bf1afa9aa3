package proxy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

func inFlight(id int32) request {
	return request{Request: protocol.Request{CorrelationID: id}}
}

func TestInflightKeepsOrderWhileItGrowsAndWraps(t *testing.T) {
	q := newInflight()
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
	q := newInflight()
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
		q := newInflight()
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
		q := newInflight()
		for i := range maxInflight {
			q.push(inFlight(int32(i)))
		}
		start := time.Now()
		if _, err := q.push(inFlight(maxInflight)); !errors.Is(err, errUnanswered) || time.Since(start) != answerTimeout {
			t.Errorf("push = %v after %v, want %v after %v", err, time.Since(start), errUnanswered, answerTimeout)
		}
	})
}
