package main

import (
	"runtime/debug"
	"testing"
)

func TestSourceOfABuild(t *testing.T) {
	recorded := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
			{Key: "vcs.time", Value: "2026-11-30T23:10:00Z"}, {Key: "vcs.modified", Value: modified},
		}}
	}
	for _, c := range []struct {
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		{"", nil, ""},
		{"", &debug.BuildInfo{}, ""}, // of the module proxy, or of an archive
		{"", recorded("false"), "commit 0123456789ab, 2026-11-30T23:10:00Z"},
		{"", recorded("true"), "commit 0123456789ab with changes, 2026-11-30T23:10:00Z"},
		{"fedcba9876543210", recorded("false"), "commit fedcba987654"},
		{"fedcba9876543210", recorded("true"), "commit fedcba987654 with changes"},
		{"fed", nil, "commit fed"},
	} {
		commit = c.linked
		if got := sourceOf(c.info); got != c.want {
			t.Errorf("linked as %q: %q, want %q", c.linked, got, c.want)
		}
	}
	commit = ""
}
