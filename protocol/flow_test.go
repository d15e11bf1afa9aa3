package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// numbered returns n bytes that differ from their neighbours.
func numbered(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// exercise looks at, passes, changes and replaces bytes of a flow of 100.
func exercise(f *Flow) error {
	b, err := f.Peek(10, 10)
	if err != nil {
		return err
	}
	b[3] = 0xff
	f.Pass(10)
	if err := f.PassThrough(30); err != nil {
		return err
	}
	if _, err := f.Peek(20, 100); err != nil {
		return err
	}
	if err := f.Replace(5, []byte("longer than five")); err != nil {
		return err
	}
	if err := f.Replace(10, []byte("less")); err != nil {
		return err
	}
	if err := f.Replace(5, nil); err != nil {
		return err
	}
	if err := f.PassThrough(20); err != nil {
		return err
	}
	return f.PassAll()
}

func exercised(in []byte) []byte {
	out := bytes.Clone(in[:40])
	out[3] = 0xff
	out = append(out, "longer than fiveless"...)
	return append(out, in[60:]...)
}

func TestFlowDoesNotCareHowBytesArrive(t *testing.T) {
	in := numbered(100)
	check := func(name string, src io.Reader) {
		var out bytes.Buffer
		if err := exercise(NewFlow(src, &out)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := exercised(in); !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s:\n got %x\nwant %x", name, out.Bytes(), want)
		}
	}
	check("whole", bytes.NewReader(in))
	check("byte by byte", iotest.OneByteReader(bytes.NewReader(in)))
	check("end with the last bytes", iotest.DataErrReader(bytes.NewReader(in)))
	for n := 1; n < len(in); n++ {
		check(fmt.Sprintf("split at %d", n), io.MultiReader(bytes.NewReader(in[:n]), bytes.NewReader(in[n:])))
	}
}

// A source that ends early is an error of each call, and not one of two frames' boundary.
func TestFlowTellsAnEndFromACut(t *testing.T) {
	f := NewFlow(bytes.NewReader(nil), io.Discard)
	if _, err := f.Peek(4, 4); err != io.EOF {
		t.Errorf("Peek at the end: %v, want %v", err, io.EOF)
	}
	if err := f.PassAll(); err != nil {
		t.Errorf("PassAll at the end: %v", err)
	}
	if err := f.PassThrough(1); err != io.ErrUnexpectedEOF {
		t.Errorf("PassThrough at the end: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if err := f.PassThrough(0); err != nil {
		t.Errorf("PassThrough of nothing: %v", err)
	}
	f = NewFlow(strings.NewReader("abc"), io.Discard)
	if _, err := f.Peek(4, 4); err != io.ErrUnexpectedEOF {
		t.Errorf("Peek across the end: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if err := f.PassThrough(4); err != io.ErrUnexpectedEOF {
		t.Errorf("PassThrough across the end: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// readFunc is a source that watches its reads.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// What has been passed must not wait for what has not arrived.
func TestFlowWritesBeforeItBlocks(t *testing.T) {
	in := numbered(100)
	var out bytes.Buffer
	passed, given := 0, 0
	src := readFunc(func(b []byte) (int, error) {
		if out.Len() != passed {
			t.Errorf("%d bytes were written before a read, want %d", out.Len(), passed)
		}
		n := copy(b[:1], in[given:])
		given += n
		return n, nil
	})
	f := NewFlow(src, &out)
	for range 10 {
		if _, err := f.Peek(3, 3); err != nil {
			t.Fatal(err)
		}
		f.Pass(3)
		passed += 3
	}
	if out.Len() == passed {
		t.Error("the last bytes have been written, though nothing was waited for")
	}
	if err := f.Flush(); err != nil || !bytes.Equal(out.Bytes(), in[:passed]) {
		t.Errorf("flushed %x, %v, want %x", out.Bytes(), err, in[:passed])
	}
}

func TestFlowLosesNothingInATimeout(t *testing.T) {
	in := numbered(10)
	var out bytes.Buffer
	late := true
	r := bytes.NewReader(in)
	f := NewFlow(readFunc(func(b []byte) (int, error) {
		if late = !late; late {
			return 0, os.ErrDeadlineExceeded
		}
		return r.Read(b[:1])
	}), &out)
	var b []byte
	timeouts := 0
	for b == nil {
		var err error
		if b, err = f.Peek(10, 10); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			timeouts++
		}
	}
	if timeouts != 9 || !bytes.Equal(b, in) || f.Buffered() != 10 {
		t.Errorf("%d timeouts, then %x, want %x", timeouts, b, in)
	}
}

func TestFlowTellsErrorsOfItsSidesApart(t *testing.T) {
	broken := errors.New("broken")
	var write *WriteError

	f := NewFlow(iotest.ErrReader(broken), io.Discard)
	if err := f.PassAll(); !errors.Is(err, broken) || errors.As(err, &write) {
		t.Errorf("source: %v", err)
	}
	f = NewFlow(bytes.NewReader(numbered(10)), writeFunc(func([]byte) (int, error) { return 0, broken }))
	if err := f.PassAll(); !errors.Is(err, broken) || !errors.As(err, &write) {
		t.Errorf("destination: %v", err)
	}
	f = NewFlow(readFunc(func([]byte) (int, error) { return 0, nil }), io.Discard)
	if _, err := f.Peek(1, 1); err != io.ErrNoProgress {
		t.Errorf("a source that gives nothing: %v, want %v", err, io.ErrNoProgress)
	}
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }

func TestFlowHoldsNoMoreThanItMay(t *testing.T) {
	f := NewFlow(readFunc(func([]byte) (int, error) {
		t.Error("it has been read from")
		return 0, io.EOF
	}), io.Discard)
	if _, err := f.Peek(11, 10); !errors.Is(err, ErrHeld) {
		t.Errorf("Peek(11, 10): %v, want %v", err, ErrHeld)
	}
	defer func() {
		if recover() == nil {
			t.Error("Pass of bytes that were not peeked at: no panic")
		}
	}()
	f.Pass(1)
}

// A large Peek is served, and the memory goes back to 64 KiB behind it.
func TestFlowGrowsForWhatIsHeld(t *testing.T) {
	in := numbered(5 << 20)
	var out bytes.Buffer
	f := NewFlow(bytes.NewReader(in), &out)
	if err := f.PassThrough(1000); err != nil {
		t.Fatal(err)
	}
	b, err := f.Peek(3<<20, 3<<20)
	if err != nil || !bytes.Equal(b, in[1000:1000+3<<20]) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if err := f.PassAll(); err != nil || !bytes.Equal(out.Bytes(), in) {
		t.Errorf("the bytes have changed, %v", err)
	}
	if len(f.buf) != bufferSize {
		t.Errorf("%d bytes of buffer behind it, want %d", len(f.buf), bufferSize)
	}
}

// A length that a peer claims costs nothing before the bytes are there.
func TestFlowTakesMemoryAsBytesArrive(t *testing.T) {
	var before, after runtime.MemStats
	f := NewFlow(bytes.NewReader(numbered(1000)), io.Discard)
	runtime.ReadMemStats(&before)
	if _, err := f.Peek(1<<30, 1<<30); err != io.ErrUnexpectedEOF {
		t.Errorf("Peek: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
		t.Errorf("%d bytes were allocated", n)
	}
}

func TestFlowGivesItsBufferBackWhileItIsIdle(t *testing.T) {
	in := numbered(1000)
	var out bytes.Buffer
	f := NewFlow(iotest.HalfReader(bytes.NewReader(in)), &out)
	if !f.Release() {
		t.Error("a new flow holds a buffer")
	}
	for at := 0; at < len(in); at += 10 {
		if _, err := f.Peek(10, 10); err != nil {
			t.Fatal(err)
		}
		if f.Release() {
			t.Fatal("released with bytes in it")
		}
		f.Pass(10)
		if f.Release() {
			t.Fatal("released with bytes in it that have not been written")
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		if f.Release() != (f.Buffered() == 0) {
			t.Fatalf("%d bytes in it", f.Buffered())
		}
	}
	if !bytes.Equal(out.Bytes(), in) {
		t.Error("the bytes have changed")
	}
}

func TestFlowAllocatesNothing(t *testing.T) {
	in := bytes.Repeat(numbered(1000), 1000)
	src := bytes.NewReader(in)
	f := NewFlow(src, io.Discard)
	n := testing.AllocsPerRun(10, func() {
		src.Reset(in)
		for range 1000 {
			if _, err := f.Peek(100, 100); err != nil {
				t.Fatal(err)
			}
			if err := f.PassThrough(1000); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Flush(); err != nil || !f.Release() {
			t.Fatal("not released")
		}
	})
	// The pool may be emptied by the garbage collector.
	if n > 1 {
		t.Errorf("%g allocations for 1000 frames, want 0", n)
	}
}

// FuzzFlow compares a flow, in any order of calls, with what they say they do.
func FuzzFlow(f *testing.F) {
	f.Add(uint64(1), []byte{0, 10, 1, 5, 2, 200, 3, 4, 4, 0})
	f.Add(uint64(2), []byte{0, 255, 0, 255, 3, 20, 2, 255, 5, 1})
	f.Fuzz(func(t *testing.T, seed uint64, calls []byte) {
		random := rand.New(rand.NewPCG(seed, 0))
		in := numbered(200_000)
		rest := bytes.NewReader(in)
		var out, want bytes.Buffer
		flow := NewFlow(readFunc(func(b []byte) (int, error) {
			if out.Len() != want.Len() {
				t.Errorf("%d bytes were written before a read, want %d", out.Len(), want.Len())
			}
			return rest.Read(b[:min(len(b), 1+random.IntN(70_000))])
		}), &out)
		at := 0 // of in, behind what was passed
		for len(calls) >= 2 {
			n := int(calls[1]) * int(calls[1]) // up to 65025
			switch calls[0] % 5 {
			case 0:
				if b, err := flow.Peek(n, 1<<20); err == nil && !bytes.Equal(b, in[at:at+n]) {
					t.Fatalf("Peek(%d) at %d gives other bytes", n, at)
				}
			case 1:
				n = min(n, flow.Buffered())
				flow.Pass(n)
				want.Write(in[at : at+n])
				at += n
			case 2:
				n = min(n, len(in)-at)
				want.Write(in[at:min(at+flow.Buffered(), at+n)])
				passed := min(flow.Buffered(), n)
				if err := flow.PassThrough(int64(passed)); err != nil {
					t.Fatal(err)
				}
				at += passed
			case 3:
				n = min(n, flow.Buffered())
				b := numbered(int(calls[1]))
				want.Write(b)
				if err := flow.Replace(n, b); err != nil {
					t.Fatal(err)
				}
				at += n
			case 4:
				if err := flow.Flush(); err != nil {
					t.Fatal(err)
				}
				flow.Release()
			}
			calls = calls[2:]
		}
		if err := flow.Flush(); err != nil || !bytes.Equal(out.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes came out, want %d, %v", out.Len(), want.Len(), err)
		}
	})
}

// spliced is a destination that takes bytes past the flow, as many at a time as it likes.
type spliced struct {
	bytes.Buffer
	most    int64 // at a time
	without int64 // bytes that came past the flow
	err     error // what Splice returns
}

func (s *spliced) Splice(src io.Reader, n int64) (int64, error) {
	k, _ := io.CopyN(&s.Buffer, src, min(n, s.most))
	s.without += k
	return k, s.err
}

func TestFlowLetsLargeRestsBeSpliced(t *testing.T) {
	const small, large = 1000, 10 * bufferSize
	in := numbered(small + large + small)
	for _, most := range []int64{0, 1, bufferSize, 3*bufferSize + 1, large} {
		dst := &spliced{most: most}
		f := NewFlow(bytes.NewReader(in), dst)
		if _, err := f.Peek(small, small); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int64{small, large, small} {
			if err := f.PassThrough(n); err != nil {
				t.Fatalf("at most %d at a time: %v", most, err)
			}
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst.Bytes(), in) {
			t.Errorf("at most %d at a time: the bytes are not those that came", most)
		}
		if most == large && dst.without < large-bufferSize {
			t.Errorf("%d bytes of %d were spliced", dst.without, large)
		}
	}
}

// The error of a splice ends the flow, unless the splice was complete.
func TestFlowReturnsTheErrorOfASplice(t *testing.T) {
	in := numbered(3 * bufferSize)
	cut := errors.New("cut")
	for _, test := range []struct {
		most int64
		err  error
		want error
	}{
		{bufferSize, cut, cut},
		{bufferSize, &WriteError{cut}, cut},
		{bufferSize, io.EOF, io.ErrUnexpectedEOF},
		{1 << 30, cut, nil},
	} {
		dst := &spliced{most: test.most, err: test.err}
		f := NewFlow(bytes.NewReader(in), dst)
		if _, err := f.Peek(1, 1); err != nil { // takes a buffer
			t.Fatal(err)
		}
		err := f.PassThrough(int64(len(in)))
		var write, wantWrite *WriteError
		if !errors.Is(err, test.want) || errors.As(err, &write) != errors.As(test.err, &wantWrite) {
			t.Errorf("Splice of at most %d returns %v: PassThrough = %v, want %v", test.most, test.err, err, test.want)
		}
		if !bytes.Equal(dst.Bytes(), in[:dst.Len()]) {
			t.Error("the bytes are not those that came")
		}
		if err == nil && f.buf != nil {
			t.Errorf("%d bytes of buffer after the splice", len(f.buf))
		}
	}
}

// Small frames do not take a large buffer.
func TestFlowTakesASmallBufferUntilAReadFillsIt(t *testing.T) {
	const frame = smallSize / 2
	src := &shortReads{bytes.NewReader(numbered(1 << 20)), frame}
	f := NewFlow(src, io.Discard)
	for range 20 {
		if err := f.PassThrough(frame); err != nil || len(f.buf) != smallSize || f.pooled != nil {
			t.Fatalf("%d bytes of buffer for frames of %d, %v", len(f.buf), frame, err)
		}
	}
	src.most = bufferSize
	for range 3 {
		f.PassThrough(smallSize)
	}
	if len(f.buf) != bufferSize || f.small != nil {
		t.Errorf("%d bytes of buffer when a read fills the small one, want %d", len(f.buf), bufferSize)
	}
}

// A frame that is too large for the small buffer comes in two reads and two writes: the first are
// those of a flow that was idle.
func TestFlowWakesUpForALargeFrameOnce(t *testing.T) {
	const frame = 16 << 10
	src, dst := &calls{Reader: bytes.NewReader(numbered(frame))}, &calls{Writer: io.Discard}
	f := NewFlow(src, dst)
	if err := errors.Join(f.PassThrough(frame), f.Flush()); err != nil {
		t.Fatal(err)
	}
	if src.n != 2 || dst.n != 2 {
		t.Errorf("%d reads and %d writes, want 2 and 2", src.n, dst.n)
	}
}

// calls counts reads or writes.
type calls struct {
	io.Reader
	io.Writer
	n int
}

func (c *calls) Read(p []byte) (int, error)  { c.n++; return c.Reader.Read(p) }
func (c *calls) Write(p []byte) (int, error) { c.n++; return c.Writer.Write(p) }

// shortReads reads at most some bytes at a time.
type shortReads struct {
	io.Reader
	most int
}

func (r *shortReads) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), r.most)]) }

func TestFlowFindsTheEndThatStoppedASplice(t *testing.T) {
	in := numbered(3 * bufferSize)
	f := NewFlow(bytes.NewReader(in), &spliced{most: 1 << 30})
	if err := f.PassThrough(int64(len(in)) + 1); err != io.ErrUnexpectedEOF {
		t.Errorf("PassThrough of more than there is = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}
