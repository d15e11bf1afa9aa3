package status

import (
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// A clock that is set back must not show one document until it is as late again.
func TestAStreamGoesOnWhenTheClockIsSetBack(t *testing.T) {
	made := 0
	s := newStream(func() document.Document { made++; return document.Document{} })
	now := time.Now().Truncate(time.Second)
	for i, at := range []time.Time{now, now, now.Add(-time.Hour), now.Add(-time.Hour), now.Add(-time.Hour + time.Second), now.Add(time.Hour)} {
		e, err := s.of(at)
		if err != nil || !e.second.Equal(at) {
			t.Errorf("%d: the document of %v, %v, want that of %v", i, e.second, err, at)
		}
	}
	if made != 4 {
		t.Errorf("%d documents, want 4", made)
	}
	// A reader that is late by a moment gets what is there.
	if e, err := s.of(now.Add(time.Hour - time.Second)); err != nil || made != 4 {
		t.Errorf("a second before: %v, %v, %d documents", e.second, err, made)
	}
}
