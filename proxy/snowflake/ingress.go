// Package snowflake leads an agent through the ingress before the public endpoints of Snowpark
// Container Services: it supplies the credentials that the ingress asks for, and explains what the
// ingress answers.
//
// A programmatic access token goes into the header as it is. A key pair signs a JWT, which
// Snowflake exchanges for a token of some minutes or hours; that is kept, and renewed before it
// expires. None of these appears in a log or an error.
package snowflake

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// An Ingress is the one before one endpoint. With neither PAT nor KeyPair it has no credentials,
// and only explains answers. Set the fields before the first use; then it may be used concurrently.
// Close ends its goroutines.
type Ingress struct {
	Host    string                 // of the endpoint, without port
	PAT     func() (string, error) // the programmatic access token, asked for each exchange; nil: none
	KeyPair *KeyPair               // used without PAT; nil: none

	// OnLogin is called after each exchange of a JWT for a token, with when the token expires; nil:
	// nothing is.
	OnLogin func(err error, expires time.Time)

	// Names are those of settings, in remedies.
	Names hints.Names

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

// Remedy is what to do where a hop on the way has failed, as culvert doctor names them; "" where
// nothing is known.
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

// loggedIn tells OnLogin and the log how a login went.
func (i *Ingress) loggedIn(f fetched) {
	if i.OnLogin != nil {
		i.OnLogin(f.err, f.token.expires)
	}
	next := f.next.Round(time.Second)
	switch skew := f.token.skew; {
	case f.err != nil && f.hadToken:
		i.log.Warn("token for the ingress not renewed, the last one is still good", "err", f.err, "retry_in", next)
	case f.err != nil: // a caller waited, and logs the error
		i.log.Debug("no token for the ingress", "err", f.err, "retry_in", next)
	case skew.Abs() > skewWorthSaying:
		i.log.Warn("clocks differ: Snowflake rejects a key pair if they differ by more than a minute", "ahead", skew.Round(time.Second))
	default:
		i.log.Debug("token for the ingress renewed", "host", i.Host, "refresh_in", next)
	}
}

// Login returns when the last login that succeeded was and when its token expires, and the error of
// the last login if that failed. All of them are zero without a key pair.
func (i *Ingress) Login() (at, expires time.Time, err error) {
	i.init()
	if i.tokens == nil {
		return time.Time{}, time.Time{}, nil
	}
	return i.tokens.state()
}

// Authorize sets the header in which the ingress looks for a token. With a key pair it may wait for
// a login; for some time after a login has failed it returns that login's error.
func (i *Ingress) Authorize(ctx context.Context, h http.Header) error {
	i.init()
	token, err := i.token(ctx)
	if err != nil || token == "" {
		return err
	}
	i.forms.current().set(h, token)
	return nil
}

// token returns the token to send; "" where there are no credentials.
func (i *Ingress) token(ctx context.Context) (string, error) {
	switch {
	case i.PAT != nil:
		return i.PAT()
	case i.tokens != nil:
		return i.tokens.get(ctx)
	}
	return "", nil
}

// Refused explains an answer. It asks for another try where the answer may be about the token, and
// another token, or another form of sending it, was not refused lately.
func (i *Ingress) Refused(h http.Header, e *tunnel.AnswerError) (again bool) {
	i.init()
	token, form, sent := readForm(h)
	x := i.explain(readAnswer(e, secretsIn(h)...))
	e.Text, e.Remedy, e.Final = x.text, x.remedy, x.final
	if !x.credentials || !sent || e.Transport != tunnel.TransportWS && !e.Proven {
		return false // the answer may be about a transport that the ingress does not support
	}
	return i.forms.other(form, func() bool { return i.isCurrent(token) }, func() bool { return i.tokens != nil && i.tokens.forget(token) })
}

// isCurrent reports whether a token is the one that would be sent now.
func (i *Ingress) isCurrent(token string) bool {
	if i.PAT != nil {
		now, err := i.PAT()
		return err != nil || now == token
	}
	return i.tokens.current() == token
}

// Close ends the renewal of tokens, cancels a login in progress and waits for it.
func (i *Ingress) Close() error {
	i.init()
	if i.tokens != nil {
		i.tokens.close()
	}
	return nil
}
