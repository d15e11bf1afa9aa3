package proxy

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tickets are what gateways have sent, by address, for [Streams]. There are at most maxTickets. The
// zero value is empty.
type tickets struct {
	mu        sync.Mutex
	byAddress map[string]tunnel.Ticket
}

// add keeps a ticket, which checkTicket has accepted.
func (s *tickets) add(t tunnel.Ticket, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byAddress == nil {
		s.byAddress = map[string]tunnel.Ticket{}
	}
	if _, have := s.byAddress[t.Address]; !have && len(s.byAddress) >= maxTickets {
		s.prune(now)
	}
	s.byAddress[t.Address] = t
}

// prune drops the tickets that have expired, and then the half that expires first, which are the
// oldest: gateways renew those that are in use. The caller holds mu.
func (s *tickets) prune(now time.Time) {
	maps.DeleteFunc(s.byAddress, func(_ string, t tunnel.Ticket) bool { return t.Expires <= now.Unix() })
	all := slices.SortedFunc(maps.Values(s.byAddress), func(a, b tunnel.Ticket) int { return cmp.Compare(a.Expires, b.Expires) })
	for _, t := range all[:max(0, len(all)-maxTickets/2)] {
		delete(s.byAddress, t.Address)
	}
}

// find returns the ticket for an address, or nil if there is none that has not expired.
func (s *tickets) find(address string, now time.Time) *tunnel.Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, have := s.byAddress[address]; have && now.Unix() < t.Expires {
		return &t
	}
	return nil
}

// refused drops all tickets, unless there is a newer one for the address of t, which a gateway has
// refused.
func (s *tickets) refused(t tunnel.Ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(s.byAddress[t.Address].MAC, t.MAC) {
		clear(s.byAddress)
	}
}

// nodes returns how many addresses there are tickets for.
func (s *tickets) nodes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byAddress)
}
