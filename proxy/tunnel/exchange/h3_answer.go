package exchange

import (
	"bytes"

	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// H3Request is the HEADERS frame of an extended CONNECT to u, or of a POST, whose Content-Type it adds to header.
func H3Request(u *url.URL, header http.Header, post bool) []byte {
	var fields fieldBlock
	if post {
		header.Set("Content-Type", PostType)
		fields.add(":method", http.MethodPost)
	} else {
		fields.add(":method", http.MethodConnect)
		fields.add(":protocol", H3Protocol)
	}
	fields.add(":scheme", u.Scheme)
	fields.add(":authority", u.Host)
	fields.add(":path", u.EscapedPath())
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fields.add(strings.ToLower(name), header.Get(name))
	}
	return fields.frame()
}

// A fieldBlock encodes the fields of a HEADERS frame.
type fieldBlock struct {
	block bytes.Buffer
	enc   *qpack.Encoder
}

func (f *fieldBlock) add(name, value string) {
	if f.enc == nil {
		f.enc = qpack.NewEncoder(&f.block)
	}
	f.enc.WriteField(qpack.HeaderField{Name: name, Value: value})
}

func (f *fieldBlock) frame() []byte {
	return append(AppendTypeLength(nil, frameHeaders, uint64(f.block.Len())), f.block.Bytes()...)
}

// ReadH3Request reads the request that opens stream, for at most timeout, and returns it with what answers it. An error has been answered, or the
// stream is reset. read counts what is read of all streams of conn.
//
// The writer sends each part of an answer at once. Until [H3Writer.Exchange] a peer that gives no credit holds the request no longer than timeout.
func ReadH3Request(conn *quic.Conn, stream *quic.Stream, read *atomic.Uint64, timeout time.Duration) (r *http.Request, w *H3Writer, err error) {
	x := &H3{stream: stream, conn: conn, read: read, free: func() {}}
	x.in.onHeader = func(block []byte) (err error) {
		r, err = decodeRequest(block)
		x.in.answered = err == nil
		return err
	}
	w = &H3Writer{x: x, header: make(http.Header)}
	stream.SetReadDeadline(time.Now().Add(timeout))
	for !x.in.answered {
		switch err := x.step(); {
		case errors.Is(err, errHeaderTooLarge):
			w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			w.Finish()
			return nil, nil, err
		case err != nil:
			ResetH3(stream, http3.ErrCodeMessageError)
			return nil, nil, err
		}
	}
	stream.SetReadDeadline(time.Time{})
	state := conn.ConnectionState().TLS
	r.TLS, r.RemoteAddr = &state, conn.RemoteAddr().String()
	x.lastByte.Store(Clock())
	stream.SetWriteDeadline(time.Now().Add(timeout))
	w.noBody = r.Method == http.MethodHead
	return r.WithContext(stream.Context()), w, nil
}

// ResetH3 ends both directions of a request's stream.
func ResetH3(stream *quic.Stream, code http3.ErrCode) {
	stream.CancelRead(quic.StreamErrorCode(code))
	stream.CancelWrite(quic.StreamErrorCode(code))
}

// An H3Writer writes an answer, each part at once.
type H3Writer struct {
	x      *H3
	header http.Header
	status int
	taken  bool // x is a tunnel's
	noBody bool // the request was a HEAD
}

// Exchange returns what goes on as a tunnel behind the header of the answer, which has been written. Finish does nothing from then on.
func (w *H3Writer) Exchange() *H3 {
	w.taken = true
	w.x.stream.SetWriteDeadline(time.Time{})
	return w.x
}

// Header returns the answer's header.
func (w *H3Writer) Header() http.Header { return w.header }

// Flush does nothing: nothing is held back.
func (w *H3Writer) Flush() {}

// WriteHeader sends the answer's header, once.
func (w *H3Writer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var fields fieldBlock
	fields.add(":status", strconv.Itoa(status))
	for name, values := range w.header {
		for _, v := range values {
			fields.add(strings.ToLower(name), v)
		}
	}
	w.x.stream.Write(fields.frame()) // a stream that has ended is found out by the next call
}

// Write sends b as a part of the answer's body.
func (w *H3Writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.noBody {
		return len(b), nil
	}
	if _, err := w.x.stream.Write(AppendTypeLength(nil, frameData, uint64(len(b)))); err != nil {
		return 0, err
	}
	return w.x.stream.Write(b)
}

// Finish ends an answer, unless it became a tunnel.
func (w *H3Writer) Finish() {
	if w.taken {
		return
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.x.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	w.x.stream.Close()
}
