//go:build !race

package main

// underRace says that the race detector is at work, which takes memory of its own.
const underRace = false
