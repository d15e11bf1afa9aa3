package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// MaxForwards bounds the forwards of a process. Each of them is a label of metrics, and the
	// names of a gateway's are sent to agents in one capsule.
	MaxForwards = 64
	// maxForwardName is the longest name of a forward in bytes, that of a DNS label.
	maxForwardName = 63
)

// Forward is something beside Kafka that clients reach through the tunnel, such as a schema
// registry. Its bytes are relayed as they are. A gateway says what agents may reach, and an agent
// where its clients do: both call it by the same name.
type Forward struct {
	Name    string
	Address string // HOST:PORT: at a gateway what to dial, at an agent where to listen
}

// CheckForwards refuses names of forwards that are no names, or that are there twice, and too many
// forwards. It does not check addresses.
func CheckForwards(all []Forward) error {
	if len(all) > MaxForwards {
		return fmt.Errorf("%d forwards exceed the limit of %d", len(all), MaxForwards)
	}
	for i, f := range all {
		if err := checkForwardName(f.Name); err != nil {
			return err
		}
		if slices.ContainsFunc(all[:i], func(g Forward) bool { return g.Name == f.Name }) {
			return fmt.Errorf("%q is there twice", f.Name)
		}
	}
	return nil
}

// checkForwardName accepts names that are short and the same in every place: in a flag, a file, a
// label and a log.
func checkForwardName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxForwardName:
		return fmt.Errorf("a name of %d bytes exceeds the limit of %d", len(name), maxForwardName)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "", name[0] == '-', name[len(name)-1] == '-':
		return fmt.Errorf("%q is not a name: want lower-case letters, digits, and dashes between them", printable.Text(name, maxForwardName))
	}
	return nil
}

// CheckTarget refuses an address that a gateway could not dial.
func (f Forward) CheckTarget() error {
	_, err := parseTarget(f.Address)
	return err
}

// forward is a [Forward] at work, at either end.
type forward struct {
	Forward
	counts *metrics.Forward
	state  *nodeStates // of all forwards, by name
	outage *outages    // the same
}

// newForwards returns the state of forwards, in their order.
func newForwards(all []Forward, m *metrics.Metrics) (made []*forward) {
	state, outage := new(nodeStates), new(outages)
	for _, f := range all {
		made = append(made, &forward{Forward: f, counts: m.Forward(f.Name), state: state, outage: outage})
	}
	return made
}

// namesOf returns the names of forwards, sorted. It is never nil: nil would be a gateway that knows
// no forwards.
func namesOf(all []*forward) []string {
	names := make([]string, 0, len(all))
	for _, f := range all {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

// named returns the forward with a name, or nil.
func named(all []*forward, name string) *forward {
	if i := slices.IndexFunc(all, func(f *forward) bool { return f.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// shownForwards returns forwards as the status document has them.
func shownForwards(all []*forward) []document.Forward {
	shown := make([]document.Forward, 0, len(all))
	for _, f := range all {
		d := document.Forward{Name: f.Name, Address: f.Address, Connections: f.counts.Open()}
		d.State, d.Since, d.Error = f.state.get(f.Name)
		shown = append(shown, d)
	}
	return shown
}

// failed reports that the target of a forward was not reached. The beginning of an outage is
// logged once.
func (f *forward) failed(log *slog.Logger, err error) {
	f.state.note(f.Name, err)
	if f.outage.begins(f.Name) {
		log.Warn("forward not reached", "outage", true, "err", err)
		return
	}
	log.Debug("forward not reached", "err", err)
}

// reached reports that the target of a forward was reached, and logs the end of its outage.
func (f *forward) reached(log *slog.Logger) {
	f.state.note(f.Name, nil)
	if took, was := f.outage.ends(f.Name); was {
		log.Info("forward reached again", "after", took)
	}
}

// notOffered is the error of a forward that a gateway does not offer.
type notOffered struct {
	name    string
	offers  []string // what it does offer; nil: it knows no forwards
	gateway string   // its version
}

func (e *notOffered) Error() string {
	if e.offers == nil {
		return "the gateway runs culvert " + printable.Text(e.gateway, printable.Name) + ", which knows no forwards"
	}
	return fmt.Sprintf("the gateway offers no forward %s: %s", e.name, offering(e.offers))
}

// HintFor returns what to do about it.
func (e *notOffered) HintFor(n hints.Names) string {
	if e.offers == nil {
		return "upgrade the gateway"
	}
	return n.Sprintf("use one of the names that it offers, or add %s %s=HOST:PORT to the gateway", hints.Forward, e.name)
}

// maxOffered bounds the names of forwards that an error lists.
const maxOffered = 16

// offering says which forwards a gateway has. The names are a peer's.
func offering(names []string) string {
	if len(names) == 0 {
		return "it offers none"
	}
	var shown []string
	for _, name := range names[:min(len(names), maxOffered)] {
		shown = append(shown, printable.Text(name, maxForwardName))
	}
	more := ""
	if n := len(names) - maxOffered; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return "it offers " + strings.Join(shown, ", ") + more
}

// checkOffered returns why a gateway with this answer does not offer a forward, or nil.
func checkOffered(name string, answer tunnel.Opened) error {
	if slices.Contains(answer.Forwards, name) {
		return nil
	}
	return &notOffered{name, answer.Forwards, answer.Gateway}
}
