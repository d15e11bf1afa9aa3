// Package printable makes untrusted text safe for a terminal and a log. Untrusted is whatever comes
// neither from this process nor from its operator: from a peer, an ingress, a broker, a
// certificate, a DNS answer. Raw, such text could forge log lines or send commands to a terminal.
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of untrusted text that is shown, in bytes.
const (
	Name     = 256     // for a host, an identity or a header value; the longest host name has 253
	Sentence = 1 << 10 // for an error message or the first line of a page
	// For a whole error, log attribute or finding, with our words and several untrusted parts.
	Record = 4 << 10
)

// cut marks where text was left out.
const cut = "…"

// Text returns s with everything that is not visible escaped as in a Go string: \x1b, \n, \u202e,
// and \xff for a byte that is not UTF-8. That includes control characters (C0, DEL and C1), line
// and paragraph separators, bidirectional marks and all other format characters, spaces other than
// ASCII's, characters that Unicode says to ignore if they are unknown, and unassigned characters.
// They are escaped and not replaced by a question mark, so that the reader sees what was sent.
//
// The result is UTF-8 of at most most bytes, and ends in an ellipsis if something was left out. A
// backslash stays as it is: the result is for reading and cannot be converted back. Text of a
// result is the same result, so it may be called both where text comes in and where it goes out.
func Text(s string, most int) string {
	if len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, invisible) {
		return s
	}
	var b strings.Builder
	end := 0 // the longest prefix that leaves room for an ellipsis
	for rest := s; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if invisible(r) || r == utf8.RuneError && size == 1 {
			b.WriteString(escape(r, rest[0]))
		} else {
			b.WriteString(rest[:size])
		}
		rest = rest[size:]
		if b.Len() > most {
			return b.String()[:end] + cut[:min(len(cut), most)]
		}
		if b.Len() <= most-len(cut) {
			end = b.Len()
		}
	}
	return b.String()
}

// invisible reports whether a rune must be escaped. In ASCII that is decided without the tables of
// package unicode, because most text is ASCII.
func invisible(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r > '~'
	}
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// escape returns the escape sequence of a rune, or of the byte raw if that could not be decoded.
func escape(r rune, raw byte) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r == utf8.RuneError, r < utf8.RuneSelf:
		return fmt.Sprintf(`\x%02x`, raw)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
