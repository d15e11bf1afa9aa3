package leak

import "bytes"

// contextLen is how many bytes before a name a report contains.
const contextLen = 48

// scanner searches the bytes written to it for the relay's names, including names split over
// several writes.
type scanner struct {
	relay    *Relay
	listener string
	keep     int    // how much of what was seen the next write may need
	seen     []byte // the last bytes
	scanned  int    // how many of them were searched before
	offset   int64  // of seen[0] in the stream
}

// Write never fails: the detector must not change the traffic.
func (s *scanner) Write(p []byte) (int, error) {
	s.relay.sent.Add(int64(len(p)))
	s.seen = append(s.seen, p...)
	for _, name := range s.relay.names {
		s.search(name)
	}
	s.scanned = min(len(s.seen), s.keep)
	cut := len(s.seen) - s.scanned
	s.offset += int64(cut)
	s.seen = append(s.seen[:0], s.seen[cut:]...)
	return len(p), nil
}

// search reports each name that ends in the new bytes.
func (s *scanner) search(name string) {
	for at := max(0, s.scanned-len(name)+1); ; at++ {
		i := bytes.Index(s.seen[at:], []byte(name))
		if i < 0 {
			return
		}
		at += i
		s.relay.report(Leak{
			Name:     name,
			Listener: s.listener,
			Offset:   s.offset + int64(at),
			Before:   bytes.Clone(s.seen[max(0, at-contextLen):at]),
		})
	}
}

// maxLeaks is how many leaks are kept. One is enough to fail a test.
const maxLeaks = 20

func (r *Relay) report(l Leak) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.leaks) < maxLeaks {
		r.leaks = append(r.leaks, l)
	}
}
