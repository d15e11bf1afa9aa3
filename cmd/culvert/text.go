package main

import (
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// helpWidth is the column at which help is wrapped: that of a plain terminal.
const helpWidth = 80

// maxMessage is the most bytes of a line for people and of a log message: the line with "ready" may list every address of
// this process.
const maxMessage = 64 << 10

// wrap breaks text into lines, each behind indent.
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

// sentence is the text of err on one line, as shown.
func sentence(err error) string { return shown(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// shown is what may hold words of strangers and passwords of ours, fit for a
// terminal and a log.
func shown(s string) string { return printable.Text(redact(s), printable.Record) }

// userinfo is what stands before the host in a URL, up to the last at sign:
// also in what is no URL any more, such as one with a space in the password.
var userinfo = regexp.MustCompile(`://[^\s,"]*@|://[^,"]*@`)

// secretForm is a token or a key where the name of its file was wanted, and no
// sentence that says how a key begins.
var secretForm = regexp.MustCompile(`eyJ[A-Za-z0-9_.-]{10,}|(?s)-----BEGIN [A-Z0-9 ]*-----[\s;]*[A-Za-z0-9+/]{16}.*`)

// redact hides passwords in URLs, other than the one that stands for one, and
// tokens and keys as Snowflake has them.
func redact(s string) string {
	s = secretForm.ReplaceAllString(s, "xxxxx")
	return userinfo.ReplaceAllStringFunc(s, func(found string) string {
		if found == "://USER:PASSWORD@" {
			return found
		}
		return "://xxxxx@"
	})
}
