package snowflake

import (
	"mime"
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// maxWords is how much is shown of what the other end says: its sentences are
// shorter.
const maxWords = 300

// words is the beginning of what the other end says, on one line and printable.
func words(s string) string {
	return printable.Text(strings.Join(strings.Fields(s), " "), maxWords)
}

// scrub takes secrets out of what the other end says.
func scrub(s string, secrets ...string) string {
	for _, secret := range secrets {
		s = scrubOne(s, secret)
	}
	return jwtForm.ReplaceAllString(s, "***")
}

// jwtForm is that of a JWT, whole or cut, which is nothing to repeat whoever made it.
var jwtForm = regexp.MustCompile(`\bey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.=-]*`)

// scrubOne takes one out, also where s ends in the middle of it.
func scrubOne(s, secret string) string {
	begin := secret[:min(len(secret), minToken)]
	if begin == "" {
		return s
	}
	var kept strings.Builder
	for {
		before, after, found := strings.Cut(s, begin)
		kept.WriteString(before)
		if !found {
			return kept.String()
		}
		kept.WriteString("***")
		s = after[commonPrefix(after, secret[len(begin):]):]
	}
}

func commonPrefix(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// isToken reports whether what came may be a token, and is nothing to repeat.
func isToken(text string) bool {
	text = strings.Trim(text, `"`)
	return checkToken(text) == nil && !wordForm.MatchString(text)
}

// wordForm is that of Snowflake's names for what went wrong.
var wordForm = regexp.MustCompile(`^[A-Z0-9_]+$`)

// contains reports whether one of texts, which are in lower case, is in s, and not
// in the middle of a word: who is blocked is not locked.
func contains(s string, texts ...string) bool {
	s = strings.ToLower(s)
	for _, text := range texts {
		for from := 0; ; {
			i := strings.Index(s[from:], text)
			if i < 0 {
				break
			}
			begin, end := from+i, from+i+len(text)
			if (begin == 0 || !isLetter(s[begin-1])) && (end == len(s) || !isLetter(s[end])) {
				return true
			}
			from = begin + 1
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' }

func nonEmpty(list ...string) (kept []string) {
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

func isHTML(contentType, text string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return media == "text/html" || strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), "<")
}
