package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/terminal"
)

// topCmd is culvert top.
type topCmd struct{ adminFlags }

func (*topCmd) Help() string {
	return `It reads the status of a running agent or gateway every second. Each line is a
Kafka API: its rate, the mean time from a request to its response, how much of
it is the brokers' answer, as timed at the gateway, and how much the tunnel's,
the 99th percentile, bytes per second to and from the brokers, and requests in
flight. A wider terminal shows more columns. Fetch and other requests that
brokers hold on purpose are listed apart.

Keys:
  1 2 3      APIs, nodes, events with what to do about them
  ← →        sort by another column; or the letter that is underlined in its
             heading, which, pressed again, reverses the order
  ↑ ↓        scroll
  space      pause
  ?          explain the columns and keys, or close that
  q, Ctrl-C  quit

Example:
  culvert top --admin 127.0.0.1:9465`
}

// Run reads the status once before it takes the screen: what is wrong with the address is an error
// like that of any other command.
func (c *topCmd) Run(ctx context.Context, a *app) error {
	r, err := c.reader()
	if err != nil {
		return err
	}
	out, ok := a.stdout.(*os.File)
	if !ok || !isTerminal(out) || !isTerminal(os.Stdin) {
		return wrong("culvert status prints one page to any file", "culvert top needs a terminal for its screen and its keys")
	}
	if os.Getenv("TERM") == "dumb" {
		return wrong("culvert status prints one page on any terminal", "culvert top cannot draw its screen on a terminal with TERM=dumb")
	}
	_, d, err := r.read(ctx)
	if err != nil {
		return err
	}
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	s, err := openScreen(os.Stdin, out)
	if err != nil {
		return err
	}
	defer s.restore()
	resized := make(chan os.Signal, 1)
	notifyResized(resized)
	defer signal.Stop(resized)
	w := &watch{screen: s, reader: r, resized: resized, view: terminal.NewView(), document: d, panicked: make(chan string, 2)}
	return w.run(ctx)
}

// watchEvery is how often culvert top reads the status.
const watchEvery = time.Second

// watch is a running culvert top. All of it belongs to the goroutine of run.
type watch struct {
	screen   *fullScreen
	reader   *statusReader
	resized  <-chan os.Signal // the terminal has another size
	view     *terminal.View
	document *document.Document // the last one that was read
	lost     time.Time          // since when none could be read; zero if the last read was good

	panicked chan string // why another goroutine panicked: run does then, when it can restore the terminal
}

// reading is what one read came to.
type reading struct {
	document *document.Document
	err      error
}

// run shows the status until a key or ctx ends it.
func (w *watch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys, due, readings := make(chan string), make(chan struct{}, 1), make(chan reading)
	go w.readKeys(ctx, keys)
	go w.readStatus(ctx, due, readings)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := w.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case why := <-w.panicked:
			panic(why)
		case key, ok := <-keys:
			if !ok || w.view.Key(key) {
				return nil
			}
		case <-w.resized:
		case got := <-readings:
			w.take(got)
		case <-tick.C:
			if !w.view.Paused {
				readSoon(due)
			}
		}
	}
}

// readSoon has the status read again, unless that is under way.
func readSoon(due chan<- struct{}) {
	select {
	case due <- struct{}{}:
	default:
	}
}

// take keeps what was read. While nothing can be read, the last document stays on the screen, and
// the first line says since when.
func (w *watch) take(got reading) {
	if got.err == nil {
		w.document, w.lost, w.view.Trouble = got.document, time.Time{}, ""
		return
	}
	if w.lost.IsZero() {
		w.lost = time.Now()
	}
	w.view.Trouble = fmt.Sprintf("not reached since %s, trying again: %s", w.lost.Format(time.TimeOnly), oneLine(got.err))
}

func (w *watch) draw() error {
	t := w.screen.terminal()
	return w.screen.show(t.Top(w.document, w.view))
}

// readStatus reads the status when that is due.
func (w *watch) readStatus(ctx context.Context, due <-chan struct{}, readings chan<- reading) {
	defer w.passOnPanic()
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
		}
		_, d, err := w.reader.read(ctx)
		select {
		case <-ctx.Done():
			return
		case readings <- reading{d, err}:
		}
	}
}

// readKeys passes on keys until reading fails, which ends culvert top: the terminal is gone. It
// blocks in a read that nothing can end, and so lasts as long as the process.
func (w *watch) readKeys(ctx context.Context, keys chan<- string) {
	defer w.passOnPanic()
	defer close(keys)
	var buffer [64]byte
	for {
		n, err := w.screen.in.Read(buffer[:])
		for _, key := range splitKeys(buffer[:n]) {
			select {
			case <-ctx.Done():
				return
			case keys <- key:
			}
		}
		if err != nil {
			return
		}
	}
}

// passOnPanic has run panic in place of this goroutine. The process would end before the terminal
// is restored.
func (w *watch) passOnPanic() {
	if p := recover(); p != nil {
		w.panicked <- printable.Text(fmt.Sprint(p), printable.Record) + "\n" + string(debug.Stack())
	}
}
