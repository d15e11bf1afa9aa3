package test

import (
	"strings"
	"testing"
)

// TestDoctorOnAHealthyPath runs the doctor on the paths that other tests use.
func TestDoctorOnAHealthyPath(t *testing.T) {
	for way, p := range sharedTestbed(t).paths {
		t.Run(way, func(t *testing.T) {
			out, err := p.doctor()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			for _, hop := range []string{"bootstrap", "metadata", "broker 0", "broker 1", "broker 2"} {
				if !found(out, "ok", hop) {
					t.Errorf("%s is not ok:\n%s", hop, out)
				}
			}
		})
	}
}

// doctor runs the doctor with the settings of the path's agent.
func (p *path) doctor() (findings string, err error) {
	out, err := p.command("doctor").CombinedOutput()
	return string(out), err
}

// found reports whether a hop has this result.
func found(findings, result, hop string) bool {
	for line := range strings.Lines(findings) {
		if got, rest, _ := strings.Cut(line, " "); got == result && strings.HasPrefix(strings.TrimLeft(rest, " "), hop+" ") {
			return true
		}
	}
	return false
}
