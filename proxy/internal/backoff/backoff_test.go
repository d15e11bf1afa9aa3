package backoff

import (
	"math"
	"testing"
	"time"
)

func TestDelayDoublesUpToTheMost(t *testing.T) {
	const first, most = time.Second, time.Minute
	for n, full := range map[int]time.Duration{
		0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 6: most, 7: most, 62: most, 63: most, 64: most, math.MaxInt: most,
	} {
		for range 100 {
			if d := Delay(n, first, most); d < full-full/10 || d > full {
				t.Errorf("Delay(%d) = %v, want %v less up to a tenth", n, d, full)
			}
		}
	}
}

// Those that failed together do not come back together.
func TestDelaysOfOneFailureDiffer(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[Delay(3, time.Second, time.Minute)] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}

// No setting is too small or too large.
func TestDelayAtTheLimits(t *testing.T) {
	for _, tt := range []struct {
		n           int
		first, most time.Duration
	}{{0, 1, 1}, {62, 1, math.MaxInt64}, {63, 1, math.MaxInt64}, {1, math.MaxInt64, math.MaxInt64}, {0, time.Minute, time.Second}} {
		if d := Delay(tt.n, tt.first, tt.most); d <= 0 || d > tt.most {
			t.Errorf("Delay(%d, %v, %v) = %v", tt.n, tt.first, tt.most, d)
		}
	}
}
