package test

import (
	"bytes"
	"strconv"
	"sync"
	"testing"
)

// ledger takes note of numbered records as they are consumed: each must come
// exactly once, within a partition in order, and with every byte that filled
// gave it.
type ledger struct {
	mu      sync.Mutex
	last    map[int32]int
	seen    map[int]int
	trouble []string
}

func newLedger() *ledger { return &ledger{last: make(map[int32]int), seen: make(map[int]int)} }

// add takes note of a record and returns how many different ones have come.
func (l *ledger) add(partition int32, value []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	number, filling, _ := bytes.Cut(value, []byte(" "))
	n, err := strconv.Atoi(string(number))
	if err != nil {
		l.trouble = append(l.trouble, err.Error())
		return len(l.seen)
	}
	if !bytes.Equal(filling, noise(n, len(filling))) {
		l.trouble = append(l.trouble, "record "+strconv.Itoa(n)+" has other bytes than were sent")
	}
	if last, ok := l.last[partition]; ok && n < last {
		l.trouble = append(l.trouble, "record "+strconv.Itoa(n)+" came behind "+strconv.Itoa(last)+" in partition "+strconv.Itoa(int(partition)))
	}
	l.last[partition] = n
	l.seen[n]++
	return len(l.seen)
}

// note takes note of what is wrong.
func (l *ledger) note(trouble string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = append(l.trouble, trouble)
}

// check fails the test unless the records 0 … count-1 have come, in order and
// once each.
func (l *ledger) check(t *testing.T, count int) {
	t.Helper()
	l.checkAtLeastOnce(t, count)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, trouble := range l.trouble {
		if i == 5 {
			t.Errorf("and %d more", len(l.trouble)-i)
			break
		}
		t.Error(trouble)
	}
	for n, times := range l.seen {
		if times > 1 {
			t.Errorf("record %d came %d times", n, times)
			return
		}
	}
}

// checkAtLeastOnce fails the test if a record is missing.
func (l *ledger) checkAtLeastOnce(t *testing.T, count int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range count {
		if l.seen[n] == 0 {
			t.Errorf("record %d is lost; %d of %d came", n, len(l.seen), count)
			return
		}
	}
}
