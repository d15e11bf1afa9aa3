package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// ticketLife is how long a ticket lets an agent come back to a broker's
// address, before or after a restart of either end. Streams renew it past half
// of that.
const ticketLife = 24 * time.Hour

var (
	errTicketExpired = errors.New("the ticket has expired")
	errTicketInvalid = errors.New("the ticket is not signed by this gateway; replicas must share --ticket-key-file, and a restart without one makes a new key")
)

// signer makes and checks tickets: what a broker named travels with the agent,
// and only who holds a key can have said it. The first key signs, all verify,
// so that keys can be rotated.
type signer struct {
	keys func() ([][]byte, error)
}

// newSigner takes keys, which is asked on each use, or makes a random key of
// its own where it is nil.
func newSigner(keys func() ([][]byte, error)) *signer {
	if keys == nil {
		key := make([]byte, sha256.Size)
		rand.Read(key)
		keys = func() ([][]byte, error) { return [][]byte{key}, nil }
	}
	return &signer{keys}
}

// sign completes t with an expiry and a signature.
func (s *signer) sign(t tunnel.Ticket, now time.Time) (tunnel.Ticket, error) {
	keys, err := s.keys()
	if err != nil {
		return t, err
	}
	t.Expires = now.Add(ticketLife).Unix()
	t.MAC = ticketMAC(keys[0], t)
	return t, nil
}

// verify reports why t does not let its bearer to address.
func (s *signer) verify(t *tunnel.Ticket, address string, now time.Time) error {
	keys, err := s.keys()
	if err != nil {
		return err
	}
	signed := false
	for _, key := range keys {
		signed = hmac.Equal(t.MAC, ticketMAC(key, *t)) || signed
	}
	switch {
	case !signed:
		return errTicketInvalid
	case t.Address != address:
		return fmt.Errorf("the ticket is for %s", t.Address)
	case now.Unix() >= t.Expires:
		return errTicketExpired
	}
	return nil
}

// ticketMAC signs every field. Strings are quoted, so that no two tickets have
// the same text.
func ticketMAC(key []byte, t tunnel.Ticket) []byte {
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "culvert ticket 1 %q %d %q %d", t.ClusterID, t.NodeID, t.Address, t.Expires)
	return m.Sum(nil)
}
