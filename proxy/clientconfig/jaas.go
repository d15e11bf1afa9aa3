package clientconfig

import (
	"errors"
	"fmt"
	"strings"
)

// login is what sasl.jaas.config says: a login module and its options.
type login struct {
	module  string // a Java class
	options map[string]string
}

// parseJAAS reads the value of sasl.jaas.config as Kafka's JaasConfig does, which has one entry:
//
//	MODULE required KEY="VALUE" ... ;
//
// Errors never quote the text, because it holds secrets.
func parseJAAS(text string) (login, error) {
	t := &jaasTokens{rest: text}
	l := login{options: map[string]string{}}
	module, flag := t.next(), t.next()
	if module.kind != word || flag.kind != word {
		return login{}, errors.New("it does not begin with a login module and \"required\"")
	}
	switch strings.ToLower(flag.text) {
	case "required", "requisite", "sufficient", "optional":
	default:
		return login{}, errors.New("the word after the login module is not \"required\"")
	}
	l.module = module.text
	for n := 1; ; n++ {
		key := t.next()
		switch {
		case key.kind == end:
			return login{}, errors.New("it does not end with a semicolon")
		case key.kind == sign && key.text == ";":
			if t.next().kind != end {
				return login{}, errors.New("there is text after the semicolon: only one login module is allowed")
			}
			return l, nil
		case key.kind == sign:
			return login{}, fmt.Errorf("option %d has no name: is there an unquoted value before it?", n)
		}
		equals, value := t.next(), t.next()
		if equals.text != "=" || equals.kind != sign || value.kind != word {
			return login{}, fmt.Errorf("option %d has no value: a value that is not quoted must begin with a letter", n)
		}
		l.options[key.text] = value.text
	}
}

type tokenKind int

const (
	end  tokenKind = iota
	word           // a word, or a quoted string
	sign           // a character on its own, or a number: never a name or a value
)

type token struct {
	kind tokenKind
	text string
}

// jaasTokens splits a text as java.io.StreamTokenizer does with the settings of Kafka's JaasConfig.
type jaasTokens struct{ rest string }

func (t *jaasTokens) next() token {
	t.skip()
	if t.rest == "" {
		return token{}
	}
	switch c := t.rest[0]; {
	case c == '"' || c == '\'':
		return token{word, t.quoted(c)}
	case c >= '0' && c <= '9' || c == '.' || c == '-':
		return token{sign, t.take(isNumeric)}
	case isWordByte(c):
		return token{word, t.take(isWordByte)}
	}
	c := t.rest[:1]
	t.rest = t.rest[1:]
	return token{sign, c}
}

// skip drops blanks and comments: from // or / to the end of the line, and between /* and */.
func (t *jaasTokens) skip() {
	for {
		t.rest = strings.TrimLeftFunc(t.rest, func(r rune) bool { return r <= ' ' })
		switch {
		case strings.HasPrefix(t.rest, "/*"):
			_, t.rest, _ = strings.Cut(t.rest[2:], "*/")
		case strings.HasPrefix(t.rest, "/"):
			_, t.rest, _ = strings.Cut(t.rest, "\n")
		default:
			return
		}
	}
}

func (t *jaasTokens) take(belongs func(byte) bool) string {
	n := 1
	for n < len(t.rest) && belongs(t.rest[n]) {
		n++
	}
	taken := t.rest[:n]
	t.rest = t.rest[n:]
	return taken
}

func isNumeric(c byte) bool { return c >= '0' && c <= '9' || c == '.' }

// isWordByte accepts bytes of multi-byte characters too, as Java does their characters.
func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80 || strings.IndexByte("-_$.", c) >= 0
}

// quoted takes a string up to its quote, or to the end of the line.
func (t *jaasTokens) quoted(quote byte) string {
	var b strings.Builder
	i := 1
	for i < len(t.rest) && t.rest[i] != quote && t.rest[i] != '\n' && t.rest[i] != '\r' {
		if t.rest[i] != '\\' || i+1 == len(t.rest) {
			b.WriteByte(t.rest[i])
			i++
			continue
		}
		text, size := escaped(t.rest[i+1:])
		b.WriteString(text)
		i += 1 + size
	}
	if i < len(t.rest) && t.rest[i] == quote {
		i++
	}
	t.rest = t.rest[i:]
	return b.String()
}

// escaped returns what stands behind a backslash, and how many bytes it takes: a letter as in C, up
// to three octal digits, or a byte that stands for itself.
func escaped(s string) (text string, size int) {
	if i := strings.IndexByte("abfnrtv", s[0]); i >= 0 {
		return "\a\b\f\n\r\t\v"[i : i+1], 1
	}
	value := 0
	for size < min(3, len(s)) && s[size] >= '0' && s[size] <= '7' && value*8+int(s[size]-'0') < 256 {
		value = value*8 + int(s[size]-'0')
		size++
	}
	if size > 0 {
		return string(rune(value)), size
	}
	return s[:1], 1
}
