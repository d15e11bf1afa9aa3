// Package proc runs the programs of the tests: brokers, clients, ingresses and culvert itself. Each
// has its own process group, which is killed as a whole. On Linux it dies with the test binary,
// however that ends.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Process is a program that runs in the background until it is stopped.
type Process struct {
	cmd  *exec.Cmd
	out  Output
	done chan struct{} // closed when the program has ended; err is set by then
	err  error
}

// Start starts cmd. Standard output and standard error go to Output, unless the caller has set
// them.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes open
	setGroup(cmd)
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name(cmd), err)
	}
	return p, nil
}

// run keeps the thread that forks: the kernel sends the death signal when that thread ends, not
// when the process does.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	p.out.finish()
	close(p.done)
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid returns the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output returns the program's output.
func (p *Process) Output() *Output { return &p.out }

// Wait returns when the program has ended: nil if its exit status was 0.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Kill kills the program and its children, and waits for the end.
func (p *Process) Kill() {
	killGroup(p.cmd)
	<-p.done
}

// Terminate sends SIGTERM, where that exists, and returns the result of Wait. After patience it
// makes the program print its goroutines or threads (SIGQUIT), and kills it.
func (p *Process) Terminate(patience time.Duration) error {
	terminate(p.cmd)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		quit(p.cmd)
		select {
		case <-p.done:
		case <-time.After(time.Second):
		}
		p.Kill()
		return fmt.Errorf("terminate %s: still running after %s", name(p.cmd), patience)
	}
}

// Run runs cmd to its end and returns its standard output. If the program fails, or is killed
// because ctx is done, the error ends with the last lines of the output.
func Run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	p, err := Start(cmd)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd) })
	err = p.Wait()
	if !stop() {
		err = context.Cause(ctx)
	}
	// A grandchild that keeps the pipes open is not an error of the program.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return stdout.String(), nil
	}
	said := stderr.String()
	if strings.TrimSpace(said) == "" {
		said = stdout.String()
	}
	return stdout.String(), fmt.Errorf("run %s: %w\n%s", name(cmd), err, tail(said, 30))
}

func name(cmd *exec.Cmd) string { return filepath.Base(cmd.Path) }

// tail returns the last n lines of s, indented.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = append([]string{"…"}, lines[len(lines)-n:]...)
	}
	return "    " + strings.Join(lines, "\n    ")
}
