package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tally counts findings for the verdict.
type tally struct {
	held    int
	failed  []clause
	skipped []string // what clients need and was not examined

	plain       bool // without culvert
	reached     bool // brokers are known, and each has its hop
	unreachable int  // brokers that advertise an address that cannot be reached, without culvert
	recorded    bool // a record was written and read
}

// clause is what the verdict says of hops that failed.
type clause struct {
	subjects []string
	what     string
}

func (c clause) String() string { return and(c.subjects) + " " + c.what }

// and lists words as a sentence does.
func and(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

func (t *tally) add(f Finding) {
	switch f.Result {
	case OK, Warn:
		t.held++
	case Fail:
		if f.unreachable {
			t.unreachable++
		}
		t.failed = append(t.failed, clause{[]string{subject(f.Hop)}, cmp.Or(f.brief, "failed")})
	case Skip:
		t.skipped = append(t.skipped, cmp.Or(f.brief, f.Hop))
	case Info: // clients do without it
	}
}

// subject is what the verdict calls a hop.
func subject(hop string) string {
	if node, ok := strings.CutPrefix(hop, portOfNode); ok {
		return "the port of node " + node
	}
	return cmp.Or(subjects[hop], hop)
}

// subjects are what the verdict calls hops that are no nouns.
var subjects = map[string]string{
	"name": "the host name", "tcp": "the host", "tls": "its TLS", "bootstrap": "the bootstrap broker", "login": "the login",
	"metadata": "Metadata", "record": "a record", "listen": "the bootstrap port", "agent": "what has the bootstrap port", "client tls": "TLS with clients",
}

// briefly says what happened in few words, for the verdict. The error of a broker behind a gateway
// is only a text.
func briefly(err error) string {
	text := err.Error()
	answer, answered := errors.AsType[*tunnel.AnswerError](err)
	switch cause := remedies.CauseOf(err); {
	case answered && answer.Gateway && answer.Status == http.StatusUnauthorized:
		return failed + " (the gateway refuses the token)"
	case answered && answer.Gateway && answer.Status == http.StatusForbidden:
		return failed + " (the gateway denies access)"
	case strings.Contains(text, "UDP does not get through"):
		return failed + " (UDP does not get through)"
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "is refused"
	case cause == remedies.Refused, strings.Contains(text, "connection refused"):
		return "refuses connections"
	case cause == remedies.NoSuchName, strings.Contains(text, "no such host"):
		return "does not resolve"
	case errors.Is(err, proxy.ErrUnanswered):
		return "closes connections without an answer"
	case cause == remedies.Silence, strings.Contains(text, "timeout"), strings.Contains(text, "no answer within"):
		return "does not answer"
	}
	return failed
}

// failed is what happened to a hop when nothing better is known. Of hops that failed alike, the
// verdict says so once.
const failed = "failed"

// together joins neighbours that failed alike.
func together(clauses []clause) (joined []clause) {
	for _, c := range clauses {
		if n := len(joined); n > 0 && joined[n-1].what == c.what && strings.HasPrefix(c.what, failed) {
			joined[n-1].subjects = append(joined[n-1].subjects, c.subjects...)
			continue
		}
		joined = append(joined, c)
	}
	return joined
}

// maxClauses is how many failures the verdict names.
const maxClauses = 3

// Verdict reports, as the last finding, how many hops hold and what that means for clients, and
// reports whether they would get through. ctx is done if the examination was interrupted.
func (d *Doctor) Verdict(ctx context.Context) (through bool) {
	f := d.verdict(ctx.Err() != nil)
	f.Hop, f.Text = "verdict", printable.Text(f.Text, printable.Record)
	d.Report(f)
	return f.Result == OK
}

func (d *Doctor) verdict(interrupted bool) Finding {
	t := &d.tally
	total := t.held + len(t.failed)
	text := fmt.Sprintf("%d of %d hops hold", t.held, total)
	missing := t.skipped
	if !t.reached {
		missing = append(missing, "the brokers")
	}
	switch {
	case interrupted:
		return Finding{Result: Skip, Text: "interrupted; until then, " + text}
	case len(t.failed) > 0:
		text += ": " + shortened(t.failed)
		if t.unreachable > 0 {
			text += ". Brokers advertise addresses that cannot be reached from here: that is what culvert solves"
		}
		if len(missing) > 0 {
			text += "; not examined: " + strings.Join(missing, ", ")
		}
		return Finding{Result: Fail, Text: text}
	case len(missing) > 0:
		return Finding{Result: Skip, Text: text + ", but whether clients would get through is not known; not examined: " + strings.Join(missing, ", ")}
	}
	return ok("%s: %s", text, d.good())
}

// good says for which clients all is well.
func (d *Doctor) good() string {
	who := "clients that do not log in"
	if d.Client != nil {
		who = "clients with these settings"
	}
	how := "get through to every broker"
	if d.tally.plain {
		how = "reach every broker from here, without culvert"
	}
	if d.tally.recorded {
		return who + " " + how + ", and a record went there and back"
	}
	return who + " " + how + d.Names.Sprintf("; not examined: whether they may write and read records (%s)", hints.Produce)
}

// shortened lists the first few clauses.
func shortened(all []clause) string {
	var clauses []string
	for _, c := range together(all) {
		clauses = append(clauses, c.String())
	}
	if more := len(clauses) - maxClauses; more > 0 {
		return strings.Join(clauses[:maxClauses], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(clauses, ", ")
}
