package credentials

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// defaultTokenName is the name of a token that stands alone on its line.
const defaultTokenName = "default"

// Tokens is a file of named tokens, read again when it changes. Each line is
// name=token, or a token alone, which is then named "default". Empty lines and
// lines that begin with # are skipped. A name may have several tokens, so that
// one can be replaced by another without an outage. Equals signs at a line's end
// belong to the token, as in base64.
//
// A token lets in as long as the file holds it. Of a file that is gone, cannot be
// read or has become empty, that goes for another five seconds. A line that has
// no token's form, in a file that has changed, leaves the other lines in force.
type Tokens struct {
	tokens  reread[[]namedToken]
	badLine string // already logged; owned by tokens
}

type namedToken struct {
	name, token string
	sum         [sha256.Size]byte // of token: compared in constant time whatever the lengths
}

// ReadTokens reads the file for the first time, of which every line must be
// right. A nil logger discards.
func ReadTokens(f File, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{}
	t.tokens = reread[[]namedToken]{
		files: []File{f}, secret: true, lapses: true, log: orDiscard(log),
		parse: func(contents [][]byte) ([]namedToken, error) { return t.parse(f, contents[0]) },
	}
	if _, err := t.tokens.get(); err != nil {
		return nil, err
	}
	return t, nil
}

// parse is parseTokens that, after the first time, skips what is no token: a
// line that is taken out is out, whatever is wrong with another.
func (t *Tokens) parse(f File, content []byte) ([]namedToken, error) {
	tokens, err := parseTokens(f, content)
	if err == nil || len(tokens) == 0 || !t.tokens.good {
		t.badLine = ""
		return tokens, err
	}
	if t.badLine != err.Error() {
		t.badLine = err.Error()
		t.tokens.log.Error("line ignored, the other lines are in use", "err", err)
	}
	return tokens, nil
}

// FirstToken returns the token that an agent sends, the first in a file in the
// form of a [Tokens]. The function reads the file again when it changes; when
// that goes wrong it returns the token as it was, about which the gateway decides.
// A nil logger discards.
func FirstToken(f File, log *slog.Logger) (func() (string, error), error) {
	return Secrets(func(contents [][]byte) (string, error) {
		tokens, err := parseTokens(f, contents[0])
		if err != nil {
			return "", err
		}
		return tokens[0].token, nil
	}, log, f)
}

func (t *Tokens) identify(r *http.Request, names hints.Names) (string, error) {
	token, err := bearer(r.Header)
	if errors.Is(err, errNoToken) {
		return "", errors.New(names.Sprintf("no token: give the agent %s", hints.TokenFile))
	}
	if err != nil {
		return "", err
	}
	tokens, err := t.tokens.get()
	if err != nil {
		return "", errors.New("the gateway cannot read its tokens")
	}
	sum, name, known := sha256.Sum256([]byte(token)), "", 0
	for _, t := range tokens { // all of them, so that time does not tell which
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			name, known = t.name, 1
		}
	}
	if known == 0 {
		return "", errors.New(names.Sprintf("unknown token: it is not in the gateway's %s", hints.TokenFile))
	}
	return name, nil
}

var errNoToken = errors.New("no token")

// bearer returns the request's token, or errNoToken. Our own header goes first: an ingress may
// have claimed the other one for its own token, under another scheme.
func bearer(h http.Header) (string, error) {
	for _, name := range []string{"Culvert-Authorization", "Authorization"} {
		values := h.Values(name)
		if len(values) > 1 {
			return "", fmt.Errorf("%s appears %d times: it must appear once", name, len(values))
		}
		scheme, token, _ := strings.Cut(h.Get(name), " ")
		if token = strings.TrimSpace(token); token != "" && strings.EqualFold(scheme, "Bearer") {
			return token, nil
		}
	}
	return "", errNoToken
}

// minPadded is the length from which a line that ends with = is taken for a token
// in base64, and not for a name whose token is missing.
const minPadded = 16

// tokenName is what identities in logs and metrics may look like.
var tokenName = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

// parseTokens returns the tokens in a file, of which there is at least one, and
// what is wrong with the first line that holds none.
func parseTokens(f File, content []byte) (tokens []namedToken, bad error) {
	for number, line := range lines(content) {
		token, err := parseToken(line)
		if err == nil {
			tokens = append(tokens, token)
		} else if bad == nil {
			bad = fmt.Errorf("%s, line %d: %w", f, number, err)
		}
	}
	if tokens == nil && bad == nil {
		bad = fmt.Errorf("%s: no token in it: write one per line, as name=token", f)
	}
	return tokens, bad
}

func parseToken(line string) (namedToken, error) {
	name, token := defaultTokenName, line
	// What precedes the first equals sign is a name, unless only padding follows.
	if before, after, found := strings.Cut(line, "="); found && strings.Trim(after, "=") != "" {
		name, token = strings.TrimSpace(before), strings.TrimSpace(after)
	}
	if strings.HasSuffix(token, "=") && len(token) < minPadded {
		return namedToken{}, errors.New("there is no token after the name")
	}
	if !tokenName.MatchString(name) {
		return namedToken{}, errors.New("a name must have 1 to 64 letters, digits, dots, dashes, underscores or at signs")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return namedToken{}, errors.New("a token must be printable ASCII without spaces")
	}
	return namedToken{name, token, sha256.Sum256([]byte(token))}, nil
}
