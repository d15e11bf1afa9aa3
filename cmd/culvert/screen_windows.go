package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// notifyResized does nothing: Windows tells the size only when asked, which is at each refresh.
func notifyResized(chan<- os.Signal) {}

// obeysEscapes has a console obey escape sequences, and reports whether it does.
func obeysEscapes(f *os.File) bool {
	var mode uint32
	h := windows.Handle(f.Fd())
	return windows.GetConsoleMode(h, &mode) == nil &&
		windows.SetConsoleMode(h, mode|windows.ENABLE_PROCESSED_OUTPUT|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
