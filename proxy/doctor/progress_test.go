package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Of hops that are examined side by side, a slow one must not hold back those before it.
func TestFindingsAreReportedAsTheyCome(t *testing.T) {
	var seen []string
	d := &Doctor{Examining: func(hop string) { seen = append(seen, hop+"?") }}
	first := make(chan struct{})
	examine := func(_ context.Context, i int) Finding {
		if i > 0 {
			<-first // comes only if the finding of the first has been told
		}
		return ok("%d", i)
	}
	d.atOnce(t.Context(), []string{"a", "b", "c"}, examine, func(i int, f Finding) {
		seen = append(seen, f.Hop+"="+f.Text)
		if i == 0 {
			close(first)
		}
	})
	if want := []string{"a?", "a=0", "b?", "b=1", "c?", "c=2"}; !slices.Equal(seen, want) {
		t.Errorf("told %q, want %q", seen, want)
	}
}

func TestAFewHopsAreExaminedAtOnce(t *testing.T) {
	hops := make([]string, 100)
	running, most := make(chan struct{}, len(hops)), 0
	n := 0
	new(Doctor).atOnce(t.Context(), hops, func(context.Context, int) Finding {
		running <- struct{}{}
		defer func() { <-running }()
		return ok("")
	}, func(i int, _ Finding) {
		if n++; i != n-1 {
			t.Errorf("finding %d came as number %d", i, n)
		}
		most = max(most, len(running))
	})
	if n != len(hops) || most > 8 {
		t.Errorf("%d findings, %d hops at once; want %d and at most 8", n, most, len(hops))
	}
}

// A transport that fails is a failure only if none works. That may be known late.
func TestATransportIsReportedAsSoonAsItIsKnownWhetherClientsNeedIt(t *testing.T) {
	var told []string
	g := &gateway{Doctor: &Doctor{Report: func(f Finding) { told = append(told, fmt.Sprint(f.Hop, " ", f.Result)) }}}
	var waiting []Finding
	works := false
	for _, step := range []struct {
		hop  string
		err  error
		want string // all that has been told then
	}{
		{"ws", errors.New("refused"), ""},
		{"h2", nil, "ws info, h2 ok"},
		{"h3", errors.New("silence"), "ws info, h2 ok, h3 info"},
	} {
		f := ok("")
		if step.err != nil {
			f = g.failure(t.Context(), step.err)
		}
		f.Hop = step.hop
		works = works || step.err == nil
		waiting = g.reportHello(append(waiting, f), works)
		if got := strings.Join(told, ", "); got != step.want {
			t.Errorf("after %s, told %q, want %q", step.hop, got, step.want)
		}
	}
	if len(waiting) > 0 {
		t.Errorf("%v are still to be told", waiting)
	}
}
