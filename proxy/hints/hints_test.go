package hints

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestEachHintIsGivenOnce(t *testing.T) {
	a := &Error{errors.New("a"), "try a"}
	err := errors.Join(fmt.Errorf("one: %w", a), &Error{fmt.Errorf("two: %w", a), "try b"}, errors.New("three"))
	if got := Of(err); !slices.Equal(got, []string{"try a", "try b"}) {
		t.Errorf("Of = %q", got)
	}
}
