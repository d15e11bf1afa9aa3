package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceFrame returns a Produce request whose header has these tagged fields; kmsg's formatter
// writes none.
func produceFrame(version, acks int16, clientID, transactionalID *string, tags []byte) []byte {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TransactionID = version, acks, transactionalID
	b := binary.BigEndian.AppendUint16(make([]byte, 4), uint16(Produce))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 9)
	if clientID == nil {
		b = append(b, 0xff, 0xff)
	} else {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(*clientID))), *clientID...)
	}
	if Produce.Flexible(version) {
		b = append(b, tags...)
	}
	b = req.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func TestProduceWithoutAcksHasNoResponse(t *testing.T) {
	long := strings.Repeat("c", 1<<15-1)
	names := []*string{nil, new(""), new("name"), new(strings.Repeat("n", 127)), new(strings.Repeat("n", 128)), &long}
	headers := map[string][]byte{
		"no tags":    {0},
		"empty tag":  {1, 3, 0},
		"many tags":  {3, 0, 1, 0xff, 1, 2, 0xff, 0xff, 0x80, 0x01, 3, 1, 2, 3},
		"long count": {0x80, 0x00},
		"long tag":   append([]byte{1, 5, 0x80, 0x10}, make([]byte, 2048)...),
	}
	for version := range Produce.MaxVersion() + 1 {
		for _, clientID := range names {
			for _, transactionalID := range names {
				for name, tags := range headers {
					if !Produce.Flexible(version) && name != "no tags" || version < 3 && transactionalID != nil {
						continue
					}
					for _, acks := range []int16{-1, 0, 1, 2} {
						b := produceFrame(version, acks, clientID, transactionalID, tags)
						r, err := PeekRequest(flowOf(b))
						if err != nil || r.NoResponse != (acks == 0) || r.Size != int64(len(b)) {
							t.Fatalf("v%d, %s, acks %d: %+v, %v", version, name, acks, r, err)
						}
					}
				}
			}
		}
	}
}

// The acks stand before the records, and are all that is waited for.
func TestProduceIsNotHeldBackForItsRecords(t *testing.T) {
	b := produceFrame(9, 0, new("client"), new("transaction"), []byte{0})
	for n := range len(b) {
		acksEnd := 4 + 8 + 2 + 6 + 1 + 1 + 11 + 2
		_, err := PeekRequest(flowOf(b[:n]))
		if (err == nil) != (n >= acksEnd) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestProduceWithAHeadThatIsTooLong(t *testing.T) {
	tags := append(binary.AppendUvarint([]byte{1, 5}, 100_000), make([]byte, 100_000)...)
	b := produceFrame(9, 1, nil, nil, tags)
	f := NewFlow(iotest.HalfReader(bytes.NewReader(b)), io.Discard)
	if r, err := PeekRequest(f); err == nil {
		t.Errorf("%+v", r)
	} else if want := fmt.Sprintf("of %d", maxHead); !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// Kafka's varints are ints of 32 bits with a sign: a count below zero is none, and a length below
// zero is null. Seen: read as 2^32-1, it hides the acks.
func TestVarintsOfProduceAreReadAsKafkaDoes(t *testing.T) {
	const header = "0000 0009 00000001 ffff" // v9, no client id
	for _, tt := range []struct {
		name, tags, transactionalID string
		acks                        string
		noResponse, refused         bool
	}{
		{"a count of -1", "ffffffff0f", "00", "0000", true, false},
		{"a count of -2^31", "8080808008", "00", "0001", false, false},
		{"bits beyond the 32nd", "8080808070", "00", "0000", true, false},
		{"a transactional id of -1", "00", "ffffffff0f", "0000", true, false},
		{"a transactional id of length 2^31-1, by underflow", "00", "8080808008", "0000", false, true},
		{"a size of -1", "01 05 ffffffff0f", "00", "0000", false, true},
		{"six bytes", "808080808000", "00", "0000", false, true},
	} {
		b := unhex(t, header+tt.tags+tt.transactionalID+tt.acks+"00000000 01 00")
		b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		r, err := PeekRequest(flowOf(b))
		if (err != nil) != tt.refused || r.NoResponse != tt.noResponse {
			t.Errorf("%s: no response %t, %v, want %t, refused %t", tt.name, r.NoResponse, err, tt.noResponse, tt.refused)
		}
	}
}
