package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flowOf returns a flow of b that discards what passes.
func flowOf(b []byte) *Flow { return NewFlow(bytes.NewReader(b), io.Discard) }

func TestPeekRequestReadsEachVersionOfEachAPI(t *testing.T) {
	for _, f := range []*kmsg.RequestFormatter{
		kmsg.NewRequestFormatter(),
		kmsg.NewRequestFormatter(kmsg.FormatterClientID("")),
		kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")),
	} {
		for key := range MaxKey + 1 {
			for version := range key.MaxVersion() + 1 {
				req := kmsg.RequestForKey(int16(key))
				req.SetVersion(version)
				frame := f.AppendRequest(nil, req, -5)
				binary.BigEndian.PutUint32(frame, uint32(len(frame)-4)) // kmsg forgets it in ControlledShutdown v0
				want := Request{Size: int64(len(frame)), Key: key, Version: version, CorrelationID: -5}
				want.NoResponse = key == Produce // with no acks, as kmsg has it
				flow := NewFlow(iotest.OneByteReader(bytes.NewReader(frame)), io.Discard)
				got, err := PeekRequest(flow)
				if diff := cmp.Diff(got, want); diff != "" || err != nil {
					t.Fatalf("%s v%d: %v, got - want +\n%s", key, version, err, diff)
				}
				readsBody := key == Produce || key == SASLHandshake && version == 0
				if !readsBody && flow.Buffered() != lengthSize+minRequest {
					t.Fatalf("%s v%d: %d bytes were read for its header", key, version, flow.Buffered())
				}
			}
		}
	}
}

func TestSchema(t *testing.T) {
	for _, tt := range []struct {
		key      APIKey
		name     string
		flexible int16 // from this version on
		header   bool  // so is the response's header
	}{
		{Produce, "Produce", 9, true},
		{Fetch, "Fetch", 12, true},
		{Metadata, "Metadata", 9, true},
		{FindCoordinator, "FindCoordinator", 3, true},
		{SASLHandshake, "SaslHandshake", 2, true},
		{APIVersions, "ApiVersions", 3, false},
		{SASLAuthenticate, "SaslAuthenticate", 2, true},
		{45, "AlterPartitionReassignments", 0, true},
		{47, "OffsetDelete", 1, true},
		{DescribeQuorum, "DescribeQuorum", 0, true},
		{DescribeCluster, "DescribeCluster", 0, true},
		{ShareFetch, "ShareFetch", 0, true},
		{ShareAcknowledge, "ShareAcknowledge", 0, true},
		{94, "UnregisterController", 0, true},
	} {
		if got := tt.key.String(); got != tt.name {
			t.Errorf("key %d is %s, want %s", tt.key, got, tt.name)
		}
		if tt.key.Flexible(tt.flexible-1) && tt.flexible > 0 || !tt.key.Flexible(tt.flexible) {
			t.Errorf("%s is not flexible from v%d on", tt.name, tt.flexible)
		}
		if got := tt.key.FlexibleResponseHeader(tt.flexible); got != tt.header {
			t.Errorf("%s v%d: FlexibleResponseHeader() = %t, want %t", tt.name, tt.flexible, got, tt.header)
		}
	}
	for _, unknown := range []APIKey{-1, MaxKey + 1, 1000} {
		if unknown.String() != "unknown" || unknown.Known() || unknown.MaxVersion() != -1 || unknown.Flexible(0) {
			t.Errorf("key %d is known", unknown)
		}
	}
}

func TestPeekRequestKnowsWhatIsNoKafka(t *testing.T) {
	for _, tt := range []struct{ name, bytes, want string }{
		{"TLS ClientHello", "16030100f8 0100 00f4 0303", "TLS ClientHello"},
		{"TLS alert", "1503030002 0228 0000 0000", "TLS alert"},
		{"GET", hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")), "HTTP request"},
		{"POST", hex.EncodeToString([]byte("POST / HTTP/1.1\r\n")), "HTTP request"},
		{"CONNECT", hex.EncodeToString([]byte("CONNECT broker:9092 HTTP/1.1\r\n")), "HTTP request"},
		{"HTTP/2", hex.EncodeToString([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")), "HTTP request"},
		{"PROXY v1", hex.EncodeToString([]byte("PROXY TCP4 1.2.3.4 ")), "PROXY protocol"},
		{"PROXY v2", hex.EncodeToString([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")), "PROXY protocol"},
		{"SSH", hex.EncodeToString([]byte("SSH-2.0-OpenSSH_9.9\r\n")), "length 1397966893"},
		{"a negative length", "ffffffff 0000 0000", "length -1"},
		{"a length of zero", "00000000 0000 0000", "length 0"},
		{"no room for a header", "00000007 0003 000c 000000", "length 7"},
		{"a huge length", "7fffffff 0003 000c 00000001", "length 2147483647"},
		{"Produce that ends in its client id", "0000000a 0000 0003 00000001 7fff", "not a Kafka frame"},
		{"Produce that ends before its acks", "0000000c 0000 0003 00000001 ffff ffff", "not a Kafka frame"},
		{"Produce with a varint without an end", "00000020 0000 0009 00000001 ffff ffffffffffffffffffffffffffffffffffffffffffff", "varint of more than 5 bytes"},
		{"Produce with more tags than bytes", "00000010 0000 0009 00000001 ffff ffffffff0f 00", "not a Kafka frame"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.bytes)
			for _, src := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b))} {
				_, err := PeekRequest(NewFlow(src, io.Discard))
				if !errors.Is(err, ErrFrame) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			}
		})
	}
}

func TestPeekRequestTellsAnEndFromACut(t *testing.T) {
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, kmsg.NewPtrMetadataRequest(), 1)
	for n := range lengthSize + minRequest {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, err := PeekRequest(flowOf(frame[:n])); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestPeekResponse(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		size        int64
		id          int32
		err         error
		want        string
	}{
		{"shortest", "00000004 00000007", 8, 7, nil, ""},
		{"negative correlation id", "00001000 ffffffff 00", 4100, -1, nil, ""},
		{"a large Fetch", "7fffffff 00000007", 1<<31 + 3, 7, nil, ""},
		{"as long as an alert would be", "15030501 00000007", 0x15030505, 7, nil, ""},
		{"the end", "", 0, 0, io.EOF, ""},
		{"cut in the length", "0000", 0, 0, io.ErrUnexpectedEOF, ""},
		{"cut in the correlation id", "00000004 0000", 0, 0, io.ErrUnexpectedEOF, ""},
		{"no room for a header", "00000003 000000", 0, 0, ErrFrame, "length 3"},
		{"negative", "80000000 00000007", 0, 0, ErrFrame, "length -2147483648"},
		{"TLS alert", "15030300 020228", 0, 0, ErrForeign, "TLS alert"},
		{"HTTP", hex.EncodeToString([]byte("HTTP/1.1 400 Bad Request\r\n")), 0, 0, ErrForeign, "HTTP response"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := flowOf(unhex(t, tt.bytes))
			size, id, err := PeekResponse(f)
			if size != tt.size || id != tt.id || !errors.Is(err, tt.err) {
				t.Errorf("size %d, correlation id %d, %v, want %d, %d, %v", size, id, err, tt.size, tt.id, tt.err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestPeekToken(t *testing.T) {
	if n, err := PeekToken(flowOf(unhex(t, "00000000"))); n != 4 || err != nil {
		t.Errorf("an empty token: %d, %v, want 4", n, err)
	}
	if _, err := PeekToken(flowOf(unhex(t, "ffffffff"))); !errors.Is(err, ErrFrame) {
		t.Errorf("a negative length: %v, want %v", err, ErrFrame)
	}
}

func TestFrameBuffered(t *testing.T) {
	frame := unhex(t, "00000008 00000007 00000000")
	for n := range len(frame) + 1 {
		f := flowOf(frame)
		if _, err := f.Peek(1, 1); err != nil { // gets all of them
			t.Fatal(err)
		}
		f = flowOf(frame[:n])
		f.Peek(1, 1)
		if got, want := FrameBuffered(f), n == len(frame); got != want {
			t.Errorf("%d bytes of %d: %t, want %t", n, len(frame), got, want)
		}
	}
}

// peeked checks what must hold for any bytes: nothing is passed, and what is held back has a limit.
func peeked(t *testing.T, b []byte, peek func(*Flow) error) {
	var out bytes.Buffer
	f := NewFlow(bytes.NewReader(b), &out)
	err := peek(f)
	if f.in != f.out || out.Len() > 0 {
		t.Errorf("bytes have been passed")
	}
	if len(f.buf) > 2*maxHead {
		t.Errorf("%d bytes of buffer", len(f.buf))
	}
	again := peek(f)
	if fmt.Sprint(err) != fmt.Sprint(again) {
		t.Errorf("first %v, then %v", err, again)
	}
	if err := f.PassAll(); err != nil || !bytes.Equal(out.Bytes(), b) {
		t.Errorf("bytes have changed, %v", err)
	}
}

func FuzzPeekRequest(f *testing.F) {
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client"))
	for key := range MaxKey + 1 {
		req := kmsg.RequestForKey(int16(key))
		req.SetVersion(key.MaxVersion())
		f.Add(format.AppendRequest(nil, req, 1))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		peeked(t, b, func(f *Flow) error {
			r, err := PeekRequest(f)
			if err == nil && (r.Size < lengthSize+minRequest || r.Size > lengthSize+maxRequest || r.NoResponse && r.Key != Produce) {
				t.Errorf("%+v", r)
			}
			return err
		})
	})
}

func FuzzTokens(f *testing.F) {
	for _, tt := range tokens {
		f.Add(unhex(f, tt.token), uint8(GSSAPI), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, mechanism, sent uint8) {
		for _, look := range []func(*Flow) (bool, error){
			IsRawToken,
			(&Tokens{mechanism: Mechanism(mechanism % 5), sent: int(sent)}).Next,
		} {
			peeked(t, b, func(f *Flow) error { _, err := look(f); return err })
		}
	})
}

func FuzzPeekResponse(f *testing.F) {
	f.Add(unhex(f, "00000004 00000007"))
	f.Add(unhex(f, "15030300 020228"))
	f.Fuzz(func(t *testing.T, b []byte) {
		peeked(t, b, func(f *Flow) error {
			size, id, err := PeekResponse(f)
			if err == nil && (size < 8 || id != int32(binary.BigEndian.Uint32(b[4:]))) {
				t.Errorf("size %d, correlation id %d", size, id)
			}
			return err
		})
	})
}
