package race

import (
	"fmt"
	"time"
)

// A Fault is what can be wrong with a transport that works.
type Fault int

const (
	// Slow transports carry far fewer bytes a second than others do. Envoy's h3 with its default
	// settings moved 0.15 to 0.5 MB/s where ws moved 60.
	Slow Fault = iota
	// Late transports hold small messages back. HAProxy's HTTP/2 with its default settings
	// delivered them 208 ms late.
	Late
	// Costly transports take much more CPU time for each byte than others do, on a path so short
	// that they gain nothing from it. h3 sends and acknowledges each packet in user space: on two
	// cores without a network it took 2.9 times the CPU time of ws for a byte, and carried half.
	Costly
	faults
)

// String returns the name in metrics.
func (f Fault) String() string { return [...]string{Slow: "slow", Late: "late", Costly: "costly"}[f] }

// An Outcome is what was done about a fault.
type Outcome string

// The outcomes.
const (
	Fixed   Outcome = "fixed"   // the transport is used in another way
	Demoted Outcome = "demoted" // new streams take another transport
	Kept    Outcome = "kept"    // nothing, because there is no other transport
)

// A Pace is what an echo through a transport measured.
type Pace struct {
	// Rate is what the network carried for this Race during the echo, in bytes a second: the echo,
	// and what the other streams moved meanwhile. On a slow line they share it, and the sum does
	// not depend on who gets how much.
	Rate float64
	Echo float64       // of Rate, what the echo moved
	Last time.Duration // how long the fastest of some small messages took, there and back
	// Delay is how much longer each of the small messages took than the first byte of a large one.
	Delay time.Duration
	Work  Work // of echoes that follow each other; zero if it was not measured
}

const (
	// muchSlower is by how much a transport must be slower than another one to be demoted.
	muchSlower = 3

	// fastEnough is the rate of an echo, in bytes a second, above which a transport is not the
	// reason why a stream hardly moves, even if others are faster.
	fastEnough = 4 << 20

	// MuchLater is by how much a transport must delay small messages to be demoted.
	MuchLater = 100 * time.Millisecond

	// ShortPath is the round trip below which a lost packet costs so little over TCP that CPU time
	// matters more.
	ShortPath = 5 * time.Millisecond

	// muchCostlier is by how much more CPU time a transport must take to be demoted.
	muchCostlier = 1.5
)

// Seen reports whether p shows the fault, as far as that can be told without another transport.
func (f Fault) Seen(p Pace) bool {
	switch f {
	case Slow:
		return p.Echo < fastEnough
	case Costly:
		return p.Work.CPU > 0 && p.Last < ShortPath
	}
	return p.Delay >= MuchLater
}

// Worse reports whether p has the fault and other does not.
func (f Fault) Worse(p, other Pace) bool {
	switch f {
	case Slow:
		return f.Seen(p) && p.Rate*muchSlower <= other.Rate
	case Costly:
		return f.Seen(p) && f.Seen(other) && costRatio(p.Work, other.Work) >= muchCostlier
	}
	return f.Seen(p) && p.Last >= other.Last+MuchLater
}

// Compare says in what a transport is worse than another one, which is called other.
func (f Fault) Compare(p Pace, other string, theirs Pace) string {
	switch f {
	case Slow:
		return fmt.Sprintf("it moves %s where %s moves %s", p.rate(), other, theirs.rate())
	case Costly:
		return fmt.Sprintf("each byte takes %.1f times the CPU time that %s takes, and the gateway is near", costRatio(p.Work, theirs.Work), other)
	}
	return fmt.Sprintf("small messages take %v over it and %v over %s", short(p.Last), short(theirs.Last), other)
}

// alone is p without what other streams moved.
func (p Pace) alone() Pace {
	p.Rate = p.Echo
	return p
}

// rate is the Rate for people.
func (p Pace) rate() string {
	if p.Rate < 1e6 {
		return fmt.Sprintf("%.0f kB/s", p.Rate/1e3)
	}
	return fmt.Sprintf("%.1f MB/s", p.Rate/1e6)
}

// String is what was measured, for people.
func (p Pace) String() string {
	return fmt.Sprintf("it moves %s, and a small message takes %v there and back", p.rate(), short(p.Last))
}

// short is a duration for people.
func short(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
