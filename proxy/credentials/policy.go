package credentials

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// userHeader is what the Snowflake ingress says of the user it let in.
	userHeader = "Sf-Context-Current-User"
	// anonymous is the identity of whoever comes through a gateway without
	// authentication.
	anonymous = "anonymous"
)

// Policy decides who may use a gateway. Everything that is set must pass; with
// nothing set, nobody may.
type Policy struct {
	Tokens   *Tokens // nil: no token is asked for
	ClientCA *CA     // nil: no certificate is asked for
	// AllowUsers are the users of the platform's ingress that may come in, as
	// ParseUser returns them; nil allows all. It only narrows what Tokens and
	// ClientCA let in: an ingress that can be gone around proves nothing.
	AllowUsers []string
	// InsecureNoAuth lets everybody in when nothing else is set.
	InsecureNoAuth bool
	// Names are those of settings, for who is refused.
	Names hints.Names
}

// Authenticate returns the name of who makes the request: that of the token, or
// else that in the certificate. The text of its error is for the other end: it
// says what is missing and repeats nothing that was sent. It is a
// [tunnel.Forbidden] where no token is to blame, and then the name is the token's
// nevertheless, if there is one.
//
// The certificate is checked here, not in the TLS handshake, whose server only
// has to ask for one: a refusal in HTTP carries a sentence, a TLS alert none.
func (p *Policy) Authenticate(r *http.Request) (identity string, err error) {
	if p.Tokens == nil && p.ClientCA == nil {
		if !p.InsecureNoAuth || p.AllowUsers != nil {
			return "", tunnel.Forbidden("this gateway accepts nobody: it has neither tokens nor a client CA")
		}
		identity = anonymous
	}
	if p.Tokens != nil {
		if identity, err = p.Tokens.identify(r, p.Names); err != nil {
			return "", err
		}
	}
	if p.ClientCA != nil { // after the token: to verify a certificate costs more
		name, err := p.ClientCA.identify(r, p.Names)
		if err != nil {
			return identity, err
		}
		identity = cmp.Or(identity, name)
	}
	if p.AllowUsers != nil {
		if err := p.checkUser(r.Header.Values(userHeader)); err != nil {
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
func (p *Policy) Grant(r *http.Request) any {
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
func (p *Policy) Judge() func(any) error {
	var tokens []namedToken
	var roots *x509.CertPool
	var noTokens, noRoots error
	if p.Tokens != nil {
		tokens, noTokens = p.Tokens.tokens.get()
	}
	if p.ClientCA != nil {
		roots, noRoots = p.ClientCA.pool.get()
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
		case p.Tokens != nil && !slices.ContainsFunc(tokens, func(t namedToken) bool { return t.sum == g.token }):
			return errors.New("the token is no longer in the file")
		case p.ClientCA != nil:
			return p.ClientCA.chains.verify(roots, g.chain)
		}
		return nil
	}
}

func (p *Policy) checkUser(users []string) error {
	switch {
	case len(users) != 1:
		return tunnel.Forbidden(fmt.Sprintf("the request must carry %s exactly once, as the ingress sets it; it appears %d times", userHeader, len(users)))
	case !slices.Contains(p.AllowUsers, users[0]):
		return tunnel.Forbidden(p.Names.Sprintf("this user is not in the gateway's %s", hints.AllowUser))
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
		return "", errors.New("it is not a user name")
	}
	return name, nil
}

// User is what a request says of the user that an ingress let in, for logs:
// whoever goes around the ingress can say anything there.
func User(h http.Header) string {
	return printable.Text(strings.Join(h.Values(userHeader), ", "), printable.Name)
}
