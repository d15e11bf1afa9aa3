//go:build !race

package proxy

// underRace says that the race detector is at work, which ends a process with more than 8,128
// goroutines.
const underRace = false
