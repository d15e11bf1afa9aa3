package main

import (
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// helpWidth is the column at which text is wrapped: the width of a plain terminal.
const helpWidth = 80

// maxMessage is the most bytes of a line for people and of a log message. It is large because the
// line with "listening" lists every bootstrap address.
const maxMessage = 64 << 10

// wrap breaks text into lines of at most helpWidth columns, each after indent.
func wrap(text, indent string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+len(word) > helpWidth:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
	return b.String()
}

// oneLine is the text of err on one line, sanitized. Joined errors have a line each.
func oneLine(err error) string { return sanitize(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// sanitize makes text fit for a terminal and a log: it may hold secrets of ours, and bytes that a
// peer chose.
func sanitize(s string) string { return printable.Text(redact(s), printable.Record) }

// userinfo is what stands before the host in a URL, up to the last at sign. It matches broken URLs
// too, such as one with a space in its password: those are quoted in errors.
var userinfo = regexp.MustCompile(`://[^\s,"]*@|://[^,"]*@`)

// secretForm matches a token or a key, which users sometimes give where the name of its file
// belongs. It does not match our own hints that say how a key begins.
var secretForm = regexp.MustCompile(`eyJ[A-Za-z0-9_.-]{10,}|(?s)-----BEGIN [A-Z0-9 ]*-----[\s;]*[A-Za-z0-9+/]{16}.*`)

// redact hides passwords in URLs, JWTs and private keys. The placeholder USER:PASSWORD, which our
// hints use, stays.
func redact(s string) string {
	s = secretForm.ReplaceAllString(s, "xxxxx")
	return userinfo.ReplaceAllStringFunc(s, func(found string) string {
		if found == "://USER:PASSWORD@" {
			return found
		}
		return "://xxxxx@"
	})
}
