package proc

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func shell(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a shell")
	}
	return exec.Command(sh, "-c", script)
}

func TestRunReturnsStandardOutput(t *testing.T) {
	got, err := Run(t.Context(), shell(t, "echo out; echo err >&2"))
	if err != nil || got != "out\n" {
		t.Fatalf("Run = %q, %v", got, err)
	}
}

func TestRunErrorEndsWithTheOutput(t *testing.T) {
	_, err := Run(t.Context(), shell(t, "echo no such topic >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such topic") {
		t.Fatalf("Run = %v", err)
	}
}

func TestRunKillsTheWholeGroupAtTheDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := Run(ctx, shell(t, "sleep 60 & sleep 60; true")); err == nil {
		t.Fatal("Run returned no error at its deadline")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("Run took %s", took)
	}
}

func TestWaitLineSeesALineThatComesLater(t *testing.T) {
	p, err := Start(shell(t, "echo starting; sleep 0.1; printf 'half a '; sleep 0.1; echo line, ready; exec sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if got, err := p.Output().WaitLine(t.Context(), "half"); err != nil || got != "half a line, ready" {
		t.Fatalf("WaitLine = %q, %v", got, err)
	}
}

func TestWaitLineEndsWithTheProgram(t *testing.T) {
	p, err := Start(shell(t, "echo port taken; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Output().WaitLine(t.Context(), "ready"); err == nil || !strings.Contains(err.Error(), "port taken") {
		t.Fatalf("WaitLine = %v", err)
	}
}

func TestTerminateWaits(t *testing.T) {
	p, err := Start(shell(t, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Output().WaitLine(t.Context(), "up"); err != nil {
		t.Fatal(err)
	}
	if err := p.Terminate(5 * time.Second); err != nil {
		t.Fatal(err)
	}
}
