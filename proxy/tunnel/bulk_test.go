package tunnel

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// The bytes of a Bulk arrive, behind OPEN and in both directions, whether or not there is a buffer
// for the TLS records of a whole one.
func TestABulkArrives(t *testing.T) {
	for _, kind := range []string{"ws", "plain", "h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			c, s := newRig(t, kind).dial()
			bulk := takeBulk(t)
			tryBulk(t, bulk, c, s)
			tryBulk(t, bulk, s.Conn, c)
			for { // leave none for the wire
				more, ok := NewBulk()
				if !ok {
					break
				}
				t.Cleanup(more.Release)
			}
			tryBulk(t, bulk, c, s)
		})
	}
}

// takeBulk returns a Bulk until the test ends.
func takeBulk(t *testing.T) Bulk {
	var b Bulk
	// The race detector has pools lose buffers, which count until they are collected.
	if !eventually(func() (ok bool) { runtime.GC(); b, ok = NewBulk(); return ok }) {
		t.Fatal("no Bulk")
	}
	t.Cleanup(b.Release)
	return b
}

func tryBulk(t *testing.T, b Bulk, from *Conn, to io.Reader) {
	t.Helper()
	for _, n := range []int{1, exchange.ChunkSize, exchange.ChunkSize + 1, exchange.BulkSize} {
		copy(b.Bytes(), random(n))
		sent := make(chan error, 1)
		go func() {
			_, err := from.WriteBulk(b, n)
			sent <- err
		}()
		wantBulk(t, to, n)
		if err := <-sent; err != nil {
			t.Errorf("WriteBulk of %d bytes: %v", n, err)
		}
	}
}

func wantBulk(t *testing.T, r io.Reader, n int) {
	t.Helper()
	got := make([]byte, n)
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, random(n)) {
		t.Errorf("read other bytes than those of the Bulk of %d, %v", n, err)
	}
}
