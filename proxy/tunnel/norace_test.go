//go:build !race

package tunnel

// underRace says that the race detector is at work, which makes sync.Pool forget at random.
const underRace = false
