//go:build race

package tunnel

const underRace = true
