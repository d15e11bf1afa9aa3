package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/culvert-proxy/culvert/proxy/status/terminal"
)

// What a terminal obeys, in the words of xterm's list of control sequences.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"       // alternate screen, no cursor, no wrapped lines
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[m\x1b[?1049l" // all of that back
	beginFrame  = "\x1b[?2026h\x1b[H"                  // shown when it is complete; from the top
	eraseLine   = "\x1b[2K"                            // before the text: after it, some terminals erase the last column
	endFrame    = "\x1b[?2026l"
)

// fullScreen is a terminal of which a program has all rows, and which passes on each key at once.
type fullScreen struct {
	in       io.Reader
	out      io.Writer
	terminal func() terminal.Terminal // asks for the size anew
	leave    func() error             // out of raw mode
	left     bool
}

// openScreen takes the screen. The caller calls restore, also when it panics.
func openScreen(in, out *os.File) (*fullScreen, error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("read keys from the terminal: %w", err)
	}
	s := &fullScreen{in: in, out: out, terminal: func() terminal.Terminal { return terminalOf(out) }}
	s.leave = func() error { return term.Restore(int(in.Fd()), before) }
	if _, err := io.WriteString(out, enterScreen); err != nil {
		s.restore()
		return nil, err
	}
	return s, nil
}

// restore gives the terminal back as it was.
func (s *fullScreen) restore() {
	if s.left {
		return
	}
	s.left = true
	io.WriteString(s.out, leaveScreen)
	s.leave()
}

// show draws lines, as many as the terminal has rows.
func (s *fullScreen) show(lines []string) error {
	var b strings.Builder
	b.WriteString(beginFrame)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(eraseLine + l)
	}
	b.WriteString(endFrame)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// keySequences are what terminals send for keys that are no characters, after the escape character
// and a bracket or, in some modes, the letter O.
var keySequences = map[string]string{
	"A": terminal.KeyUp, "B": terminal.KeyDown, "C": terminal.KeyRight, "D": terminal.KeyLeft,
	"5~": terminal.KeyPageUp, "6~": terminal.KeyPageDown, "H": terminal.KeyHome, "1~": terminal.KeyHome,
}

// splitKeys returns the keys in what was read at once. Sequences that are not known are left out.
func splitKeys(read []byte) (keys []string) {
	for len(read) > 0 {
		switch {
		case read[0] == '\x1b' && len(read) > 1 && (read[1] == '[' || read[1] == 'O'):
			end := 2
			for end < len(read) && (read[end] < '@' || read[end] > '~') && read[end] != '\x1b' {
				end++
			}
			if end < len(read) && read[end] != '\x1b' {
				end++
			}
			if key, known := keySequences[string(read[2:end])]; known {
				keys = append(keys, key)
			}
			read = read[end:]
		case read[0] == '\x1b':
			keys, read = append(keys, terminal.KeyEscape), read[1:]
		case read[0] == 3:
			keys, read = append(keys, terminal.KeyCtrlC), read[1:]
		default:
			r, size := utf8.DecodeRune(read)
			keys, read = append(keys, string(r)), read[size:]
		}
	}
	return keys
}
