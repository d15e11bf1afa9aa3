package race

import "time"

// Work is what this process did while echoes went over a transport.
type Work struct {
	Transport string
	CPU       time.Duration    // of the whole process
	Moved     map[string]int64 // bytes that its streams moved, by transport: the echoes, and all others
}

// total is what all transports moved.
func (w Work) total() (n int64) {
	for _, moved := range w.Moved {
		n += moved
	}
	return n
}

// leastShare is how much of all bytes the echoes must have moved to tell the transports apart.
const leastShare = 0.2

// costRatio returns how many times the CPU time of b's transport a byte takes over that of a, or 0
// if that cannot be told. Other streams go on meanwhile, so each Work is a sum, of what each
// transport moved times its CPU time for a byte: two equations with two unknowns.
func costRatio(a, b Work) float64 {
	aa, ab := float64(a.Moved[a.Transport]), float64(a.Moved[b.Transport])
	ba, bb := float64(b.Moved[a.Transport]), float64(b.Moved[b.Transport])
	det := aa*bb - ab*ba
	if det <= leastShare*float64(a.total())*float64(b.total()) {
		return 0
	}
	costA := (float64(a.CPU)*bb - float64(b.CPU)*ab) / det
	costB := (float64(b.CPU)*aa - float64(a.CPU)*ba) / det
	if costA <= 0 || costB <= 0 {
		return 0
	}
	return costA / costB
}
