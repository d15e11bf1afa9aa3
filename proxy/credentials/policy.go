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
	// userHeader is the header in which Snowflake's ingress names the user that it has
	// authenticated.
	userHeader = "Sf-Context-Current-User"
	// anonymous is the identity of all requests at a gateway without authentication.
	anonymous = "anonymous"
)

// Policy decides who may use a gateway. A request must pass every check that is set. If none is
// set, all requests are refused. Set the fields before use. Its methods may be called concurrently.
type Policy struct {
	Tokens   *Tokens // nil: no token is asked for
	ClientCA *CA     // nil: no certificate is asked for
	// AllowUsers are the users that may pass the platform's ingress, as ParseUser returns them; nil
	// allows all. It is a check beside Tokens or ClientCA, never instead of them: a client that can
	// reach the gateway around the ingress can send any user.
	AllowUsers []string
	// InsecureNoAuth accepts all requests if nothing else is set.
	InsecureNoAuth bool
	// Names are the names of settings, in refusals.
	Names hints.Names
}

// Authenticate returns the identity of a request: the name of its token, or else the name in its
// certificate. The error's text is sent to the agent: it says what is missing and repeats nothing
// of the request. The error is a [tunnel.Forbidden] unless the token is missing or wrong; identity
// is then the token's name, if there is one.
//
// The certificate is checked here and not in the TLS handshake, which only asks for one. An HTTP
// response can say why a request is refused, a TLS alert cannot.
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
	if p.ClientCA != nil { // after the token, which costs less to check
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

// grant holds the credentials of a request that was accepted. The token's name is not enough: a
// name may have several tokens, and only one of them may be removed.
type grant struct {
	token [sha256.Size]byte   // hash of the request's token; zero if it has none
	chain []*x509.Certificate // the client's chain; nil if it has none
}

// Grant returns the credentials of r, which Authenticate has accepted, for Judge.
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

// Judge reads the files once and returns a function that checks a Grant against them. The function
// returns nil, or why the credentials are no longer accepted.
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

// checkUser checks the user that the ingress names. A header that appears twice is refused: one of
// the two may be the client's own.
func (p *Policy) checkUser(users []string) error {
	switch {
	case len(users) != 1:
		return tunnel.Forbidden(fmt.Sprintf("the request must carry %s exactly once, as the ingress sets it; it appears %d times", userHeader, len(users)))
	case !slices.Contains(p.AllowUsers, users[0]):
		return tunnel.Forbidden(p.Names.Sprintf("this user is not in the gateway's %s", hints.AllowUser))
	}
	return nil
}

// ParseUser parses a user's name as SQL does: it is converted to upper case, unless it is in double
// quotes. The ingress sends names in this form, and they are compared exactly.
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

// User returns the user that the request names, for logs only: a client that reaches the gateway
// around the ingress can send anything.
func User(h http.Header) string {
	return printable.Text(strings.Join(h.Values(userHeader), ", "), printable.Name)
}
