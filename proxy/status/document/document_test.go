package document_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// A certificate or a file may say a time that JSON cannot write. The rest of the document is to be
// read all the same.
func TestEveryTimeCanBeWritten(t *testing.T) {
	last := time.Date(9999, time.December, 31, 23, 59, 59, 0, time.FixedZone("", -7*60*60)) // "99991231235959-0700" in a certificate
	for _, test := range []struct{ of, want time.Time }{
		{last, time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)},
		{time.Unix(400_000_000_000, 0), time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)},
		{time.Date(-1, time.July, 1, 0, 0, 0, 0, time.UTC), time.Date(0, time.January, 1, 0, 0, 0, 0, time.UTC)},
		{time.Date(2027, time.May, 2, 3, 0, 0, 0, time.FixedZone("", 60*60)), time.Date(2027, time.May, 2, 2, 0, 0, 0, time.UTC)},
		{time.Time{}, time.Time{}},
	} {
		at := document.At(test.of)
		if !at.Equal(test.want) || at.Location() != time.UTC {
			t.Errorf("%v is %v, want %v", test.of, at, test.want)
		}
		if _, err := json.Marshal(document.Credential{Loaded: at, Expires: at}); err != nil {
			t.Error(err)
		}
	}
}
