package status

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Limits of the event stream.
const (
	maxStreams   = 128             // at once; the rest of maxConns is for scrapers and probes
	eventTimeout = 5 * time.Second // for a reader to take one document, or it is cut
)

// stream sends the status document once a second, as server-sent events. A document is made and
// encoded once per second for all readers, and only while somebody reads: it is the first reader of
// a second who does it. A reader holds no document but the one that it is being sent. One that is
// slow skips what came meanwhile, and one that takes nothing is cut.
type stream struct {
	status func() document.Document
	ended  chan struct{} // closed when the process ends

	readers atomic.Int32 // without mu: what makes a document may hang with it, as on a network's file system

	mu       sync.Mutex
	current  event
	deflater *flate.Writer // nil while nobody reads: it holds a megabyte
}

// event is the document of one second. Its bytes are shared and never change.
type event struct {
	second  time.Time
	plain   []byte
	deflate []byte // of plain: blocks that refer to nothing before them, so that they fit behind any others
}

func newStream(status func() document.Document) *stream {
	return &stream{status: status, ended: make(chan struct{})}
}

// end ends all streams in good order.
func (s *stream) end() { close(s.ended) }

// join counts a reader, unless there are too many.
func (s *stream) join() bool {
	if s.readers.Add(1) > maxStreams {
		s.readers.Add(-1)
		return false
	}
	return true
}

func (s *stream) leave() {
	if s.readers.Add(-1) == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.current, s.deflater = event{}, nil
	}
}

// of returns the event of a second, or of the one after it, where a reader is late. The first call of
// a second makes it, and the others wait. The clock may be set back at any time.
func (s *stream) of(second time.Time) (event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if newer := s.current.second.Sub(second); newer >= 0 && newer <= time.Second {
		return s.current, nil
	}
	document, err := json.Marshal(s.status()) // has no newline, which would end the field
	if err != nil {
		return event{}, err
	}
	plain := fmt.Appendf(nil, "data: %s\n\n", document)
	deflated, err := s.deflate(plain)
	if err != nil {
		return event{}, err
	}
	s.current = event{second, plain, deflated}
	return s.current, nil
}

// deflate compresses b by itself. Hold mu.
func (s *stream) deflate(b []byte) ([]byte, error) {
	var out bytes.Buffer
	if s.deflater == nil {
		var err error
		if s.deflater, err = flate.NewWriter(&out, flate.BestSpeed); err != nil {
			return nil, err
		}
	} else {
		s.deflater.Reset(&out)
	}
	if _, err := s.deflater.Write(b); err != nil {
		return nil, err
	}
	if err := s.deflater.Flush(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (s *stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close") // a page that is refused must not keep one from a probe
	if !s.join() {
		w.Header().Set("Retry-After", "10")
		text(w, http.StatusServiceUnavailable, fmt.Sprintf("%d live pages are open, and no more are served: close one. /status has the same document.", maxStreams))
		return
	}
	defer s.leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	out := reader{w: w, control: http.NewResponseController(w), gzip: acceptsGzip(r.Header)}
	if out.gzip {
		h.Set("Content-Encoding", "gzip")
	}
	if r.Method == http.MethodHead {
		return
	}
	// The server's own deadline for reading would end a request that goes on for longer.
	if out.control.SetReadDeadline(time.Time{}) == nil {
		s.send(r.Context(), &out)
	}
}

// send sends events until the reader or the process ends.
func (s *stream) send(ctx context.Context, out *reader) {
	if out.begin() != nil {
		return
	}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ended:
			out.finish()
			return
		case <-next.C:
		}
		second := time.Now().Truncate(time.Second)
		e, err := s.of(second)
		if err != nil || out.send(e) != nil {
			return
		}
		next.Reset(time.Until(second.Add(time.Second)))
	}
}

// reader is one open stream. With gzip it puts the shared blocks into a stream of its own.
type reader struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gzip    bool
	sum     uint32 // CRC-32 of what was sent
	size    uint32
}

// begin sends the header of gzip (RFC 1952 section 2.3), if any.
func (r *reader) begin() error {
	if !r.gzip {
		return nil
	}
	return r.write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
}

func (r *reader) send(e event) error {
	if !r.gzip {
		return r.write(e.plain)
	}
	r.sum = crc32.Update(r.sum, crc32.IEEETable, e.plain)
	r.size += uint32(len(e.plain))
	return r.write(e.deflate)
}

// finish ends the stream so that a reader sees that it is whole.
func (r *reader) finish() {
	if r.gzip {
		end := binary.LittleEndian.AppendUint32([]byte{0x03, 0x00}, r.sum) // a last block, which is empty
		r.write(binary.LittleEndian.AppendUint32(end, r.size))
	}
}

// write cuts a reader that does not take b in time.
func (r *reader) write(b []byte) error {
	if err := r.control.SetWriteDeadline(time.Now().Add(eventTimeout)); err != nil {
		return err
	}
	if _, err := r.w.Write(b); err != nil {
		return err
	}
	return r.control.Flush()
}

// acceptsGzip reports whether a header names gzip, as every browser does.
func acceptsGzip(h http.Header) bool {
	for part := range strings.SplitSeq(h.Get("Accept-Encoding"), ",") {
		if name, weight, _ := strings.Cut(strings.TrimSpace(part), ";"); name == "gzip" {
			return strings.TrimSpace(weight) != "q=0"
		}
	}
	return false
}
