package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// An Ingress stands in front of a gateway and requires credentials of its own, as the proxy of a
// platform does. Its methods may be called concurrently.
type Ingress interface {
	// Authorize adds credentials to a request's header. It may fetch them, bounded by ctx. After a
	// failure it returns the same error without fetching, until it is time to try again.
	Authorize(ctx context.Context, h http.Header) error

	// Refused is called with a response that did not come from the gateway, to a request with
	// header h. It must not block. It fills in what the response means (Text, Remedy, Final), and
	// returns true to try once more with what Authorize then adds. One exchange is retried at most
	// [MaxAgain] times.
	Refused(h http.Header, answer *AnswerError) (again bool)
}

// MaxAgain is how often an exchange is retried with other credentials: with newer ones, and in each
// of the few forms in which an ingress is known to accept them.
const MaxAgain = 3

// credentials adds what every exchange must carry, and interprets refusals.
type credentials struct {
	token   func() (string, error) // nil means none
	ingress Ingress                // nil means none
	route   *route
	proven  func(transport string) bool // reports whether this transport was the last in use
}

// header returns the header of a request that opens a stream. Its errors are a
// [race.CredentialsError], because no transport is to blame.
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

// complete adds to a response that opened no tunnel where it came from, and what the ingress knows
// about it. sent is the header of the request.
func (c *credentials) complete(transport string, sent http.Header, e *AnswerError) *AnswerError {
	e.URL, e.Transport = c.route.target().String(), transport
	if !e.Gateway && !e.Proxy {
		c.route.front.answered(e.Header)
	}
	if c.ingress != nil && !e.Gateway && !e.Proxy {
		e.Proven = c.proven(transport)
		e.Again = c.ingress.Refused(sent, e)
	}
	return e
}

// refused returns the error of a dial that got such a response.
func (c *credentials) refused(transport string, sent http.Header, e *AnswerError) error {
	return race.Explain(&race.DialError{Doing: "dial gateway", Gateway: c.route.addr(), Transport: transport, Err: c.complete(transport, sent, e)})
}
