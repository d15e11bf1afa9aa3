package rewrite

import (
	"bytes"
	"strconv"
)

// hidden relays responses that name controllers. Their hosts become controller-<node id>.invalid, a
// name that nobody can resolve (RFC 6761), and their ports 0. Tools show them, and no client of
// brokers connects to them: so the [Directory] is not asked.
type hidden func(cursor) (cursor, found)

func (w hidden) relay(c cursor, _ Directory) (Result, error) {
	c, f := w(c)
	if c.err != nil {
		return Result{}, c.err
	}
	var edits []edit
	for _, a := range f.addresses {
		if with := hiddenController(a.NodeID); !bytes.Equal(c.b[a.from:a.to], with) {
			edits = append(edits, edit{a.span, with})
		}
	}
	return Result{Rewritten: len(f.addresses), Outcome: c.outcome}, c.finish(edits)
}

// hiddenController is a host string and a uint16 port.
func hiddenController(nodeID int32) []byte {
	b := appendString(nil, "controller-"+strconv.Itoa(int(nodeID))+".invalid", true)
	return append(b, 0, 0)
}
