package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// An Ingress is what stands before a gateway and wants credentials of its own, as a platform's front door does. Its methods may be called
// concurrently.
type Ingress interface {
	// Authorize adds credentials to a request's header. It may fetch them, bounded by ctx; after a failure it answers at once until it is time
	// to ask again.
	Authorize(ctx context.Context, h http.Header) error

	// Refused is told an answer that the gateway did not give to a request with header h, and must not block. It fills in what the answer means
	// (Text, Remedy, Final), and reports whether to ask once more, with what Authorize then gives. Of one exchange that happens at most
	// [MaxAgain] times.
	Refused(h http.Header, answer *AnswerError) (again bool)
}

// MaxAgain is how often an exchange is tried again with other credentials: with newer ones, and in each of the few forms that an ingress is
// known to take them in.
const MaxAgain = 3

// credentialsError is that credentials could not be had. It says nothing about the ways to the gateway.
type credentialsError struct{ error }

func (e credentialsError) Unwrap() error { return e.error }

// header is what every exchange carries.
func (d *Dialer) header(ctx context.Context) (http.Header, error) {
	h := http.Header{"User-Agent": {"culvert/" + Version}}
	if d.Token != nil {
		token, err := d.Token()
		if err != nil {
			return nil, credentialsError{fmt.Errorf("token: %w", err)}
		}
		h.Set(headerAuthorization, "Bearer "+token)
	}
	if d.Ingress != nil {
		if err := d.Ingress.Authorize(ctx, h); err != nil {
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				err = context.Cause(ctx)
			}
			return nil, credentialsError{fmt.Errorf("credentials for the ingress: %w", err)}
		}
	}
	return h, nil
}

// answered completes an answer that opens no tunnel, to a request with header sent.
func (d *Dialer) answered(transport string, sent http.Header, e *AnswerError) *AnswerError {
	e.URL, e.Transport = d.target().String(), transport
	if d.Ingress != nil && !e.Gateway && !e.Proxy {
		e.Proven = d.race.proven(transport)
		e.again = d.Ingress.Refused(sent, e)
	}
	return e
}

// attempt makes a stream over one transport, and has use wait for the gateway on it. When the ingress refuses the credentials and may take
// others, all of that is done again; there is no other place that does so. The stream is returned also with an error of use.
func (d *Dialer) attempt(ctx context.Context, transport string, open []byte, fresh bool, use func(c *Conn, ready bool) error) (c *Conn, ready bool, err error) {
	for try := 0; ; try++ {
		c, ready, err = d.dial(ctx, transport, open, fresh)
		if err == nil {
			err = use(c, ready)
		}
		e, ok := errors.AsType[*AnswerError](err)
		if !ok || !e.again || try == MaxAgain || ctx.Err() != nil {
			return c, ready, err
		}
		if c != nil {
			c.Close()
		}
		d.log.Debug("exchange is tried again with other credentials", "err", err)
	}
}
