package backoff

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAnEpisodeBeginsAndEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Episode{Quiet: 10 * time.Second}
		if _, ends := e.Worked(); ends {
			t.Error("a success without a failure ends an episode")
		}
		for round := range 2 {
			begun := 0
			for range 30 {
				if e.Failed() {
					begun++
				}
				time.Sleep(time.Second)
				if _, ends := e.Worked(); ends {
					t.Error("an episode ends within Quiet of a failure")
				}
			}
			if begun != 1 {
				t.Errorf("round %d: 30 failures began %d episodes", round, begun)
			}
			time.Sleep(10 * time.Second)
			if lasted, ends := e.Worked(); !ends || lasted != 29*time.Second {
				t.Errorf("round %d: after quiet, Worked = %v, %v; want 29s and the end", round, lasted, ends)
			}
			if _, ends := e.Worked(); ends {
				t.Errorf("round %d: an episode ends twice", round)
			}
		}
	})
}
