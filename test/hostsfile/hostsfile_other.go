//go:build !linux

package hostsfile

import "os/exec"

// Main does nothing here.
func Main() {}

// Command returns a command that is never run: see Available.
func Command(_, path string, args ...string) *exec.Cmd { return exec.Command(path, args...) }

// Available returns why Command does not work here.
func Available() error { return errUnsupported }
