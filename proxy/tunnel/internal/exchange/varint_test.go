package exchange

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/quic-go/quic-go/quicvarint"
)

// A TypeLength reads what was appended, in however many pieces it arrives, and not a byte more.
func FuzzTypeLength(f *testing.F) {
	for _, v := range []uint64{0, 37, 63, 64, 15293, 16383, 16384, 494878333, 1<<30 - 1, 1 << 30, 151288809941952652, quicvarint.Max} {
		f.Add(v, quicvarint.Max-v)
	}
	f.Fuzz(func(t *testing.T, typ, length uint64) {
		typ, length = typ&quicvarint.Max, length&quicvarint.Max
		b := append(AppendTypeLength(nil, typ, length), "value"...)
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b)), &stutter{r: bytes.NewReader(b)}} {
			var tl TypeLength
			gotType, gotLength, err := tl.Read(r)
			for err == error(ErrNoMore) {
				gotType, gotLength, err = tl.Read(r)
			}
			rest, _ := io.ReadAll(&patient{r})
			if gotType != typ || gotLength != length || err != nil || string(rest) != "value" {
				t.Errorf("read %d, %d, %v, then %q, want %d, %d", gotType, gotLength, err, rest, typ, length)
			}
		}
	})
}

// A stutter returns one byte at a time, with a timeout before each.
type stutter struct {
	r     io.Reader
	ready bool
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.ready = !s.ready; s.ready {
		return 0, ErrNoMore
	}
	return s.r.Read(p[:min(1, len(p))])
}

// A patient reader continues after timeouts.
type patient struct{ r io.Reader }

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err == error(ErrNoMore) {
		err = nil
	}
	return n, err
}
