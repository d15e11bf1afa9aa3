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

// defaultTokenName is the name of a token on a line without a name.
const defaultTokenName = "default"

// Tokens is a file of named tokens. It is read again when it changes. Each line is name=token, or a
// token without a name, which is named "default". Empty lines and lines that begin with # are
// skipped. A name may have several tokens, so that one can be replaced without an outage. Equals
// signs at the end of a line belong to the token, as in base64.
//
// A token is accepted as long as it is in the file, and for another five seconds if the file is
// missing, unreadable or empty. After the first read, a line that is not a token is ignored and the
// other lines stay in use. Tokens may be used concurrently.
type Tokens struct {
	tokens  reread[[]namedToken]
	badLine string // already logged; owned by tokens
}

type namedToken struct {
	name, token string
	sum         [sha256.Size]byte // of token; comparing hashes takes the same time for any length
}

// ReadTokens reads the file for the first time. Every line must be valid. A nil logger discards.
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

// parse is parseTokens, but after the first time it ignores an invalid line and logs it. A token
// that an operator removes must stop working even if another line is wrong.
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

// FirstToken returns a function that returns the token that an agent sends: the first one in a file
// in the format of [Tokens]. The function reads the file again when it changes. If that fails, it
// returns the last token, and the gateway decides about it. A nil logger discards.
func FirstToken(f File, log *slog.Logger) (func() (string, error), error) {
	return Secrets(func(contents [][]byte) (string, error) {
		tokens, err := parseTokens(f, contents[0])
		if err != nil {
			return "", err
		}
		return tokens[0].token, nil
	}, log, f)
}

// identify returns the name of a request's token.
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
	for _, t := range tokens { // all of them, so that the time does not reveal which one matches
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

// bearer returns the request's token, or errNoToken. Our own header takes precedence: an ingress
// may use Authorization for its own token.
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

// minPadded is the least length of a token that ends with =. A shorter line, such as name=, is more
// likely a name whose token is missing than base64 with padding.
const minPadded = 16

// tokenName matches the names of tokens. Names appear in logs and refusals.
var tokenName = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

// parseTokens returns the tokens in a file, and the error of the first invalid line. It is an error
// if there are no tokens.
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
		bad = hints.New(fmt.Errorf("%s: no token in it", f), "write one per line, as name=token; openssl rand -hex 32 makes one")
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
