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

const (
	// maxNodes bounds the nodes of a cluster that either end remembers. The largest
	// clusters known have some hundreds of brokers.
	maxNodes = 1024
	// maxTickets bounds the tickets kept: a few addresses for each node.
	maxTickets   = 4 * maxNodes
	maxClusterID = 255 // Kafka's have 22 characters
	maxMAC       = 64  // bytes of a signature; ours have 32
)

// checkClusterID refuses what is no cluster's id. An empty one is none at all.
func checkClusterID(id string) error {
	if len(id) > maxClusterID {
		return fmt.Errorf("a cluster id of %d bytes: they have %d at most", len(id), maxClusterID)
	}
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("cluster id %.80q is not printable ASCII", id)
		}
	}
	return nil
}

// checkNode refuses what is no node of a cluster, whoever says that it is.
func checkNode(id int32, address string) error {
	if id < 0 {
		return fmt.Errorf("node id %d is negative", id)
	}
	if _, err := parseTarget(address); err != nil {
		return fmt.Errorf("node %d at %.80q: %w", id, address, err)
	}
	return nil
}

// checkTicket refuses a ticket that no gateway of ours signs.
func checkTicket(t tunnel.Ticket) error {
	if len(t.MAC) > maxMAC {
		return fmt.Errorf("a ticket's signature has %d bytes, and not more than %d", len(t.MAC), maxMAC)
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
