package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroupLimits are the memory limits of this process's cgroup and of every cgroup above it that can
// be seen, because each of them holds. Both versions count: on many systems, memory is still limited by
// version 1 while version 2 is mounted beside it.
func cgroupLimits(root string) (limits []int64) {
	groups := memoryGroups(root)
	for _, m := range cgroupMounts(root) {
		group, ok := groups[m.version]
		if !ok {
			continue
		}
		// A container that has no cgroup namespace is told the path from the host's root, and sees
		// its own cgroup as the root of the mount.
		within, ok := strings.CutPrefix(group, strings.TrimSuffix(m.root, "/"))
		if !ok {
			within = ""
		}
		for dir := filepath.Clean("/" + within); ; dir = filepath.Dir(dir) {
			limits = append(limits, limitsIn(filepath.Join(root, m.point, dir))...)
			if dir == "/" {
				break
			}
		}
	}
	return limits
}

// cgroupVersion is 1 or 2.
type cgroupVersion int

// memoryGroups are the paths of this process's cgroups that can limit its memory, from
// /proc/self/cgroup: of version 1 that of the memory controller, of version 2 the only one.
func memoryGroups(root string) map[cgroupVersion]string {
	groups := map[cgroupVersion]string{}
	for line := range lines(root, "proc/self/cgroup") {
		f := strings.SplitN(line, ":", 3) // hierarchy:controllers:path
		switch {
		case len(f) < 3:
		case f[0] == "0" && f[1] == "":
			groups[2] = f[2]
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			groups[1] = f[2]
		}
	}
	return groups
}

// cgroupMount is where a hierarchy is mounted, and which cgroup of it is seen there.
type cgroupMount struct {
	version     cgroupVersion
	point, root string
}

// cgroupMounts are the mounts of /proc/self/mountinfo where memory limits can be. Its lines are
// "ID PARENT DEVICE ROOT POINT OPTIONS [TAGS] - TYPE SOURCE SUPEROPTIONS" (proc_pid_mountinfo(5)).
func cgroupMounts(root string) (mounts []cgroupMount) {
	for line := range lines(root, "proc/self/mountinfo") {
		mount, filesystem, _ := strings.Cut(line, " - ")
		m, fs := strings.Fields(mount), strings.Fields(filesystem)
		switch {
		case len(m) < 5 || len(fs) < 3:
		case fs[0] == "cgroup2":
			mounts = append(mounts, cgroupMount{2, m[4], m[3]})
		case fs[0] == "cgroup" && slices.Contains(strings.Split(fs[2], ","), "memory"):
			mounts = append(mounts, cgroupMount{1, m[4], m[3]})
		}
	}
	return mounts
}

// lines are those of a file, without white space around them; none if it cannot be read.
func lines(root, name string) func(yield func(string) bool) {
	content, _ := os.ReadFile(filepath.Join(root, name))
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(content)) {
			if !yield(strings.TrimSpace(line)) {
				return
			}
		}
	}
}

// limitsIn are the limits that the files of a cgroup contain, of either version. From memory.high
// on, the kernel slows a process down until it hardly runs.
func limitsIn(cgroup string) []int64 {
	limits := []int64{
		readNumber(filepath.Join(cgroup, "memory.max")),
		readNumber(filepath.Join(cgroup, "memory.high")),
		readNumber(filepath.Join(cgroup, "memory.limit_in_bytes")),
	}
	// Of version 1, this holds for the cgroups above, too, which a container cannot see.
	for line := range lines(cgroup, "memory.stat") {
		if n, ok := strings.CutPrefix(line, "hierarchical_memory_limit "); ok {
			limits = append(limits, parseNumber(n))
		}
	}
	return slices.DeleteFunc(limits, func(n int64) bool { return n <= 0 || n >= unlimited })
}

// unlimited and more is how version 1 says that there is no limit: it rounds the largest number
// down to whole pages.
const unlimited = math.MaxInt64 >> 1

// readNumber returns the number in a file; 0 if there is none, as in "max", which means no limit.
func readNumber(file string) int64 {
	content, _ := os.ReadFile(file)
	return parseNumber(string(content))
}

func parseNumber(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
