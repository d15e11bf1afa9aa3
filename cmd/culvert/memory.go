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

// The values of --max-memory that are not a size.
const (
	memoryAuto = "auto" // five eighths of availableMemory
	memoryNone = "none" // no limit; an empty value means the same
)

// parseMemory reads --max-memory, in bytes; 0 is no limit. Only KiB, MiB and GiB are units: MB
// could mean either of two sizes. By default, the limit is five eighths of what the process may use.
// Open streams may come to hold a tenth more than that, and the garbage collector needs the rest.
func parseMemory(s string) (int64, error) {
	switch s {
	case memoryAuto:
		return availableMemory("/") / 8 * 5, nil
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
		return 0, errors.New("not a size in bytes, KiB, MiB or GiB")
	}
	return n << shift, nil
}

// limitHeap has the garbage collector keep to availableMemory. Otherwise it would let the heap
// double first, whatever the cgroup says. If GOMEMLIMIT is set, it stays as it is.
func limitHeap() {
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return
	}
	if n := availableMemory("/"); n > 0 {
		debug.SetMemoryLimit(n)
	}
}

// availableMemory is how many bytes Go may use in this process: the least of GOMEMLIMIT and four
// fifths of what its cgroup allows and of what the machine has. The rest is for what Go does not
// count, such as the kernel's buffers of sockets. 0 means unknown, as on systems other than Linux.
// root is "/" except in tests.
func availableMemory(root string) int64 {
	least := debug.SetMemoryLimit(-1)
	for _, n := range append(cgroupLimits(root), machineMemory(root)) {
		if n > 0 {
			least = min(least, n-n/5)
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// machineMemory is MemTotal of /proc/meminfo, which is in KiB.
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
