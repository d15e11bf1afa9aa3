//go:build !linux

package netns

import (
	"errors"
	"io"
)

var errLinux = errors.New("only Linux has network namespaces")

func newNamespace() (*Namespace, error) { return nil, errLinux }

func (*Namespace) enter(func() error) error { return errLinux }

type link struct{}

func newLink(Link, *Namespace, *Namespace) (*link, error) { return nil, errLinux }

func (*link) close() {}

func (*link) lost() (lost, of int64) { return 0, 0 }

// DropAt is for Linux only.
func DropAt(string) (io.Closer, error) { return nil, errLinux }
