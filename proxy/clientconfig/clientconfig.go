// Package clientconfig reads the properties file of a Kafka client in Java, and does what such a
// client would: log in by SASL, and speak TLS. It lets culvert doctor examine a path as a given
// client would use it.
//
// What it does not support it names, in [Config.Unsupported]: a setting that is silently ignored
// would make a check say that all is well for a client for which it is not. No error and no text of
// this package holds a value of the file that may be secret.
package clientconfig

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Config is how a client connects.
type Config struct {
	Protocol  string         // security.protocol
	Mechanism string         // sasl.mechanism; "" if the client does not log in
	SASL      sasl.Mechanism // how it logs in; nil if it does not, or if Unsupported says why not
	TLS       *tls.Config    // how it speaks TLS, without ServerName; nil as for SASL
	// Unsupported are settings that the client obeys and this package does not, each a sentence.
	Unsupported []string
}

// LogsIn reports whether the client logs in.
func (c *Config) LogsIn() bool { return c.Protocol == saslPlaintext || c.Protocol == saslSSL }

// SpeaksTLS reports whether the client speaks TLS.
func (c *Config) SpeaksTLS() bool { return c.Protocol == ssl || c.Protocol == saslSSL }

// The values of security.protocol.
const (
	plaintext     = "PLAINTEXT"
	ssl           = "SSL"
	saslPlaintext = "SASL_PLAINTEXT"
	saslSSL       = "SASL_SSL"
)

// Read reads a properties file and the files that it names. Its errors are about what a client
// would not start with either.
func Read(path string) (*Config, error) {
	file, err := credentials.ReadFile(path, credentials.MaxFile)
	if err != nil {
		return nil, err
	}
	p, err := ParseProperties(file)
	if err == nil {
		var c *Config
		if c, err = p.config(); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("read %s: %w", path, err)
}

// config is what the properties mean. Those that do not concern connections are ignored.
func (p Properties) config() (*Config, error) {
	if err := p.checkDialect(); err != nil {
		return nil, err
	}
	c := &Config{Protocol: strings.ToUpper(p.or("security.protocol", plaintext))}
	if !slices.Contains([]string{plaintext, ssl, saslPlaintext, saslSSL}, c.Protocol) {
		return nil, fmt.Errorf("security.protocol %s: no such protocol", printable.Text(c.Protocol, printable.Name))
	}
	if c.LogsIn() {
		c.Mechanism = printable.Text(p.or("sasl.mechanism", "GSSAPI"), printable.Name)
	}
	if key := p.external(); key != "" {
		c.note(key + " is taken from a config provider, which is not supported here")
		return c, nil
	}
	if c.SpeaksTLS() {
		if err := p.addTLS(c); err != nil {
			return nil, err
		}
	}
	if c.LogsIn() {
		if err := p.addLogin(c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// checkDialect refuses files of librdkafka, whose settings have the same form and other names.
func (p Properties) checkDialect() error {
	for _, key := range []string{"sasl.username", "sasl.password", "ssl.ca.location", "sasl.mechanisms"} {
		if _, ok := p[key]; ok {
			return hints.New(fmt.Errorf("%s is a setting of librdkafka, not of Kafka's Java client", key),
				"write sasl.mechanism, sasl.jaas.config and ssl.truststore.location instead")
		}
	}
	return nil
}

// external returns a setting of ours whose value is elsewhere, as in ${file:/secrets:password}, or
// "".
func (p Properties) external() string {
	if p["config.providers"] == "" {
		return ""
	}
	for _, key := range slices.Sorted(keysOf(p)) {
		if strings.Contains(p[key], "${") && (strings.HasPrefix(key, "sasl.") || strings.HasPrefix(key, "ssl.")) {
			return printable.Text(key, printable.Name)
		}
	}
	return ""
}

func keysOf(p Properties) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range p {
			if !yield(key) {
				return
			}
		}
	}
}

// or returns a setting, or a default if it is absent. Java trims the values of most settings.
func (p Properties) or(key, absent string) string {
	if value, ok := p[key]; ok {
		return strings.TrimSpace(value)
	}
	return absent
}

// note adds a sentence to Unsupported, unless it is "".
func (c *Config) note(why string) {
	if why != "" {
		c.Unsupported = append(c.Unsupported, why)
	}
}

// unsupported notes settings that would change what the client does.
func (p Properties) unsupported(c *Config, keys ...string) {
	for _, key := range keys {
		if p[key] != "" {
			c.note(key + " is not supported here")
		}
	}
}

var errNoJAAS = errors.New("sasl.jaas.config is missing: the client would look for a login in java.security.auth.login.config")
