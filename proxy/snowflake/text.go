package snowflake

import (
	"mime"
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// maxWords is how many bytes of it are shown: Snowflake's sentences are shorter.
const maxWords = 300

// words is the beginning of what another program says, on one line and printable.
func words(s string) string {
	return printable.Text(strings.Join(strings.Fields(s), " "), maxWords)
}

// scrub removes secrets from what another program says.
func scrub(s string, secrets ...string) string {
	for _, secret := range secrets {
		s = scrubOne(s, secret)
	}
	return jwtForm.ReplaceAllString(s, "***")
}

// jwtForm matches a JWT, whole or cut, which must not be shown, whoever made it.
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

// commonPrefix is the length of the beginning that a and b share.
func commonPrefix(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// isToken reports whether a text may be a token, and so must not be shown.
func isToken(text string) bool {
	text = strings.Trim(text, `"`)
	return checkToken(text) == nil && !wordForm.MatchString(text)
}

// wordForm matches Snowflake's names of errors.
var wordForm = regexp.MustCompile(`^[A-Z0-9_]+$`)

// contains reports whether one of texts, which are in lower case, is in s as whole words: "blocked"
// does not contain "locked".
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

// nonEmpty is list without empty strings.
func nonEmpty(list ...string) (kept []string) {
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

// isHTML reports whether an answer is a web page, whatever its Content-Type.
func isHTML(contentType, text string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return media == "text/html" || strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), "<")
}
