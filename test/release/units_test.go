package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/proc"
)

// maxExposure bounds what systemd-analyze security says of a unit, from 0 to 100. It calls units
// below 20 safe enough. What is left is the network, which is what culvert is for.
const maxExposure = "20"

var units = []string{"culvert-agent.service", "culvert-gateway.service"}

// TestUnitsAreValidAndConfined asks systemd itself. It need not run.
func TestUnitsAreValidAndConfined(t *testing.T) {
	needRoot(t, "systemd-analyze")
	dir := t.TempDir()
	for _, unit := range units {
		text, err := os.ReadFile(filepath.Join("../../charts/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		// culvert is not installed on this machine.
		here := filepath.Join(dir, unit)
		if err := os.WriteFile(here, []byte(strings.ReplaceAll(string(text), "/usr/bin/culvert", "/bin/true")), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", here).CombinedOutput()
		if err != nil || strings.Contains(string(out), unit) {
			t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
		}
		if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold="+maxExposure, here).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", unit, err, out)
		}
	}
}

// TestUnitsAllowEverySystemCall watches an agent, a gateway and a client, and compares their system
// calls with the filter of the units: a call that is missing there fails in places nobody expects.
func TestUnitsAllowEverySystemCall(t *testing.T) {
	needRoot(t, "systemd-analyze", "strace")
	dir, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-qq", "-o", trace, filepath.Join(dir, "culvert"), "demo", "--once")
	if _, err := proc.Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	sets := callSets(t)
	for _, unit := range units {
		text, err := os.ReadFile(filepath.Join("../../charts/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		allowed := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(@[a-z-]+)$`).FindAllStringSubmatch(string(text), -1) {
			sets.add(m[2], allowed, m[1] == "")
		}
		used := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z_0-9]+)\(`).FindAllStringSubmatch(string(calls), -1) {
			used[m[1]] = true
		}
		if !used["connect"] || !used["epoll_ctl"] || !allowed["connect"] {
			t.Fatalf("the trace has %d system calls, the filter %d", len(used), len(allowed))
		}
		for call := range used {
			if !allowed[call] && call != "execve" { // systemd itself makes that one
				t.Errorf("%s forbids %s", unit, call)
			}
		}
	}
}

// sets are systemd's sets of system calls, by name, with the sets in them.
type sets map[string][]string

// callSets reads what systemd-analyze syscall-filter prints: the name of a set, and below it, with
// an indent, what is in it.
func callSets(t *testing.T) sets {
	t.Helper()
	out, err := proc.Run(t.Context(), exec.Command("systemd-analyze", "--no-pager", "syscall-filter"))
	if err != nil {
		t.Fatal(err)
	}
	all, set := sets{}, ""
	for line := range strings.Lines(out) {
		switch name := strings.TrimSpace(line); {
		case strings.HasPrefix(line, "@"):
			set = name
		case name != "" && !strings.HasPrefix(name, "#") && strings.HasPrefix(line, " "):
			all[set] = append(all[set], name)
		}
	}
	return all
}

// add puts the calls of a set into allowed, or removes them.
func (s sets) add(set string, allowed map[string]bool, allow bool) {
	for _, name := range s[set] {
		if strings.HasPrefix(name, "@") {
			s.add(name, allowed, allow)
			continue
		}
		allowed[name] = allow
	}
}
