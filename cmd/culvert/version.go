package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// release is set by the linker for released binaries: -X main.release=v1.2.3.
var release string

// versionCmd is culvert version.
type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	_, err := fmt.Fprintf(a.stdout, "culvert %s (tunnel %s, %s, %s/%s)\n",
		version(), tunnel.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is the release or, without one, what the Go command knows.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
