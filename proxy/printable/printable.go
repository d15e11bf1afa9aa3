// Package printable makes what a stranger said fit for a terminal and a log.
// A stranger is whatever is not this process and not its operator: a peer, an
// ingress, a broker, a certificate, a DNS answer.
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The most bytes that are shown of what a stranger said.
const (
	Name     = 256     // a host, an identity, a header's value: the longest host name has 253
	Sentence = 1 << 10 // an error message or the first line of a page
	Record   = 4 << 10 // all of an error, of a log attribute or of a finding: our words and several of theirs
)

// cut stands for what is left out.
const cut = "…"

// Text returns s with everything that is not visible written as Go writes it in
// a string: \x1b, \n, \u202e, \xff for a byte that is no UTF-8. That goes for
// control characters (C0, DEL and C1), line and paragraph separators, marks of
// direction and every other format character, spaces that are none of ASCII's,
// characters that Unicode says to ignore where they are not known, and what is
// not assigned. An escape and not a question mark, so that whoever reads it
// knows what was sent.
//
// The result is UTF-8 of at most most bytes, the last of which are an ellipsis
// if something was left out. A backslash stays as it is: the result is for
// reading and cannot be turned back, and Text of it is the same again, so that
// it does no harm to call it both where words come in and where they go out.
func Text(s string, most int) string {
	if len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, invisible) {
		return s
	}
	var b strings.Builder
	end := 0 // up to where an ellipsis has room behind it
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

func invisible(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r > '~'
	}
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// escape writes a rune, or the byte that could not be decoded.
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
