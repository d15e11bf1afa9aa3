// Package terminal draws a status document for a terminal: the page of culvert status and the
// screen of culvert top. It is given the size, and returns lines that fit it.
//
// A document comes from another process. All text passes [Terminal.clean] on its way into a line,
// so that nothing in it can move the cursor or widen a line.
package terminal

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/width"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Terminal is what the drawing is for.
type Terminal struct {
	Width   int    // columns
	Height  int    // rows; only Top asks
	Styles  Styles // which escape sequences may be used
	Unicode bool   // whether it shows more than ASCII
}

// Styles says which escape sequences a terminal gets.
type Styles int

// The zero value is for files and pipes.
const (
	Plain  Styles = iota // none
	Mono                 // bold, dim, underlined, reversed
	Colors               // colours too
)

// minWidth is the fewest columns that are drawn for. What is narrower cuts lines itself.
const minWidth = 20

// style is a set of attributes, and a colour.
type style uint8

const (
	bold style = 1 << iota
	dim
	underlined
	reversed
	green
	yellow
	red
)

// sgr are the parameters of the escape sequence SGR, in the order of the styles.
var sgr = [...]string{"1", "2", "4", "7", "32", "33", "31"}

// span is text in one style.
type span struct {
	text string
	style
}

// line is a line before it is cut.
type line []span

// say makes a line of plain text.
func say(format string, args ...any) line { return line{{text: fmt.Sprintf(format, args...)}} }

// draw returns the line, cut to the width, with escape sequences.
func (t Terminal) draw(l line) string {
	var b strings.Builder
	room := max(t.Width, minWidth)
	for i, s := range l {
		text := t.clean(s.text)
		n := columns(text)
		// The last column that is free is for the ellipsis, if anything follows.
		if cut := n > room || n == room && t.width(l[i+1:]) > 0; cut {
			b.WriteString(t.styled(t.fit(text+" ", room), s.style))
			break
		}
		b.WriteString(t.styled(text, s.style))
		room -= n
	}
	return strings.TrimRight(b.String(), " ")
}

// width is how many columns a line takes.
func (t Terminal) width(l line) (n int) {
	for _, s := range l {
		n += columns(t.clean(s.text))
	}
	return n
}

// styled puts the sequences for a style around text.
func (t Terminal) styled(text string, s style) string {
	if t.Styles == Plain {
		return text
	}
	if t.Styles == Mono {
		s &^= green | yellow | red
	}
	var parameters []string
	for i, p := range sgr {
		if s&(1<<i) != 0 {
			parameters = append(parameters, p)
		}
	}
	if parameters == nil || text == "" {
		return text
	}
	return "\x1b[" + strings.Join(parameters, ";") + "m" + text + "\x1b[m"
}

// ascii replaces the characters that we draw with.
var ascii = strings.NewReplacer("│", "|", "║", "#", "●", "*", "○", "o", "✗", "x", "─", "-", "═", "=", "▶", ">", "…", "...", "·", "-", "µ", "u",
	"▼", "v", "▲", "^", "←", "<", "→", ">", "↑", "up", "↓", "down",
	"▁", "_", "▂", ".", "▃", ":", "▄", "-", "▅", "=", "▆", "+", "▇", "*", "█", "#")

// clean makes text safe to show. Cleaned text stays as it is.
func (t Terminal) clean(s string) string {
	s = printable.Text(s, printable.Record)
	if t.Unicode {
		return s
	}
	s = ascii.Replace(s)
	if !strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r <= '~' {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

// fit cuts cleaned text to at most n columns. An ellipsis shows that it was cut.
func (t Terminal) fit(text string, n int) string {
	if columns(text) <= n {
		return text
	}
	ellipsis := t.clean("…")
	room := n - columns(ellipsis)
	if room < 0 {
		return strings.Repeat(" ", max(n, 0))
	}
	return prefix(text, room) + ellipsis
}

// prefix returns the beginning of text that takes at most n columns.
func prefix(text string, n int) string {
	for i, r := range text {
		if n -= runeColumns(r); n < 0 {
			return text[:i]
		}
	}
	return text
}

// cell returns text in exactly n columns.
func (t Terminal) cell(text string, n int, right bool) string {
	text = t.fit(t.clean(text), n)
	space := strings.Repeat(" ", max(n-columns(text), 0))
	if right {
		return space + text
	}
	return text + space
}

// columns is how many columns text takes.
func columns(text string) (n int) {
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

// runeColumns is 0 for a mark on the character before it, 2 for the wide characters of East Asia
// and emoji.
func runeColumns(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// wrapped breaks text into at most most lines behind an indent: the first one begins with first.
func (t Terminal) wrapped(first line, text string, s style, most int) (lines []line) {
	indent := t.width(first)
	room := max(t.Width, minWidth) - indent
	current, l := first, ""
	add := func(text string) {
		lines = append(lines, append(slices.Clip(current), span{text, s}))
		current = line{{text: strings.Repeat(" ", indent)}}
	}
	for word := range strings.FieldsSeq(t.clean(text)) {
		for columns(word) > room && len(lines) < most-1 && room > 0 { // such as a URL or a command
			if l != "" {
				add(l)
			}
			head := prefix(word, room)
			add(head)
			word, l = word[len(head):], ""
		}
		switch {
		case l == "":
			l = word
		case columns(l)+1+columns(word) <= room:
			l += " " + word
		case len(lines) == most-1:
			l += " " + word // draw cuts it, and shows that it did
		default:
			add(l)
			l = word
		}
	}
	add(l)
	return lines
}
