// Package backoff says how long to wait after failures.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Delay is how long to wait after n failures in a row and one more: first, doubled n times, but no longer than most, and less up to a tenth of
// that at random, so that those who failed together do not come back together. n is not negative; first and most are positive.
func Delay(n int, first, most time.Duration) time.Duration {
	d := most
	if n < 63 && first <= most>>n { // first<<n neither overflows nor exceeds most
		d = first << n
	}
	return d - rand.N(d/10+1)
}
