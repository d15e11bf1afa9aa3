package main

import (
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progressEvery is how often the line of a progress is drawn.
const progressEvery = 100 * time.Millisecond

// progress is stdout of a command that people wait for. On a terminal it shows, in a line below what
// has been printed, what runs now and for how long. The next print replaces that line. Elsewhere it
// only prints.
type progress struct {
	terminal *os.File // nil: w is none, or is dumb
	colors   bool
	w        io.Writer
	stopped  chan struct{} // closed by close
	drawing  sync.WaitGroup

	mu    sync.Mutex
	step  string // what runs now; "" is nothing to show
	since time.Time
	drawn int // the columns that the line has now
}

// newProgress begins to show what step is told. Its owner calls close.
func newProgress(w io.Writer) *progress {
	p := &progress{w: w, stopped: make(chan struct{})}
	if f, ok := w.(*os.File); ok && isTerminal(w) && os.Getenv("TERM") != "dumb" {
		p.terminal = f
		p.colors = os.Getenv("NO_COLOR") == "" && runtime.GOOS != "windows" // where a console may print the sequences
		p.drawing.Go(p.redraw)
	}
	return p
}

// show says what runs from now on, in printable text: until the next Write.
func (p *progress) show(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.since = step, time.Now()
	p.draw()
}

// Write prints what a step has led to.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.step = ""
	return p.w.Write(b)
}

// beside calls print, which prints on what may be the same terminal.
func (p *progress) beside(print func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	print()
	p.draw()
}

// close takes the line off the terminal.
func (p *progress) close() {
	close(p.stopped)
	p.drawing.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.step = ""
}

// redraw keeps the time on the line right until close.
func (p *progress) redraw() {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		case <-p.stopped:
			return
		}
	}
}

// draw draws the line, if there is one. It must fit: a line that wraps cannot be replaced. The
// cursor stays behind it.
func (p *progress) draw() {
	if p.terminal == nil || p.step == "" {
		return
	}
	width, _, err := term.GetSize(int(p.terminal.Fd()))
	if err != nil || width <= 0 {
		width = helpWidth
	}
	took := " " + time.Since(p.since).Truncate(progressEvery).String()
	line := p.step[:max(0, min(len(p.step), width-1-len(took)))] + took
	p.terminal.WriteString("\r" + line + strings.Repeat(" ", max(0, p.drawn-len(line))))
	p.drawn = len(line)
}

// erase takes the line off, and the cursor to its beginning. Keys that were pressed meanwhile, as
// Ctrl-C, have left two columns behind it.
func (p *progress) erase() {
	if p.drawn == 0 {
		return
	}
	p.terminal.WriteString("\r" + strings.Repeat(" ", p.drawn+len("^C")) + "\r")
	p.drawn = 0
}

// The colours of a terminal, as parameters of SGR.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint gives text a colour, if the terminal has any.
func (p *progress) paint(color, text string) string {
	if !p.colors || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}
