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

// learnt relays responses that name brokers to connect to. The [Directory] learns them first.
type learnt struct {
	list func(cursor) (cursor, found) // walks over as much of the response as names them, which is held
	rest func(cursor) cursor          // reads what is behind as it passes; nil: that is not read
}

func (w learnt) relay(c cursor, d Directory) (Result, error) {
	c, f := w.list(c)
	if c.err != nil {
		return Result{}, c.err
	}
	err := d.Learn(f.clusterID, f.brokers())
	if err != nil {
		return Result{}, fmt.Errorf("learn the brokers of %s: %w", c.response, err)
	}
	edits, missing := c.replace(f.addresses, d)
	if missing >= 0 {
		b := f.addresses[missing]
		return Result{}, fmt.Errorf("rewrite %s: no local address for broker %d at %.255s:%d", c.response, b.NodeID, b.Host, b.Port)
	}
	result := Result{Rewritten: len(f.addresses), Outcome: c.outcome}
	if w.rest == nil {
		return result, c.finish(edits)
	}
	size := c.left()
	if err := c.replaceHeld(edits); err != nil {
		return Result{}, err
	}
	behind := newCursor(c.f, size, c.response)
	behind.reading()
	behind.flexible = c.flexible
	result.Outcome, err = passRest(w.rest(behind), size)
	return result, err
}
