package race

import (
	"errors"
	"net"
	"strings"
)

// A DialError says which gateway was not reached, over which transport.
type DialError struct {
	Doing     string // as in "dial gateway"
	Gateway   string // host:port
	Transport string
	Through   string // the proxy; "" if there is none
	Err       error
}

func (e *DialError) Error() string { return e.text([]string{e.Transport}) }
func (e *DialError) Unwrap() error { return e.Err }

// text is the error's text for several transports.
func (e *DialError) text(over []string) string {
	last := len(over) - 1
	text := e.Doing + " " + e.Gateway + " over " + over[last]
	if last > 0 {
		text = e.Doing + " " + e.Gateway + " over " + strings.Join(over[:last], ", ") + " and " + over[last]
	}
	if e.Through != "" {
		text += " through the proxy " + e.Through
	}
	return text + ": " + e.reason()
}

// reason is why it was not reached. Package net says more of some failures over TCP than over UDP,
// where the dialling is ours.
func (e *DialError) reason() string {
	if name, ok := errors.AsType[*net.DNSError](e.Err); ok {
		return name.Error()
	}
	return e.Err.Error()
}

// sameBut reports whether two errors differ in their transport alone.
func (e *DialError) sameBut(other *DialError) bool {
	return e.Doing == other.Doing && e.Gateway == other.Gateway && e.Through == other.Through && e.reason() == other.reason()
}

// summary is the text of several failures. Those of dials with the same reason are one.
func summary(failures []error) string {
	var texts []string
	merged := make([]bool, len(failures))
	gateway := ""
	for i, err := range failures {
		if merged[i] {
			continue
		}
		e, ok := errors.AsType[*DialError](err)
		if !ok {
			texts = append(texts, err.Error())
			continue
		}
		over := []string{e.Transport}
		for j := i + 1; j < len(failures); j++ {
			if other, ok := errors.AsType[*DialError](failures[j]); ok && e.sameBut(other) {
				over, merged[j] = append(over, other.Transport), true
			}
		}
		text := e.text(over)
		if e.Gateway == gateway {
			text = strings.TrimPrefix(text, e.Doing+" "+gateway+" ")
		}
		gateway = e.Gateway
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}
