package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// These are set by the linker for released binaries: -X main.release=v1.2.3. The time is that of the
// commit, in RFC 3339, so that whoever builds it gets the same binary.
var release, commit, commitTime string

// versionCmd is culvert version.
type versionCmd struct{}

// Run prints the version of culvert and of the tunnel's wire format: agent and gateway work
// together if that fits.
func (versionCmd) Run(a *app) error {
	about := []string{"tunnel " + tunnel.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	info, _ := debug.ReadBuildInfo()
	if source := sourceOf(info); source != "" {
		about = append(about, source)
	}
	_, err := fmt.Fprintf(a.stdout, "culvert %s (%s)\n", version(), strings.Join(about, ", "))
	return err
}

// maxCommit is how many digits of a commit are printed.
const maxCommit = 12

// sourceOf says which commit this was built from, and when that was made: what the linker was told
// or, for other builds in a checkout, what the go command recorded. It is "" if neither is known.
// info may be nil.
func sourceOf(info *debug.BuildInfo) string {
	recorded := map[string]string{}
	if info != nil {
		for _, s := range info.Settings {
			recorded[s.Key] = s.Value
		}
	}
	revision, at, changed := commit, commitTime, ""
	if revision == "" {
		revision, at = recorded["vcs.revision"], recorded["vcs.time"]
	}
	if recorded["vcs.modified"] == "true" {
		changed = " with changes"
	}
	if revision == "" {
		return ""
	}
	source := "commit " + revision[:min(len(revision), maxCommit)] + changed
	if at != "" {
		source += ", " + at
	}
	return source
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
