package proxy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// defaultTokenName is the name of a token that stands alone on its line.
	defaultTokenName = "default"
	// minTicketKey is the least number of bytes of a ticket key: 128 bits.
	minTicketKey = 16
	// userHeader is what the Snowflake ingress says of the user it let in.
	userHeader = "Sf-Context-Current-User"
	// anonymous is the identity of whoever comes through a gateway without
	// authentication.
	anonymous = "anonymous"
)

// Credentials decide who may use a gateway. Everything that is set must pass;
// with nothing set, nobody may.
type Credentials struct {
	Tokens   *TokenFile // nil: no token is asked for
	ClientCA *CAFile    // nil: no certificate is asked for
	// AllowUsers are the users of the platform's ingress that may come in, as
	// ParseUser returns them; nil allows all. It only narrows what Tokens and
	// ClientCA let in: an ingress that can be gone around proves nothing.
	AllowUsers []string
	// InsecureNoAuth lets everybody in when nothing else is set.
	InsecureNoAuth bool
}

// Authenticate returns the name of who makes the request: that of the token, or
// else that in the certificate. The text of its error is for the other end: it
// says what is missing and repeats nothing that was sent. It is a
// [tunnel.Forbidden] where no token is to blame, and then the name is the token's
// nevertheless, if there is one.
//
// The certificate is checked here, not in the TLS handshake, whose server only
// has to ask for one: a refusal in HTTP carries a sentence, a TLS alert none.
func (c *Credentials) Authenticate(r *http.Request) (identity string, err error) {
	if c.Tokens == nil && c.ClientCA == nil {
		if !c.InsecureNoAuth || c.AllowUsers != nil {
			return "", tunnel.Forbidden("this gateway lets nobody in: it has neither tokens nor a client CA")
		}
		identity = anonymous
	}
	if c.Tokens != nil {
		if identity, err = c.Tokens.identify(r); err != nil {
			return "", err
		}
	}
	if c.ClientCA != nil { // after the token: to verify a certificate costs more
		name, err := c.ClientCA.identify(r)
		if err != nil {
			return identity, err
		}
		identity = cmp.Or(identity, name)
	}
	if c.AllowUsers != nil {
		if err := c.checkUser(r.Header.Values(userHeader)); err != nil {
			return identity, err
		}
	}
	return identity, nil
}

// grant is by what a request was let in. A token's name is not enough: one of
// its tokens may be taken out, and the others not.
type grant struct {
	token [sha256.Size]byte   // hash of the one that was shown
	chain []*x509.Certificate // that was shown
}

// Grant is for Judge: by what Authenticate has let r in.
func (c *Credentials) Grant(r *http.Request) any {
	g := &grant{}
	if token, err := bearer(r.Header); err == nil {
		g.token = sha256.Sum256([]byte(token))
	}
	if r.TLS != nil {
		g.chain = r.TLS.PeerCertificates
	}
	return g
}

// Judge takes one look at the files, and returns what says why a Grant would not
// be let in any more, or nil. It may be called concurrently.
func (c *Credentials) Judge() func(any) error {
	var tokens []namedToken
	var roots *x509.CertPool
	var noTokens, noRoots error
	if c.Tokens != nil {
		tokens, noTokens = c.Tokens.tokens.get()
	}
	if c.ClientCA != nil {
		roots, noRoots = c.ClientCA.pool.get()
	}
	return func(of any) error {
		g, ok := of.(*grant)
		switch {
		case !ok:
			return nil
		case noTokens != nil:
			return noTokens
		case noRoots != nil:
			return noRoots
		case c.Tokens != nil && !slices.ContainsFunc(tokens, func(t namedToken) bool { return t.sum == g.token }):
			return errors.New("the token is not in the file any more")
		case c.ClientCA != nil:
			return c.ClientCA.verdicts.verify(roots, g.chain)
		}
		return nil
	}
}

func (c *Credentials) checkUser(users []string) error {
	switch {
	case len(users) != 1:
		return tunnel.Forbidden(fmt.Sprintf("the request must carry %s exactly once, as the ingress sets it: it is there %d times", userHeader, len(users)))
	case !slices.Contains(c.AllowUsers, users[0]):
		return tunnel.Forbidden("this user is none of those in the gateway's --allow-user")
	}
	return nil
}

// ParseUser reads a user's name as SQL does: in upper case, or as it stands
// where it is in double quotes. What an ingress says is compared exactly.
func ParseUser(s string) (string, error) {
	name, quoted := strings.ToUpper(s), strings.HasPrefix(s, `"`)
	if quoted {
		inner, closed := strings.CutSuffix(s[1:], `"`)
		if !closed || strings.Contains(strings.ReplaceAll(inner, `""`, ""), `"`) {
			return "", errors.New("its quotes do not match")
		}
		name = strings.ReplaceAll(inner, `""`, `"`)
	}
	if name == "" || strings.ContainsFunc(name, unicode.IsControl) || name != strings.TrimSpace(name) || !quoted && strings.Contains(name, `"`) {
		return "", errors.New("it is no user's name")
	}
	return name, nil
}

// userOf is what a request says of the user that an ingress let in, for logs:
// whoever goes around the ingress can say what he likes.
func userOf(h http.Header) string {
	return printable.Text(strings.Join(h.Values(userHeader), ", "), printable.Name)
}

// TokenFile is a file of named tokens, read again when it changes. Each line is
// name=token, or a token alone, which is then named "default". Empty lines and
// lines that begin with # are skipped. A name may have several tokens, so that
// one can be replaced by another without an outage. Equals signs at a line's end
// belong to the token, as in base64.
//
// A token lets in as long as the file holds it. Of a file that is gone, cannot be
// read or has become empty, that goes for another five seconds. A line that has
// no token's form, in a file that has changed, leaves the other lines in force.
type TokenFile struct {
	tokens  reread[[]namedToken]
	badLine string // already logged; owned by tokens
}

type namedToken struct {
	name, token string
	sum         [sha256.Size]byte // of token: compared in constant time whatever the lengths
}

// NewTokenFile reads the file for the first time, of which every line must be
// right. A nil logger discards.
func NewTokenFile(f File, log *slog.Logger) (*TokenFile, error) {
	t := &TokenFile{}
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
func (t *TokenFile) parse(f File, content []byte) ([]namedToken, error) {
	tokens, err := parseTokens(f, content)
	if err == nil || len(tokens) == 0 || !t.tokens.good {
		t.badLine = ""
		return tokens, err
	}
	if t.badLine != err.Error() {
		t.badLine = err.Error()
		t.tokens.log.Error("line ignored, the others are in force", "err", err)
	}
	return tokens, nil
}

// FirstToken returns the token that an agent sends, the first in a file in the
// form of a [TokenFile]. The function reads the file again when it changes; when
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

func (t *TokenFile) identify(r *http.Request) (string, error) {
	token, err := bearer(r.Header)
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
		return "", errors.New("unknown token: it is none of those in the gateway's --token-file")
	}
	return name, nil
}

// bearer returns the request's token. Our own header goes first: an ingress may
// have claimed the other one for its own token, under another scheme.
func bearer(h http.Header) (string, error) {
	for _, name := range []string{"Culvert-Authorization", "Authorization"} {
		values := h.Values(name)
		if len(values) > 1 {
			return "", fmt.Errorf("%s is there %d times: it must be there once", name, len(values))
		}
		scheme, token, _ := strings.Cut(h.Get(name), " ")
		if token = strings.TrimSpace(token); token != "" && strings.EqualFold(scheme, "Bearer") {
			return token, nil
		}
	}
	return "", errors.New("no token: give the agent --token-file")
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
		bad = fmt.Errorf("%s: no token in it: write one a line, as name=token", f)
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
		return namedToken{}, errors.New("there is no token behind the name")
	}
	if !tokenName.MatchString(name) {
		return namedToken{}, errors.New("a name has 1 to 64 letters, digits, dots, dashes, underscores or at signs")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return namedToken{}, errors.New("a token is printable ASCII without spaces")
	}
	return namedToken{name, token, sha256.Sum256([]byte(token))}, nil
}

// lines yields the lines that say something, with their numbers from 1.
func lines(content []byte) func(yield func(int, string) bool) {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	return func(yield func(int, string) bool) {
		number := 0
		for line := range strings.Lines(string(content)) {
			number++
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(number, line) {
				return
			}
		}
	}
}

// TicketKeys returns the keys in a file, one a line, the first of which signs.
// The function reads the file again when it changes. A nil logger discards.
func TicketKeys(f File, log *slog.Logger) (func() ([][]byte, error), error) {
	r := &reread[[][]byte]{
		files: []File{f}, secret: true, log: orDiscard(log),
		parse: func(contents [][]byte) ([][]byte, error) { return parseKeys(f, contents[0]) },
	}
	if _, err := r.get(); err != nil {
		return nil, err
	}
	return r.get, nil
}

// ResetKey returns the key in a file, which is all of it, for Gateway.ResetKey.
// A nil logger discards.
func ResetKey(f File, log *slog.Logger) ([]byte, error) {
	r := &reread[[]byte]{
		files: []File{f}, secret: true, log: orDiscard(log),
		parse: func(contents [][]byte) ([]byte, error) {
			key := bytes.TrimSpace(contents[0])
			if len(key) < tunnel.MinResetKey {
				return nil, fmt.Errorf("%s: it has at least %d bytes, this one %d: make one with openssl rand -hex 32", f, tunnel.MinResetKey, len(key))
			}
			return key, nil
		},
	}
	return r.get()
}

func parseKeys(f File, content []byte) ([][]byte, error) {
	var keys [][]byte
	for number, line := range lines(content) {
		if len(line) < minTicketKey {
			return nil, fmt.Errorf("%s, line %d: a key has at least %d characters, this one %d: make one with openssl rand -hex 32",
				f, number, minTicketKey, len(line))
		}
		keys = append(keys, []byte(line))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: no key in it: make one with openssl rand -hex 32", f)
	}
	return keys, nil
}

func (c *CAFile) identify(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", tunnel.Forbidden("no client certificate: give the agent --gateway-cert-file and --gateway-key-file")
	}
	roots, err := c.pool.get()
	if err != nil {
		return "", tunnel.Forbidden("the gateway cannot read its client CA")
	}
	if err := c.verdicts.verify(roots, r.TLS.PeerCertificates); err != nil {
		return "", tunnel.Forbidden("client certificate: " + printable.Text(err.Error(), printable.Sentence))
	}
	return certificateName(r.TLS.PeerCertificates[0])
}

// maxIdentity bounds the bytes of a name that logs and limits go by.
const maxIdentity = 255

// certificateName is the identity in a certificate: its common name or, as names
// moved out of that, the first of its alternative names. Logs and refusals
// repeat it, so that it is made printable.
func certificateName(c *x509.Certificate) (string, error) {
	names := []string{c.Subject.CommonName}
	names = append(names, c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.EmailAddresses...)
	for _, name := range names {
		if len(name) > maxIdentity {
			return "", tunnel.Forbidden(fmt.Sprintf("client certificate: its name has %d bytes, and may have %d", len(name), maxIdentity))
		}
		if name != "" {
			return printable.Text(name, printable.Name), nil
		}
	}
	return "", tunnel.Forbidden("client certificate: it names nobody")
}
