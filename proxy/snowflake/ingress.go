// Package snowflake stands before the public endpoints of Snowpark Container
// Services: it gives an agent the credentials that their ingress wants, and says
// in words what the ingress answers.
//
// A programmatic access token goes into the header as it is. A key pair signs a
// JWT, which Snowflake exchanges for a token of some minutes or hours; that is
// kept, and renewed before it expires. Neither ever appears in a log or an error.
package snowflake

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// An Ingress is Snowflake's, before one endpoint. With neither PAT nor KeyPair it
// has no credentials to give, and only explains. Set the fields before the first
// use; then it may be used concurrently. Close it.
type Ingress struct {
	Host    string                 // of the endpoint, without port
	PAT     func() (string, error) // the programmatic access token, asked for each exchange; nil: none
	KeyPair *KeyPair               // used without PAT; nil: none

	// OnLogin is told how each exchange of a JWT for a token went, and until when
	// the token is good; nil: nobody.
	OnLogin func(err error, expires time.Time)

	Logger *slog.Logger // nil discards

	once   sync.Once
	log    *slog.Logger
	tokens *tokens // nil without KeyPair
	forms  formChooser
}

var _ tunnel.Ingress = (*Ingress)(nil)

// Unlikely are the transports that are not expected to work at this host, for
// [tunnel.Dialer]: the ingress of Snowpark Container Services is known for
// WebSockets alone. A host with another name may have anything before it.
func (i *Ingress) Unlikely() []string {
	if !IsHost(i.Host) {
		return nil
	}
	return []string{tunnel.TransportH3, tunnel.TransportH2}
}

// Remedy is what to do where a hop on the way has failed, as culvert doctor names
// them; "" where nothing is known.
func (i *Ingress) Remedy(hop string) string {
	if hop != "name" {
		return ""
	}
	return "is the host right? It is ingress_url of SHOW ENDPOINTS IN SERVICE, and changes when the service is dropped and created again"
}

func (i *Ingress) init() {
	i.once.Do(func() {
		i.log = cmp.Or(i.Logger, slog.New(slog.DiscardHandler))
		if i.PAT != nil || i.KeyPair == nil {
			return
		}
		i.tokens = newTokens(func(ctx context.Context) (token, error) { return i.KeyPair.login(ctx, i.Host) })
		i.tokens.changed = i.KeyPair.keyChanged
		i.tokens.ended, i.tokens.unfinished = i.loggedIn, i.KeyPair.unfinished
	})
}

// loggedIn reports how a login went.
func (i *Ingress) loggedIn(f fetched) {
	if i.OnLogin != nil {
		i.OnLogin(f.err, f.token.expires)
	}
	next := f.next.Round(time.Second)
	switch skew := f.token.skew; {
	case f.err != nil && f.behind:
		i.log.Warn("token for the ingress not renewed, the last one is still good", "err", f.err, "retry_in", next)
	case f.err != nil: // whoever waited for it says so
		i.log.Debug("no token for the ingress", "err", f.err, "retry_in", next)
	case skew.Abs() > skewWorthSaying:
		i.log.Warn("clocks differ: beyond a minute Snowflake accepts no key", "ahead", skew.Round(time.Second))
	default:
		i.log.Debug("token for the ingress renewed", "host", i.Host, "refresh_in", next)
	}
}

// Authorize sets the header that the ingress takes a token from. With a key pair
// it may wait for a login; a login that failed is not repeated at once.
func (i *Ingress) Authorize(ctx context.Context, h http.Header) error {
	i.init()
	token, err := i.token(ctx)
	if err != nil || token == "" {
		return err
	}
	i.forms.current().set(h, token)
	return nil
}

func (i *Ingress) token(ctx context.Context) (string, error) {
	switch {
	case i.PAT != nil:
		return i.PAT()
	case i.tokens != nil:
		return i.tokens.get(ctx)
	}
	return "", nil
}

// Refused explains an answer. It asks for another try when the answer may be
// about the token and there is another token, or another form of showing it, that
// was not refused lately.
func (i *Ingress) Refused(h http.Header, e *tunnel.AnswerError) (again bool) {
	i.init()
	sent, form, shown := readForm(h)
	v := i.explain(readAnswer(e, secretsIn(h)...))
	e.Text, e.Remedy, e.Final = v.text, v.remedy, v.final
	if !v.credentials || !shown || e.Transport != tunnel.TransportWS && !e.Proven {
		return false // over another transport it may say that it wants none such
	}
	return i.forms.other(form, func() bool { return i.isCurrent(sent) }, func() bool { return i.tokens != nil && i.tokens.forget(sent) })
}

// isCurrent reports whether the token that was sent is what would be sent now.
func (i *Ingress) isCurrent(sent string) bool {
	if i.PAT != nil {
		now, err := i.PAT()
		return err != nil || now == sent
	}
	return i.tokens.current() == sent
}

// Close ends the renewal of tokens, and waits for a login in progress to give up.
func (i *Ingress) Close() error {
	i.init()
	if i.tokens != nil {
		i.tokens.close()
	}
	return nil
}
