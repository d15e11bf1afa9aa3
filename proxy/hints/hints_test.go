package hints

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func flags(s Setting) string { return map[Setting]string{TokenFile: "--token-file"}[s] }

func TestEachHintIsGivenOnce(t *testing.T) {
	a := &Error{Err: errors.New("a"), Remedy: "try a"}
	err := errors.Join(fmt.Errorf("one: %w", a), &Error{Err: fmt.Errorf("two: %w", a), Remedy: "try b"}, errors.New("three"))
	if got := Of(err, nil); !slices.Equal(got, []string{"try a", "try b"}) {
		t.Errorf("Of = %q", got)
	}
}

func TestSettingsAreNamedAsTheirUserDoes(t *testing.T) {
	err := fmt.Errorf("dial: %w", New(errors.New("401"), "is line %d of %s right?", 1, TokenFile))
	for _, test := range []struct {
		names Names
		want  string
	}{{flags, "is line 1 of --token-file right?"}, {nil, `is line 1 of "token file" right?`}} {
		if got := Of(err, test.names); !slices.Equal(got, []string{test.want}) {
			t.Errorf("Of = %q, want %q", got, test.want)
		}
	}
	if got, want := (&Error{Err: err, Remedy: "100 % sure?"}).HintFor(flags), "100 % sure?"; got != want {
		t.Errorf("a hint without settings is %q, want %q", got, want)
	}
}
