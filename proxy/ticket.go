package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// ticketLifetime is how long a ticket is valid. It should outlast a night in which no client
// connects: then a restarted agent reaches the brokers without metadata first. An address that a
// broker no longer has stays dialable for as long. Streams renew a ticket after half of its
// lifetime.
const ticketLifetime = 24 * time.Hour

const (
	// maxNodes bounds the nodes of a cluster that an agent or a gateway keeps. The largest clusters
	// that we know of have a few hundred brokers.
	maxNodes = 1024
	// maxTickets bounds the tickets that an agent keeps, or that a gateway sends on one stream. A
	// node has more than one address if it moves.
	maxTickets   = 4 * maxNodes
	maxClusterID = 255 // bytes; Kafka's ids have 22
	maxMAC       = 64  // bytes of a signature; SHA-256 has 32, which leaves room for another hash
)

// checkClusterID returns an error for an invalid cluster id. An empty id is valid: it means that
// the id is not known.
func checkClusterID(id string) error {
	if len(id) > maxClusterID {
		return fmt.Errorf("a cluster id of %d bytes exceeds the limit of %d", len(id), maxClusterID)
	}
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("cluster id %.80q is not printable ASCII", id)
		}
	}
	return nil
}

// checkNode returns an error for an invalid node id or address.
func checkNode(id int32, address string) error {
	if id < 0 {
		return fmt.Errorf("node id %d is negative", id)
	}
	if _, err := parseTarget(address); err != nil {
		return fmt.Errorf("node %d at %.80q: %w", id, address, err)
	}
	return nil
}

// checkTicket returns an error for a ticket that no gateway would issue. It does not check the
// signature: only a gateway has the keys.
func checkTicket(t tunnel.Ticket) error {
	if len(t.MAC) > maxMAC {
		return fmt.Errorf("a ticket's signature of %d bytes exceeds the limit of %d", len(t.MAC), maxMAC)
	}
	if err := checkClusterID(t.ClusterID); err != nil {
		return err
	}
	return checkNode(t.NodeID, t.Address)
}

var (
	errTicketExpired = errors.New("the ticket has expired")
	errTicketInvalid = errors.New("the ticket is not signed by this gateway")
)

// signer signs and verifies tickets. A ticket proves to a gateway that a broker has named an
// address, although the agent carries it, and without shared state among gateways. The first key
// signs and all keys verify, so that keys can be rotated.
type signer struct {
	keys func() ([][]byte, error)
}

// newSigner returns a signer that calls keys on each use. If keys is nil, it has a random key of
// its own.
func newSigner(keys func() ([][]byte, error)) *signer {
	if keys == nil {
		key := make([]byte, sha256.Size)
		rand.Read(key)
		keys = func() ([][]byte, error) { return [][]byte{key}, nil }
	}
	return &signer{keys}
}

// sign returns t with an expiry and a signature.
func (s *signer) sign(t tunnel.Ticket, now time.Time) (tunnel.Ticket, error) {
	keys, err := s.keys()
	if err != nil {
		return t, err
	}
	t.Expires = now.Add(ticketLifetime).Unix()
	t.MAC = ticketMAC(keys[0], t)
	return t, nil
}

// verify returns why t does not allow a dial of address: errTicketInvalid, errTicketExpired, or
// another error.
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

// ids returns what identifies the keys to those who do not have them, as far as they can be read.
// Two gateways whose ids match accept each other's tickets.
func (s *signer) ids() (ids []string) {
	keys, _ := s.keys() // sign and verify report an error
	for _, key := range keys[:min(len(keys), maxKeyIDs)] {
		m := hmac.New(sha256.New, key)
		fmt.Fprintf(m, "culvert ticket key")
		ids = append(ids, hex.EncodeToString(m.Sum(nil)[:8]))
	}
	return ids
}

// maxKeyIDs bounds the keys that a gateway names. During a rotation there are two.
const maxKeyIDs = 8

// ticketMAC returns the signature of all fields of t. Strings are quoted, so that two different
// tickets never have the same text.
func ticketMAC(key []byte, t tunnel.Ticket) []byte {
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "culvert ticket 1 %q %d %q %d", t.ClusterID, t.NodeID, t.Address, t.Expires)
	return m.Sum(nil)
}
