package clientconfig

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Properties are the settings in a Java properties file.
type Properties map[string]string

// ParseProperties reads a file as java.util.Properties does. The file's encoding is ISO-8859-1: a
// password with other characters needs \u escapes, for Java as well as here. Of a key that occurs
// twice, the last value counts. Errors name lines and never quote them, because lines hold secrets.
func ParseProperties(file []byte) (Properties, error) {
	all := Properties{}
	lines := naturalLines(file)
	for i := 0; i < len(lines); i++ {
		first, line := i+1, strings.TrimLeft(lines[i], blank)
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for goesOn(line) {
			line = line[:len(line)-1]
			if i++; i == len(lines) {
				break
			}
			line += strings.TrimLeft(lines[i], blank)
		}
		key, value := splitKey(line)
		k, err := unescape(key)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", first, err)
		}
		v, err := unescape(value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", first, err)
		}
		all[k] = v
	}
	return all, nil
}

// blank are the characters that Java skips around keys.
const blank = " \t\f"

// naturalLines splits a file where Java does, and decodes ISO-8859-1.
func naturalLines(file []byte) []string {
	var b strings.Builder
	for _, c := range file {
		b.WriteRune(rune(c))
	}
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(b.String()), "\n")
}

// goesOn reports whether the next line belongs to this one: it ends in an odd number of
// backslashes.
func goesOn(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// splitKey splits a line at the first separator that is not escaped: an equals sign or a colon,
// with blanks around it, or blanks alone.
func splitKey(line string) (key, value string) {
	end := 0
	for end < len(line) && !strings.ContainsRune("=:"+blank, rune(line[end])) {
		if line[end] == '\\' {
			end++
		}
		end++
	}
	end = min(end, len(line))
	value = strings.TrimLeft(line[end:], blank)
	if value != "" && (value[0] == '=' || value[0] == ':') {
		value = strings.TrimLeft(value[1:], blank)
	}
	return line[:end], value
}

// unescape replaces \t, \n, \r, \f and \uXXXX. A backslash before anything else is dropped.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			break // of the last line of a file
		}
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			unit, err := strconv.ParseUint(s[i+1:min(i+5, len(s))], 16, 16)
			if err != nil || len(s) < i+5 {
				return "", errors.New(`\u without four hexadecimal digits`)
			}
			b.WriteRune(rune(unit))
			i += 4
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}
