//go:build race

package exchange

const underRace = true
