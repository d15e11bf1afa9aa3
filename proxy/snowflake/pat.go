package snowflake

import (
	"bytes"
	"errors"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

const (
	// minToken is shorter than any token of Snowflake's.
	minToken = 16
	// maxToken is longer than any, and fits into a header.
	maxToken = 8 << 10
)

// ParsePAT returns the programmatic access token that a file holds, with nothing but white space
// around it. Errors do not contain it.
func ParsePAT(content []byte) (string, error) {
	s := string(bytes.TrimSpace(bytes.TrimPrefix(content, []byte("\ufeff"))))
	const remedy = "the file holds what ALTER USER … ADD PROGRAMMATIC ACCESS TOKEN … printed as token_secret, and nothing else"
	switch {
	case s == "":
		return "", badFile("it holds no token", remedy)
	case strings.Contains(s, "-----BEGIN"):
		return "", badFile("it holds a key, not a programmatic access token", "for a key there is %s", keyFile)
	}
	if err := checkToken(s); err != nil {
		return "", badFile("it holds no token: "+err.Error(), remedy)
	}
	return s, nil
}

// checkToken refuses what cannot go into a header, in quotes or without.
func checkToken(s string) error {
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' || r == ',' }):
		return errors.New("a token must not contain spaces, line breaks, commas or quotes")
	case len(s) < minToken:
		return errors.New("it is too short for a token")
	case len(s) > maxToken:
		return errors.New("it is longer than any token")
	}
	return nil
}

// badFile is an error about the content of a file; which file, the caller knows.
func badFile(what, remedy string, args ...any) error {
	return hints.New(errors.New(what), remedy, args...)
}
