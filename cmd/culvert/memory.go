package main

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryAuto is the --max-memory that we choose, memoryNone the one that is none.
const (
	memoryAuto = "auto"
	memoryNone = "none"
)

// parseMemory reads --max-memory. 0 is no limit.
func parseMemory(s string) (int64, error) {
	switch s {
	case memoryAuto:
		return mayHave("/") / 4, nil
	case memoryNone, "":
		return 0, nil
	}
	number, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64>>shift {
		return 0, errors.New("no size in bytes, KiB, MiB or GiB")
	}
	return n << shift, nil
}

// mayHave is how much memory this process may have: the least of GOMEMLIMIT,
// what its cgroup allows, and what the machine has. 0 is not known. root is
// where the system's files are.
func mayHave(root string) int64 {
	least := debug.SetMemoryLimit(-1)
	for _, n := range append(cgroupLimits(root), machineMemory(root)) {
		if n > 0 {
			least = min(least, n)
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// cgroupLimits are those of this process's cgroup and of all above it.
func cgroupLimits(root string) (limits []int64) {
	list, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(list)) {
		_, group, ok := strings.Cut(strings.TrimSpace(line), "::") // version 2
		for ok {
			limits = append(limits, readNumber(filepath.Join(root, "sys/fs/cgroup", group, "memory.max")))
			ok = group != "/" && group != "."
			group = filepath.Dir(group)
		}
	}
	return append(limits, readNumber(filepath.Join(root, "sys/fs/cgroup/memory/memory.limit_in_bytes")))
}

// readNumber returns 0 where there is none, such as for "max".
func readNumber(file string) int64 {
	b, _ := os.ReadFile(file)
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func machineMemory(root string) int64 {
	b, _ := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
