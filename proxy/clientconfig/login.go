package clientconfig

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The login modules of Kafka, without their package.
const (
	plainModule = "PlainLoginModule"
	scramModule = "ScramLoginModule"
	oauthModule = "OAuthBearerLoginModule"
)

// modules are the login modules of the mechanisms that are supported.
var modules = map[string]string{
	"PLAIN": plainModule, "SCRAM-SHA-256": scramModule, "SCRAM-SHA-512": scramModule, "OAUTHBEARER": oauthModule,
}

// addLogin adds how the client logs in.
func (p Properties) addLogin(c *Config) error {
	module, supported := modules[c.Mechanism]
	if !supported {
		c.note("sasl.mechanism " + c.Mechanism + " is not supported here")
		return nil
	}
	before := len(c.Unsupported)
	p.unsupported(c, "sasl.client.callback.handler.class", "sasl.login.class")
	if len(c.Unsupported) > before {
		return nil
	}
	jaas, ok := p["sasl.jaas.config"]
	if !ok {
		return errNoJAAS
	}
	l, err := parseJAAS(jaas)
	if err != nil {
		return fmt.Errorf("sasl.jaas.config: %w", err)
	}
	if class := l.module[strings.LastIndexByte(l.module, '.')+1:]; class != module {
		if slices.Contains([]string{plainModule, scramModule, oauthModule}, class) {
			return fmt.Errorf("sasl.jaas.config has %s, and sasl.mechanism %s needs %s", class, c.Mechanism, module)
		}
		c.note("the login module of sasl.jaas.config is not supported here")
		return nil
	}
	return p.addMechanism(c, l)
}

func (p Properties) addMechanism(c *Config, l login) (err error) {
	if c.Mechanism == "OAUTHBEARER" {
		return p.addOAuth(c, l)
	}
	if p["sasl.login.callback.handler.class"] != "" {
		p.unsupported(c, "sasl.login.callback.handler.class")
		return nil
	}
	user, hasUser := l.options["username"]
	password, hasPassword := l.options["password"]
	if !hasUser || !hasPassword {
		return errors.New("sasl.jaas.config has no username or no password")
	}
	token := strings.EqualFold(l.options["tokenauth"], "true")
	switch c.Mechanism {
	case "PLAIN":
		c.SASL = plain.Auth{User: user, Pass: password}.AsMechanism()
	case "SCRAM-SHA-256":
		c.SASL = scram.Auth{User: user, Pass: password, IsToken: token}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		c.SASL = scram.Auth{User: user, Pass: password, IsToken: token}.AsSha512Mechanism()
	}
	return nil
}

// addOAuth adds a login with a token: one that the client writes itself, without a signature, or
// one that an identity provider gives for a client id and a secret.
func (p Properties) addOAuth(c *Config, l login) error {
	handler := p["sasl.login.callback.handler.class"]
	switch class := handler[strings.LastIndexByte(handler, '.')+1:]; class {
	case "", "OAuthBearerUnsecuredLoginCallbackHandler":
		claims, err := l.claims()
		if err != nil {
			return fmt.Errorf("sasl.jaas.config: %w", err)
		}
		extensions := l.withPrefix("unsecuredLoginExtension_")
		c.SASL = oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			return oauth.Auth{Token: unsecuredToken(claims, time.Now()), Extensions: extensions}, nil
		})
	case "OAuthBearerLoginCallbackHandler":
		return p.addClientCredentials(c, l)
	default:
		p.unsupported(c, "sasl.login.callback.handler.class")
	}
	return nil
}

// withPrefix returns the options whose names begin so, without the prefix.
func (l login) withPrefix(prefix string) map[string]string {
	found := map[string]string{}
	for key, value := range l.options {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			found[name] = value
		}
	}
	return found
}

const defaultLifetime = 3600 // of a token without a signature, in seconds

// claims are those of a token without a signature. "exp" is how long it lasts, in seconds.
func (l login) claims() (map[string]any, error) {
	claims := map[string]any{"exp": float64(defaultLifetime)}
	for name, value := range l.withPrefix("unsecuredLoginStringClaim_") {
		claims[name] = value
	}
	for name, value := range l.withPrefix("unsecuredLoginNumberClaim_") {
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, errors.New("the value of an unsecuredLoginNumberClaim_ is not a number")
		}
		claims[name] = n
	}
	for name, value := range l.withPrefix("unsecuredLoginListClaim_") {
		list := []string{}
		if value != "" { // its first character separates the items
			list = strings.Split(value[1:], value[:1])
		}
		claims[name] = list
	}
	if value, ok := l.options["unsecuredLoginLifetimeSeconds"]; ok {
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, errors.New("unsecuredLoginLifetimeSeconds is not a number")
		}
		claims["exp"] = n
	}
	name := l.options["unsecuredLoginPrincipalClaimName"]
	if name == "" {
		name = "sub"
	}
	if claims[name] == nil || claims[name] == "" {
		return nil, errors.New("no unsecuredLoginStringClaim_ names the principal")
	}
	return claims, nil
}

// unsecuredToken is a JSON web token without a signature (RFC 7515 appendix A.5).
func unsecuredToken(claims map[string]any, now time.Time) string {
	claims = maps.Clone(claims)
	claims["iat"] = now.Unix()
	claims["exp"] = float64(now.Unix()) + claims["exp"].(float64)
	body, _ := json.Marshal(claims) // strings, numbers and lists of strings
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
}

// addClientCredentials adds a login with a token that is fetched from an identity provider, by
// OAuth's client credentials grant.
func (p Properties) addClientCredentials(c *Config, l login) error {
	before := len(c.Unsupported)
	p.unsupported(c, "sasl.oauthbearer.jwt.retriever.class", "sasl.oauthbearer.assertion.file", "sasl.oauthbearer.assertion.private.key.file")
	for option := range l.options {
		if strings.HasPrefix(option, "ssl.") {
			c.note("TLS settings for the token endpoint are not supported here")
			break
		}
	}
	endpoint, err := url.Parse(p.or("sasl.oauthbearer.token.endpoint.url", ""))
	if err != nil || endpoint.Host == "" {
		return errors.New("sasl.oauthbearer.token.endpoint.url is missing or is no URL")
	}
	if endpoint.Scheme != "https" && endpoint.Scheme != "http" {
		c.note("a token endpoint that is not an HTTP URL is not supported here")
	}
	if len(c.Unsupported) > before {
		return nil
	}
	grant := clientCredentials{
		endpoint: endpoint.String(), id: l.options["clientId"], secret: l.options["clientSecret"], scope: l.options["scope"],
	}
	if grant.id == "" || grant.secret == "" {
		return errors.New("sasl.jaas.config has no clientId or no clientSecret")
	}
	extensions := l.withPrefix("extension_")
	c.SASL = oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
		token, err := grant.fetch(ctx)
		return oauth.Auth{Token: token, Extensions: extensions}, err
	})
	return nil
}

// clientCredentials ask an identity provider for a token (RFC 6749 section 4.4).
type clientCredentials struct{ endpoint, id, secret, scope string }

// maxTokenAnswer bounds what is read of an identity provider's answer.
const maxTokenAnswer = 1 << 20

func (g clientCredentials) fetch(ctx context.Context) (token string, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if g.scope != "" {
		form.Set("scope", g.scope)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", errors.New("sasl.oauthbearer.token.endpoint.url is no URL")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.SetBasicAuth(g.id, g.secret)
	client := http.Client{ // a redirect would carry the secret elsewhere
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask the token endpoint for a token: %w", unwrapURL(err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask the token endpoint for a token: it answered %d", response.StatusCode)
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxTokenAnswer)).Decode(&answer); err != nil || answer.Token == "" {
		return "", errors.New("ask the token endpoint for a token: its answer has no access_token")
	}
	return answer.Token, nil
}

// unwrapURL drops the URL from an error of net/http: it may hold a secret.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
