//go:build !race

package exchange

// underRace says that the race detector is at work, which makes sync.Pool forget at random.
const underRace = false
