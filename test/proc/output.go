package proc

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// maxOutput is how much of a program's output is kept: enough for the log of a broker that ends
// with a stack trace.
const maxOutput = 1 << 20

// Output keeps the end of a program's output. It may be read while the program runs.
type Output struct {
	mu       sync.Mutex
	text     []byte
	changed  chan struct{} // closed at the next write; nil while nobody waits
	finished bool
}

// Write keeps p and drops the oldest bytes if there are too many.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if over := len(o.text) - maxOutput; over > 0 {
		o.text = append(o.text[:0], o.text[over:]...)
	}
	o.wake()
	return len(p), nil
}

func (o *Output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.finished = true
	o.wake()
}

// wake wakes up waiting callers. The caller holds mu.
func (o *Output) wake() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// String returns the kept output.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// WaitLine returns the first line that contains text, as soon as there is one.
func (o *Output) WaitLine(ctx context.Context, text string) (string, error) {
	for {
		line, changed := o.find(text)
		if line != "" {
			return line, nil
		}
		if changed == nil {
			return "", fmt.Errorf("wait for a line with %q: the program has ended\n%s", text, tail(o.String(), 30))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a line with %q: %w\n%s", text, context.Cause(ctx), tail(o.String(), 30))
		}
	}
}

// find returns the first complete line with text, or else a channel to wait on, which is nil when
// the program has ended.
func (o *Output) find(text string) (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for line := range strings.Lines(string(o.text)) {
		if strings.Contains(line, text) && (strings.HasSuffix(line, "\n") || o.finished) {
			return strings.TrimSpace(line), nil
		}
	}
	if o.finished {
		return "", nil
	}
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return "", o.changed
}
