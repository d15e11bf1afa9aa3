//go:build !race

package tunnel

// underRace says that the race detector is at work.
const underRace = false
