package rewrite

import "fmt"

// found is what a walk has found in a response.
type found struct {
	clusterID string // empty if the response has none
	addresses []address
}

// brokers returns those that have a node id.
func (f found) brokers() []Broker {
	var brokers []Broker
	for _, a := range f.addresses {
		if a.NodeID >= 0 {
			brokers = append(brokers, a.Broker)
		}
	}
	return brokers
}

// learnt relays responses that name brokers to connect to. The [Directory] learns them first. Its
// walk goes over as much of the response as names them.
type learnt func(cursor) (cursor, found)

func (w learnt) relay(c cursor, d Directory) (Result, error) {
	c, f := w(c)
	if c.err != nil {
		return Result{}, c.err
	}
	if err := d.Learn(f.clusterID, f.brokers()); err != nil {
		return Result{}, fmt.Errorf("learn the brokers of %s: %w", c.response, err)
	}
	edits, missing := c.replace(f.addresses, d)
	if missing >= 0 {
		b := f.addresses[missing]
		return Result{}, fmt.Errorf("rewrite %s: no local address for broker %d at %.255s:%d", c.response, b.NodeID, b.Host, b.Port)
	}
	return Result{Rewritten: len(f.addresses)}, c.finish(edits)
}
