package chart

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// binary builds culvert once and returns its path.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(outDir, "culvert")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/culvert")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build culvert: %w\n%s", err, out)
	}
	return path, nil
})

// The binary must accept the command lines and variables of all containers.
func TestBinaryAcceptsTheCommandLines(t *testing.T) {
	culvert, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, objects []runtime.Object) {
		found := false
		for name, spec := range pods(objects) {
			for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
				if !isCulvert(c) {
					continue
				}
				found = true
				takes(t, culvert, name, c, "10.1.2.3")
				takes(t, culvert, name, c, "fd00::1:2")
			}
		}
		if !found {
			t.Error("no container runs culvert")
		}
	}
	eachFile(t, func(t *testing.T, values map[string]any) { check(t, objects(t, values)) })
	t.Run("sidecar", func(t *testing.T) { check(t, sidecar(t)) })
}

// takes runs the binary with a container's settings, in a pod with that address.
func takes(t *testing.T, culvert, name string, c corev1.Container, podIP string) {
	t.Helper()
	env := environment(t, c.Env, podIP)
	args := []string{"config", c.Args[0]}
	if c.Args[0] == "doctor" {
		args[1] = "agent" // the doctor has the agent's flags
	}
	for _, a := range c.Args[1:] {
		args = append(args, expand(t, a, env))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, culvert, args...)
	cmd.Env = []string{"HOME=/"}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		t.Errorf("%s: %v: culvert %s\n%s", name, err, strings.Join(args, " "), complaints.String())
	}
}

func environment(t *testing.T, vars []corev1.EnvVar, podIP string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, v := range vars {
		switch {
		case v.ValueFrom == nil:
			env[v.Name] = expand(t, v.Value, env)
		case v.ValueFrom.FieldRef != nil && v.ValueFrom.FieldRef.FieldPath == "status.podIP":
			env[v.Name] = podIP
		default:
			t.Errorf("variable %s has a source that this test does not know", v.Name)
		}
	}
	return env
}

var reference = regexp.MustCompile(`\$\(([^)]*)\)`)

// expand does what the kubelet does to $(NAME).
func expand(t *testing.T, s string, env map[string]string) string {
	t.Helper()
	return reference.ReplaceAllStringFunc(s, func(r string) string {
		value, ok := env[strings.Trim(r, "$()")]
		if !ok {
			t.Errorf("%s: the container has no such variable", r)
		}
		return value
	})
}
