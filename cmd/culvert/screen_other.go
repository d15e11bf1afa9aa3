//go:build !windows

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyResized has c told when the terminal has another size.
func notifyResized(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }

// obeysEscapes reports whether a terminal obeys escape sequences.
func obeysEscapes(*os.File) bool { return true }
