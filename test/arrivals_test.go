package test

import (
	"bytes"
	"strconv"
	"sync"
	"testing"
)

// arrivals records the numbered records that are consumed. Each must come exactly once, in order
// within its partition, and with the bytes that filled gave it.
type arrivals struct {
	mu      sync.Mutex
	last    map[int32]int
	seen    map[int]int
	trouble []string
}

func newArrivals() *arrivals { return &arrivals{last: make(map[int32]int), seen: make(map[int]int)} }

// add counts a record and returns how many different ones have come.
func (a *arrivals) add(partition int32, value []byte) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	number, filling, _ := bytes.Cut(value, []byte(" "))
	n, err := strconv.Atoi(string(number))
	if err != nil {
		a.trouble = append(a.trouble, err.Error())
		return len(a.seen)
	}
	if !bytes.Equal(filling, noise(n, len(filling))) {
		a.trouble = append(a.trouble, "record "+strconv.Itoa(n)+" has other bytes than were sent")
	}
	if last, ok := a.last[partition]; ok && n < last {
		a.trouble = append(a.trouble, "record "+strconv.Itoa(n)+" came behind "+strconv.Itoa(last)+" in partition "+strconv.Itoa(int(partition)))
	}
	a.last[partition] = n
	a.seen[n]++
	return len(a.seen)
}

// note keeps a description of what is wrong.
func (a *arrivals) note(trouble string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = append(a.trouble, trouble)
}

// check fails the test unless the records 0 … count-1 have come, in order and once each.
func (a *arrivals) check(t *testing.T, count int) {
	t.Helper()
	a.checkAtLeastOnce(t, count)
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, trouble := range a.trouble {
		if i == 5 {
			t.Errorf("and %d more", len(a.trouble)-i)
			break
		}
		t.Error(trouble)
	}
	for n, times := range a.seen {
		if times > 1 {
			t.Errorf("record %d came %d times", n, times)
			return
		}
	}
}

// checkAtLeastOnce fails the test if a record is missing.
func (a *arrivals) checkAtLeastOnce(t *testing.T, count int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range count {
		if a.seen[n] == 0 {
			t.Errorf("record %d is lost; %d of %d came", n, len(a.seen), count)
			return
		}
	}
}
