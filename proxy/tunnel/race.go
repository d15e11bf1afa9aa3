package tunnel

import "context"

type race struct{}

func (r *race) close() {}

func (d *Dialer) choose(context.Context) (string, error) {
	if d.Transport == "" || d.Transport == TransportAuto {
		return TransportWS, nil
	}
	return d.Transport, nil
}

func (d *Dialer) failed(string) {}
