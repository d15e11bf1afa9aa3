package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// The time of a file is what somebody has set it to.
func TestAFileOfAnImpossibleTimeIsShown(t *testing.T) {
	now := time.Now()
	c := dated(document.Credential{Loaded: time.Unix(400_000_000_000, 0), Expires: time.Unix(400_000_000_000, 0)}, now)
	if b, err := json.Marshal(c); err != nil {
		t.Errorf("%s, %v", b, err)
	}
	if c := dated(document.Credential{}, now); !c.Loaded.IsZero() || !c.Expires.IsZero() || c.Age != 0 || c.Left != 0 {
		t.Errorf("without times: %+v", c)
	}
}
