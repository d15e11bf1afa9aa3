package proxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// BrokerNames are the host names that an agent gives to brokers, if all of them are reached on the
// port of the bootstrap address: clients that speak TLS say which name they want, in the server
// name indication (SNI). The zero value is none: each broker has a port of its own.
type BrokerNames struct{ before, after string } // the node id

// nodeIDMark stands for the node id in a template.
const nodeIDMark = "{id}"

// Lengths of a name in DNS.
const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// ParseBrokerNames reads a template such as broker-{id}.kafka.example.com.
func ParseBrokerNames(template string) (BrokerNames, error) {
	if strings.Count(template, nodeIDMark) != 1 {
		return BrokerNames{}, fmt.Errorf("%q does not contain %s once", template, nodeIDMark)
	}
	var n BrokerNames
	n.before, n.after, _ = strings.Cut(strings.ToLower(template), nodeIDMark)
	if err := checkDNSName(n.Of(math.MaxInt32)); err != nil {
		return BrokerNames{}, fmt.Errorf("with the node id %d for %s, %w", math.MaxInt32, nodeIDMark, err)
	}
	return n, nil
}

// checkDNSName refuses what is no host name, and names that clients do not send: Java sends none
// without a dot.
func checkDNSName(name string) error {
	labels := strings.Split(name, ".")
	switch last := labels[len(labels)-1]; {
	case len(name) > maxDNSName:
		return fmt.Errorf("%q has %d characters, and a DNS name has %d at most", name, len(name), maxDNSName)
	case len(labels) < 2:
		return fmt.Errorf("%q has no dot, and Java clients send no server name without one", name)
	case last != "" && strings.Trim(last, "0123456789") == "":
		return fmt.Errorf("%q ends in a number, as IP addresses do", name)
	}
	for _, label := range labels {
		other := strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-")
		if label == "" || len(label) > maxDNSLabel || other != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is not a DNS name: between dots are 1 to %d letters, digits and hyphens, and no hyphen first or last", name, maxDNSLabel)
		}
	}
	return nil
}

// IsZero reports whether brokers have ports instead of names.
func (n BrokerNames) IsZero() bool { return n == BrokerNames{} }

// String is the template.
func (n BrokerNames) String() string {
	if n.IsZero() {
		return ""
	}
	return n.before + nodeIDMark + n.after
}

// Of returns the name of a node.
func (n BrokerNames) Of(id int32) string { return n.before + strconv.Itoa(int(id)) + n.after }

// NodeID returns the node whose name this is. Case does not count.
func (n BrokerNames) NodeID(name string) (id int32, ok bool) {
	name = strings.ToLower(name)
	digits, begins := strings.CutPrefix(name, n.before)
	digits, ends := strings.CutSuffix(digits, n.after)
	number, err := strconv.ParseInt(digits, 10, 32)
	id = int32(number)
	return id, !n.IsZero() && begins && ends && err == nil && id >= 0 && n.Of(id) == name
}
