package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"none": 0, "1000": 1000, "1KiB": 1 << 10, "512MiB": 512 << 20, "2 GiB": 2 << 30} {
		if got, err := parseMemory(s); got != want || err != nil {
			t.Errorf("parseMemory(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1", "x", "1MB", "99999999999GiB"} {
		if got, err := parseMemory(s); err == nil {
			t.Errorf("parseMemory(%q) = %d, want an error", s, got)
		}
	}
}

func TestTheLowestMemoryLimitCounts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing known", nil, 0},
		{"the machine's", map[string]string{"proc/meminfo": "MemFree: 1 kB\nMemTotal:   2048 kB\n"}, 2 << 20},
		{"the container's", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		{"that of a group above", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4096\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 4096},
		{"version 1", map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "8192\n"}, 8192},
	} {
		root := t.TempDir()
		for name, content := range tt.files {
			name = filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := availableMemory(root); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
