// Package backoff computes how long to wait after failures.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Delay returns how long to wait after n earlier failures in a row: first, doubled n times, but at
// most most. It subtracts up to a tenth at random, so that those who failed together do not retry
// together. n must not be negative; first and most must be positive.
func Delay(n int, first, most time.Duration) time.Duration {
	d := most
	if n < 63 && first <= most>>n { // first<<n neither overflows nor exceeds most
		d = first << n
	}
	return d - rand.N(d/10+1)
}
