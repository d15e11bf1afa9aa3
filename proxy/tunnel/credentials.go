package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/culvert-proxy/culvert/proxy/tunnel/race"
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

// credentials are what every exchange carries, and what its refusal means.
type credentials struct {
	token   func() (string, error) // nil means none
	ingress Ingress                // nil means none
	route   *route
	proven  func(transport string) bool // reports whether a transport was the last in use
}

// header returns the header of a request that opens a stream.
func (c *credentials) header(ctx context.Context) (http.Header, error) {
	h := http.Header{"User-Agent": {"culvert/" + Version}}
	if c.token != nil {
		token, err := c.token()
		if err != nil {
			return nil, race.CredentialsError{Err: fmt.Errorf("token: %w", err)}
		}
		h.Set(headerAuthorization, "Bearer "+token)
	}
	if c.ingress != nil {
		if err := c.ingress.Authorize(ctx, h); err != nil {
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				err = context.Cause(ctx)
			}
			return nil, race.CredentialsError{Err: fmt.Errorf("credentials for the ingress: %w", err)}
		}
	}
	return h, nil
}

// complete adds to an answer that opens no tunnel, to a request with header sent, where it came from and what the ingress knows of it.
func (c *credentials) complete(transport string, sent http.Header, e *AnswerError) *AnswerError {
	e.URL, e.Transport = c.route.target().String(), transport
	if c.ingress != nil && !e.Gateway && !e.Proxy {
		e.Proven = c.proven(transport)
		e.Again = c.ingress.Refused(sent, e)
	}
	return e
}

// refused is the error of a dial that has got such an answer.
func (c *credentials) refused(transport string, sent http.Header, e *AnswerError) error {
	return race.Explain(fmt.Errorf("dial gateway %s over %s: %w", c.route.addr(), transport, c.complete(transport, sent, e)))
}
