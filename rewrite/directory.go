package rewrite

import (
	"encoding/binary"

	"github.com/culvert-proxy/culvert/protocol"
)

// Broker is a broker as a response names it.
type Broker struct {
	NodeID int32
	Host   string
	Port   int32
}

// Directory says which address clients get for each broker.
type Directory interface {
	// Learn is called once for each response that names nodes ([Named.Nodes]), before any byte of
	// it is passed, with the brokers that it names: in its order, without those that have no node
	// id or no host. clusterID is empty if the response has none. An error refuses the response.
	Learn(clusterID string, brokers []Broker) error
	// Local returns the address to write for b, and does nothing else. If it has none, leader hints
	// are blanked, and any other response is refused.
	Local(b Broker) (host string, port int32, ok bool)
}

// Result is what was found in one response.
type Result struct {
	Rewritten int // addresses replaced, some of them perhaps by the same address
	Blanked   int // addresses in leader hints that were taken out
	// Outcome is what the response says behind what [protocol.PeekOutcome] reads.
	protocol.Outcome
}

// address is a broker, and where a response has its host and port, which always follow each other.
type address struct {
	Broker
	span
}

// broker reads node int32, host string, port int32, and appends the address to those before it.
// Without a host there is none: the answer to an unknown coordinator is node -1, host "", port -1.
func (c *cursor) broker(before []address) []address {
	b := Broker{NodeID: c.int32()}
	from := c.at
	b.Host = string(c.string())
	b.Port = c.int32()
	if b.Host == "" {
		return before
	}
	return append(before, address{b, span{from, c.at}})
}

// replace returns the edits that replace addresses with those of the directory. One that stays the
// same needs no edit. missing is the index of the first for which the directory has none, or -1.
func (c *cursor) replace(addresses []address, d Directory) (edits []edit, missing int) {
	for i, a := range addresses {
		host, port, ok := d.Local(a.Broker)
		if !ok {
			return nil, i
		}
		if host != a.Host || port != a.Port {
			with := appendString(make([]byte, 0, len(host)+9), host, c.flexible)
			edits = append(edits, edit{a.span, binary.BigEndian.AppendUint32(with, uint32(port))})
		}
	}
	return edits, -1
}
