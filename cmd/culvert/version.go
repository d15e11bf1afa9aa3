package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// release is set by the linker for released binaries: -X main.release=v1.2.3.
var release string

// versionCmd is culvert version.
type versionCmd struct{}

// Run prints the version of culvert and of the tunnel's wire format: agent and gateway work
// together if that fits.
func (versionCmd) Run(a *app) error {
	_, err := fmt.Fprintf(a.stdout, "culvert %s (tunnel %s, %s, %s/%s)\n",
		version(), tunnel.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// errVersion ends parsing when the version was asked for.
var errVersion = errors.New("the version was asked for")

// versionFlag ends parsing before the environment and the file are read, as helpFlag does.
type versionFlag bool

// BeforeReset is the first hook that kong calls.
func (versionFlag) BeforeReset() error { return errVersion }

// version is the release or, for other builds, the version that the go command recorded.
func version() string {
	var recorded string
	if info, ok := debug.ReadBuildInfo(); ok {
		recorded = info.Main.Version
	}
	return cmp.Or(release, recorded, "(devel)")
}
