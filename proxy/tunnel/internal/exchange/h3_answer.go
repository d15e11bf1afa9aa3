package exchange

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

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
