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

// H3Request returns the HEADERS frame of an extended CONNECT to u, or of a POST. For a POST it sets
// the Content-Type in header.
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

// add adds a field. Fields are encoded in the order in which they are added; pseudo-header fields
// must come first (RFC 9114 §4.3).
func (f *fieldBlock) add(name, value string) {
	if f.enc == nil {
		f.enc = qpack.NewEncoder(&f.block)
	}
	f.enc.WriteField(qpack.HeaderField{Name: name, Value: value})
}

// frame returns the HEADERS frame.
func (f *fieldBlock) frame() []byte {
	return append(AppendTypeLength(nil, frameHeaders, uint64(f.block.Len())), f.block.Bytes()...)
}

// ReadH3Request reads the request that opens stream, for at most timeout, and returns it with the
// writer of its response. After an error the stream has been answered or reset. read counts the
// bytes read from all streams of conn.
//
// The writer sends each part of the response at once. Until [H3Writer.Exchange] is called its
// writes have the same timeout, so that a peer that grants no flow-control credit cannot keep the
// request for longer.
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

// ResetH3 ends both directions of a request stream.
func ResetH3(stream *quic.Stream, code http3.ErrCode) {
	stream.CancelRead(quic.StreamErrorCode(code))
	stream.CancelWrite(quic.StreamErrorCode(code))
}

// An H3Writer writes the response to an HTTP/3 request. It does not buffer.
type H3Writer struct {
	x      *H3
	header http.Header
	status int
	taken  bool // x has become a tunnel
	noBody bool // the request was a HEAD, whose response has no body
}

// Exchange turns the request into a tunnel, which follows the header of the response. The header
// must have been written. After that, Finish does nothing.
func (w *H3Writer) Exchange() *H3 {
	w.taken = true
	w.x.stream.SetWriteDeadline(time.Time{})
	return w.x
}

// Header returns the header of the response.
func (w *H3Writer) Header() http.Header { return w.header }

// Flush does nothing, because nothing is buffered. It makes the H3Writer an http.Flusher.
func (w *H3Writer) Flush() {}

// WriteHeader sends the header of the response. Later calls do nothing.
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
	w.x.stream.Write(fields.frame()) // the next call on the stream reports an error
}

// Write sends b as part of the response's body.
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

// Finish ends the response, unless it has become a tunnel.
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
