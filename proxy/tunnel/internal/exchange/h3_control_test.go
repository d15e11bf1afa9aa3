package exchange

import (
	"bytes"
	"io"
	"testing"
)

func TestSkipTakesWhatThereIs(t *testing.T) {
	if err := skip(bytes.NewReader(make([]byte, 1000)), 1000); err != nil {
		t.Error(err)
	}
	if err := skip(bytes.NewReader(make([]byte, 1000)), 1001); err != io.EOF {
		t.Errorf("1001 of 1000 bytes: %v", err)
	}
}
