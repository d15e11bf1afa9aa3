package credentials

import (
	"bytes"
	"fmt"
	"log/slog"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// minTicketKey is the least number of bytes of a ticket key. 128 random bits cannot be guessed;
// text of this length has fewer, so errors recommend 32 random bytes in hex.
const minTicketKey = 16

// TicketKeys returns a function that returns the keys in a file, one per line. The first one signs.
// The function reads the file again when it changes. A nil logger discards.
func TicketKeys(f File, log *slog.Logger) (func() ([][]byte, error), error) {
	return Secrets(func(contents [][]byte) ([][]byte, error) { return parseKeys(f, contents[0]) }, log, f)
}

// ResetKey returns the key for tunnel.Server.ResetKey: the whole file, without white space at its
// ends. A nil logger discards.
func ResetKey(f File, log *slog.Logger) ([]byte, error) {
	key, err := Secrets(func(contents [][]byte) ([]byte, error) {
		key := bytes.TrimSpace(contents[0])
		if len(key) < tunnel.MinResetKey {
			return nil, fmt.Errorf("%s: the key has %d bytes and needs at least %d: make one with openssl rand -hex 32", f, len(key), tunnel.MinResetKey)
		}
		return key, nil
	}, log, f)
	if err != nil {
		return nil, err
	}
	return key()
}

func parseKeys(f File, content []byte) ([][]byte, error) {
	var keys [][]byte
	for number, line := range lines(content) {
		if len(line) < minTicketKey {
			return nil, fmt.Errorf("%s, line %d: the key has %d characters and needs at least %d: make one with openssl rand -hex 32",
				f, number, len(line), minTicketKey)
		}
		keys = append(keys, []byte(line))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: no key in it: make one with openssl rand -hex 32", f)
	}
	return keys, nil
}
