package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// newNamespace creates a namespace, which lives as long as it is open.
func newNamespace() (*Namespace, error) {
	ns := new(Namespace)
	made := make(chan error)
	go func() { made <- ns.unshare() }()
	return ns, <-made
}

// unshare and enter change their thread, which must not run anything else after that. A goroutine
// that ends while locked to its thread ends the thread too.

func (ns *Namespace) unshare() (err error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	ns.file, err = os.Open("/proc/thread-self/ns/net")
	return err
}

func (ns *Namespace) enter(f func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return f()
}
