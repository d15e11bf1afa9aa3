package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// app is what every command runs with.
type app struct {
	stdout io.Writer
	stderr *queuedWriter
	json   bool // everything on stderr is JSON
	log    *slog.Logger
}

// The exit codes. Whoever starts culvert again and again can tell by them whether that may help.
const (
	exitDone = 0 // the command did its work; agent and gateway: a signal, and all connections ended
	// Something failed that may work another time: a port was taken, or a hop of culvert doctor
	// failed. A second signal ends with it too, for connections were cut.
	exitFailed = 1
	// The command line, a variable or a file is wrong, and will be the next time. No socket was
	// opened.
	exitUsage = 2
)

// errHelpShown ends a run that was called without arguments: help was printed to stderr in place of
// an error.
var errHelpShown = errors.New("help was shown")

// errVerdict ends culvert doctor when clients would not get through, or when that is not known: the
// last line on stdout says so.
var errVerdict = errors.New("the verdict was printed")

// report prints err and returns the exit code.
func (a *app) report(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errHelpShown):
		return exitUsage
	case errors.Is(err, errVerdict), lostReader(err):
		return exitFailed
	}
	if a.json {
		a.recorder().Error("culvert failed", "err", err)
	} else {
		fmt.Fprintf(a.stderr, "culvert: error: %s\n", oneLine(err))
		for _, hint := range hints.Of(err, flagOf) {
			fmt.Fprintf(a.stderr, "culvert: hint: %s\n", sanitize(hint))
		}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// lostReader reports whether what reads stdout has ended, as head -1 does when it has its line. It
// needs no message.
func lostReader(err error) bool {
	pe, ok := errors.AsType[*fs.PathError](err)
	return ok && errors.Is(pe.Err, syscall.EPIPE)
}

// progress is stdout for a command that people wait for. The caller calls done.
func (a *app) progress() (p *progress, done func()) {
	p = newProgress(a.stdout)
	a.stderr.shareTerminal(p.beside)
	return p, p.close
}

// say writes one line for people, whatever --log-level is: scripts and tests wait for the lines with
// "listening" and "ready".
func (a *app) say(line string) {
	if a.json {
		a.recorder().Info(line)
		return
	}
	fmt.Fprintln(a.stderr, printable.Text(line, maxMessage))
}

// recorder writes the records that stand for lines for people where stderr is JSON.
func (a *app) recorder() *slog.Logger {
	return slog.New(slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{ReplaceAttr: makePrintable}))
}

// signalEcho is how long after the first signal another one counts as the same: timeout(1), for
// one, sends its signal to the process and then to the process group.
const signalEcho = time.Second

// errSignal is the cause of a context that a signal ended.
var errSignal = errors.New("stopped by a signal")

// untilSignal returns a context that the first SIGINT, SIGTERM or SIGHUP ends, so that connections
// can drain. A second signal exits at once: the user does not want to wait. The caller calls stop,
// after which signals act as by default.
func (a *app) untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it, so that we go on without a terminal
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go awaitSignals(signals, done, cancel, func() {
		code := a.report(errors.New("stopped before all connections had ended"))
		a.stderr.flush()
		os.Exit(code)
	})
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// awaitSignals calls first on the first signal, and second on the first one after signalEcho. It
// returns when done is closed.
func awaitSignals(signals <-chan os.Signal, done <-chan struct{}, first context.CancelCauseFunc, second func()) {
	select {
	case <-signals:
		first(errSignal)
	case <-done:
		return
	}
	echo := time.After(signalEcho)
	for over := false; ; {
		select {
		case <-echo:
			over = true
		case <-signals:
			if over {
				second()
				return
			}
		case <-done:
			return
		}
	}
}
