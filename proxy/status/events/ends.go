package events

// An ending says which line of the log ends which failures.
type ending struct {
	line     string    // the text of the line
	failures []failure // that it ends
	// same are the attributes that the line and the failure must both have, with the same values.
	same []string
	// when, if set, must also be true. said are the attributes of the line, was those of the failure.
	when func(said, was map[string]string) bool
}

// A failure is a line that says that something does not work from now on.
type failure struct {
	line string
	// outage is set if only the lines with the attribute outage say so.
	outage bool
}

// endings has a row for each line that says that a failure is over. A warning that is in none of
// them is about a moment.
var endings = []ending{
	{line: "gateway reached", failures: lines("gateway not reached"), same: []string{"gateway"}},
	{line: "gateway reached", failures: lines("tunnel transport changed"), same: []string{"gateway"}, when: isBack},
	{line: "tunnel transport changed for a better one", failures: lines("tunnel transport changed"), same: []string{"gateway"}, when: isBack},
	{line: "brokers answer again", failures: outage},
	// An outage of all brokers takes the place of those of single ones. One that goes on is logged anew.
	{line: "brokers answer again", failures: []failure{{"connection reset", true}, {"stream refused", true}}},
	{line: "culvert agent ready", failures: outage},
	{line: "culvert gateway ready", failures: outage},
	{line: "broker reached again", failures: []failure{{"connection reset", true}}, same: []string{"node_id"}},
	{line: "broker reached again", failures: []failure{{"stream refused", true}}, same: []string{"target"}},
	{line: "forward reached again", failures: []failure{{"forward not reached", true}}, same: []string{"forward"}},
	{line: "connections are accepted again", failures: lines("accept failed, trying again")},
	{line: "broker has its own port again, clients are told it from now on", failures: lines(
		"a broker's own port cannot be used, clients are told a spare one", "no listener for a broker, clients cannot reach it"), same: []string{"node_id"}},
	{line: "file can be read again and is in use", failures: lines(
		"file cannot be read, its credentials are rejected until it can", "file cannot be read again, its last content stays in use"), same: []string{"file"}},
	{line: "audit log takes lines again", failures: lines(
		"audit log cannot be written, its lines wait", "audit lines are lost: the audit log does not take them in time")},
	{line: "certificate is valid", failures: lines(
		"certificate has expired", "certificate is not valid yet", "certificate expires within a week"), same: []string{"file"}},
	{line: "certificate has expired", failures: lines("certificate expires within a week"), same: []string{"file"}},
	{line: "address answers again", failures: lines("one of several addresses does not answer"), same: []string{"name", "address"}},
	{line: "address that did not answer is dialled no more", failures: lines("one of several addresses does not answer"), same: []string{"name", "address"}},
}

// outage are the lines that say that no broker answers. At the start its end is no line of the log,
// but the one with "ready".
var outage = lines("the gateway answers, the brokers do not", "no broker answers", "no bootstrap broker answers", "no stream to a broker")

func lines(texts ...string) (all []failure) {
	for _, text := range texts {
		all = append(all, failure{line: text})
	}
	return all
}

// isBack reports whether a change of transport is undone: the transport that was left is used
// again, or the one that was taken instead is left.
func isBack(said, was map[string]string) bool {
	to := said["to"]
	if to == "" {
		to = said["transport"]
	}
	return to == was["from"] || said["from"] != "" && said["from"] == was["to"]
}

// lasts reports whether a line says that something does not work from now on.
func (l line) lasts() bool {
	for _, e := range endings {
		for _, f := range e.failures {
			if f.is(l.text, l.attrs) {
				return true
			}
		}
	}
	return false
}

// ends reports whether a line says that an event is over.
func (l line) ends(e *event) bool {
	for _, end := range endings {
		if end.line != l.text || !sameIn(end.same, l.attrs, e.attrs) || end.when != nil && !end.when(l.attrs, e.attrs) {
			continue
		}
		for _, f := range end.failures {
			if f.is(e.Text, e.attrs) {
				return true
			}
		}
	}
	return false
}

func (f failure) is(text string, attrs map[string]string) bool {
	return f.line == text && (!f.outage || attrs["outage"] == "true")
}

func sameIn(keys []string, a, b map[string]string) bool {
	for _, k := range keys {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}
