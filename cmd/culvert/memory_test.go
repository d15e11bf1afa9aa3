package main

import (
	"os"
	"path/filepath"
	"strings"
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
	const (
		v2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
			"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	)
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing known", nil, 0},
		{"the machine's", map[string]string{"proc/meminfo": "MemFree: 1 kB\nMemTotal:   2048 kB\n"}, 2 << 20},
		{"the container's", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2, "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		{"that of a group above", map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": v2, "sys/fs/cgroup/a/memory.max": "4096\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 4096},
		{"memory.high", map[string]string{"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": v2, "sys/fs/cgroup/a/memory.max": "8192\n", "sys/fs/cgroup/a/memory.high": "4096\n"}, 4096},
		{"version 1 in a container", map[string]string{
			"proc/self/cgroup": "5:cpuset:/docker/ab\n4:memory:/docker/ab\n", "proc/self/mountinfo": strings.ReplaceAll(v1, " / /sys", " /docker/ab /sys"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "8192\n",
		}, 8192},
		{"version 1 in a container with a cgroup namespace", map[string]string{
			"proc/self/cgroup": "4:hugetlb,memory:/\n", "proc/self/mountinfo": strings.ReplaceAll(v1, " / /sys", " /../.. /sys"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "8192\n",
		}, 8192},
		{"version 1 on a host", map[string]string{
			"proc/self/cgroup": "4:memory:/a/b\n", "proc/self/mountinfo": v1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4096\n",
		}, 4096},
		{"version 1, above what a container sees", map[string]string{
			"proc/self/cgroup": "4:memory:/pod/ab\n", "proc/self/mountinfo": strings.ReplaceAll(v1, " / /sys", " /pod/ab /sys"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.stat":           "cache 12\nhierarchical_memory_limit 4096\nhierarchical_memsw_limit 1\n",
		}, 4096},
		{"version 1 without a limit", map[string]string{"proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": v1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		{"version 1 with version 2 beside it", map[string]string{
			"proc/self/cgroup":    "4:memory:/system.slice/culvert.service\n1:name=systemd:/x\n0::/system.slice/culvert.service\n",
			"proc/self/mountinfo": v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/system.slice/culvert.service/memory.limit_in_bytes": "8192\n",
			"sys/fs/cgroup/unified/system.slice/culvert.service/cgroup.procs":         "1\n",
		}, 8192},
		{"version 1 somewhere else", map[string]string{
			"proc/self/cgroup": "4:memory:/a\n", "proc/self/mountinfo": "32 31 0:29 / /cgroup/mem rw shared:9 master:2 - cgroup none rw,memory\n",
			"cgroup/mem/a/memory.limit_in_bytes": "8192\n",
		}, 8192},
		{"files that cannot be read as such", map[string]string{"proc/self/cgroup": "4:memory\n\n:::\n0::\n", "proc/self/mountinfo": "x - cgroup2\n - \n" + v2, "sys/fs/cgroup/memory.max": "many\n"}, 0},
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
		if got, want := availableMemory(root), tt.want-tt.want/5; got != want {
			t.Errorf("%s: %d, want %d", tt.name, got, want)
		}
	}
}
