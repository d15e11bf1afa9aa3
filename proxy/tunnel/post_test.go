package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// newH3DoorRig is a rig whose agent meets, over HTTP/3, a front door that keeps extended CONNECTs to itself and leads all else to the gateway.
func newH3DoorRig(t *testing.T, connect http.HandlerFunc) *rig {
	return newRig(t, "h3", func(r *rig) {
		r.dialer.timing = defaultTiming
		r.dialer.timing.hello, r.dialer.timing.reset = 5*time.Second, 100*time.Millisecond
		r.server.h3Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodConnect {
				authenticated(req.Context())
				connect(w, req)
				return
			}
			r.server.ServeHTTP(w, req)
		})
	})
}

// Caddy and Envoy before an HTTP/1.1 backend answer extended CONNECT with 200 and then carry nothing, or make a GET of it; Caddy before HTTP/2 loses
// its path. Others refuse it, or are silent.
func TestH3TurnsToPOSTWhereCONNECTDoesNotGetThrough(t *testing.T) {
	for name, connect := range map[string]http.HandlerFunc{
		"answers for itself": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"answers as a gateway and carries nothing": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(headerGateway, "test")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"makes a GET of it": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(headerGateway, "test")
			w.WriteHeader(http.StatusUpgradeRequired)
		},
		"loses its path": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(headerGateway, "test")
			w.WriteHeader(http.StatusNotFound)
		},
		"refuses":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"is silent": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"cuts":      func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newH3DoorRig(t, connect)
			if _, err := r.dialer.Hello(t.Context()); err != nil {
				t.Fatalf("Hello = %v", err)
			}
			c, s := r.dial()
			if s.peer.Transport != TransportH3 || c.Transport() != TransportH3 {
				t.Errorf("transport = %s, at the gateway %s", c.Transport(), s.peer.Transport)
			}
			io.WriteString(c, "through")
			if got, err := io.ReadAll(io.LimitReader(s, 7)); string(got) != "through" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// What a gateway itself says is not asked for twice.
func TestAGatewaysRefusalIsNotTriedAsPOST(t *testing.T) {
	posts := 0
	r := newRig(t, "h3", func(r *rig) {
		r.server.Authenticate = func(req *http.Request) (string, error) {
			if req.Method == http.MethodPost {
				posts++
			}
			return "", errors.New("unknown token")
		}
	})
	_, err := r.dialer.Hello(t.Context())
	if e, ok := errors.AsType[*AnswerError](err); !ok || e.Status != http.StatusUnauthorized || posts != 0 || r.dialer.h3.post.Load() {
		t.Errorf("Hello = %v, after %d POSTs", err, posts)
	}
}

// Where neither gets through, the error is that of what is tried first, and is tried first again.
func TestWhereNeitherCONNECTNorPOSTGetsThrough(t *testing.T) {
	r := newH3DoorRig(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) })
	r.dialer.URL.Path = "/elsewhere"
	r.server.Authenticate = func(*http.Request) (string, error) { return "", errors.New("no") }
	_, err := r.dialer.Hello(t.Context())
	if e, ok := errors.AsType[*AnswerError](err); !ok || e.Status != http.StatusForbidden || r.dialer.h3.post.Load() {
		t.Errorf("Hello = %v, POST from now on: %t", err, r.dialer.h3.post.Load())
	}
}

// A front door that has no extended CONNECT says so in its SETTINGS.
func TestH3TakesPOSTWhereSETTINGSAllowNoExtendedCONNECT(t *testing.T) {
	server, _ := testTLS()
	server = server.Clone()
	server.NextProtos = []string{http3.NextProtoH3}
	ln, err := quic.ListenAddr("127.0.0.1:0", server, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := newRig(t, "h3", func(r *rig) { r.dialer.URL.Host = ln.Addr().String() })
	defer r.stop()
	fields := make(chan map[string]string, 1)
	var door sync.WaitGroup
	defer door.Wait()
	door.Go(func() { fields <- answerOnePOST(t, ln) })
	c := r.unopened(Open{Target: TargetBootstrap})
	opened, err := c.Opened(t.Context())
	if err != nil || opened.Gateway != "door" {
		t.Errorf("Opened = %+v, %v", opened, err)
	}
	c.Close()
	got := <-fields
	for name, want := range map[string]string{":method": "POST", ":scheme": "https", ":path": "/culvert", "content-type": postType} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{":protocol", "content-length"} {
		if v, there := got[name]; there {
			t.Errorf("%s = %q", name, v)
		}
	}
}

// answerOnePOST is an HTTP/3 server as far as one tunnel needs it. It returns the request's fields.
func answerOnePOST(t *testing.T, ln *quic.Listener) map[string]string {
	conn, err := ln.Accept(t.Context())
	if err != nil {
		t.Error(err)
		return nil
	}
	control, _ := conn.OpenUniStream()
	control.Write([]byte{0x00, 0x04, 0x00}) // no SETTINGS but defaults
	s, err := conn.AcceptStream(t.Context())
	if err != nil {
		t.Error(err)
		return nil
	}
	in := quicvarint.NewReader(s)
	quicvarint.Read(in)
	size, _ := quicvarint.Read(in)
	block := make([]byte, size)
	io.ReadFull(in, block)
	fields := make(map[string]string)
	for next := qpack.NewDecoder().Decode(block); ; {
		f, err := next()
		if err != nil {
			break
		}
		fields[f.Name] = f.Value
	}
	var answer bytes.Buffer
	enc := qpack.NewEncoder(&answer)
	enc.WriteField(qpack.HeaderField{Name: ":status", Value: "200"})
	enc.WriteField(qpack.HeaderField{Name: "culvert-gateway", Value: "door"})
	capsule := appendCapsule(nil, capsuleOpened, []byte(`{"version":"`+Version+`","gateway":"door"}`))
	s.Write(append(appendVarint([]byte{frameHeaders}, uint64(answer.Len())), answer.Bytes()...))
	s.Write(append(appendVarint([]byte{frameData}, uint64(len(capsule))), capsule...))
	io.Copy(io.Discard, s)
	return fields
}

func TestPipe(t *testing.T) {
	const long = 10 * time.Second
	t.Run("a write waits until it is taken", func(t *testing.T) {
		p := newPipe()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		b := make([]byte, 2)
		for _, want := range []string{"ab", "c"} {
			select {
			case err := <-done:
				t.Fatalf("write = %v before all was taken", err)
			default:
			}
			if n, err := p.read(b, true); string(b[:n]) != want || err != nil {
				t.Errorf("read %q, %v, want %q", b[:n], err, want)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("write = %v", err)
		}
	})
	t.Run("a write that timed out is taken nevertheless", func(t *testing.T) {
		p := newPipe()
		b := []byte("abc")
		p.setDeadline(&p.writer, time.Now().Add(time.Millisecond))
		if err := p.write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write = %v", err)
		}
		copy(b, "xyz") // as the next user of the buffer does
		if err := p.write([]byte("def")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write = %v", err)
		}
		p.finish(io.EOF)
		p.setDeadline(&p.writer, time.Now().Add(long))
		done := make(chan error, 1)
		go func() { done <- p.flush() }()
		got, err := io.ReadAll(postBody{p})
		if string(got) != "abcdef" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := <-done; err != nil {
			t.Errorf("flush = %v", err)
		}
	})
	t.Run("a read can be repeated", func(t *testing.T) {
		p := newPipe()
		b := make([]byte, 3)
		for _, deadline := range []time.Time{aLongTimeAgo, time.Now().Add(time.Millisecond)} {
			p.setDeadline(&p.reader, deadline)
			if _, err := p.read(b, true); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read = %v", err)
			}
		}
		p.setDeadline(&p.reader, time.Time{})
		if _, err := p.read(b, false); err != error(errNoMore) {
			t.Errorf("read without waiting = %v", err)
		}
		go p.write([]byte("abc"))
		if n, err := p.read(b, true); string(b[:n]) != "abc" || err != nil {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
	t.Run("the first failure stays", func(t *testing.T) {
		p := newPipe()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		p.offered()
		p.fail(io.ErrClosedPipe)
		p.fail(io.ErrNoProgress)
		if err := <-done; err != io.ErrClosedPipe {
			t.Errorf("write = %v", err)
		}
		if _, err := p.read(make([]byte, 3), true); err != io.ErrClosedPipe {
			t.Errorf("read = %v", err)
		}
	})
	t.Run("who leaves does not say why", func(t *testing.T) {
		p := newPipe()
		postBody{p}.Close()
		done := make(chan error, 1)
		go func() { done <- p.write([]byte("abc")) }()
		if _, err := p.read(make([]byte, 3), true); err != net.ErrClosed {
			t.Errorf("read = %v", err)
		}
		p.fail(io.ErrNoProgress)
		if err := <-done; err != io.ErrNoProgress {
			t.Errorf("write = %v", err)
		}
	})
}

// However a body comes, in pieces or at once, the stream is what was sent, and a read that does not wait loses nothing.
func FuzzBodiesInPieces(f *testing.F) {
	f.Add([]byte("capsules"), uint16(3))
	f.Add(random(3*bulkRead), uint16(smallSize))      // a small read, then large ones
	f.Add(random(2*chunkSize+1), uint16(chunkSize-1)) // more than one buffer
	f.Add(random(smallSize+1), uint16(1))             // just beyond the small buffer
	f.Fuzz(func(t *testing.T, body []byte, size uint16) {
		bodies := []io.Reader{bytes.NewReader(body), iotest.DataErrReader(bytes.NewReader(body))}
		if len(body) <= 2*smallSize {
			bodies = append(bodies, iotest.OneByteReader(bytes.NewReader(body)))
		}
		for _, r := range bodies {
			x := newPost(TransportH2, nil, nil)
			x.hangUp = func(bool) {}
			go x.receive(r)
			var got []byte
			buf := make([]byte, max(1, size))
			err := error(nil)
			for wait := true; err == nil || isTimeout(err); wait = !wait || isTimeout(err) {
				x.SetWait(wait)
				var n int
				n, err = x.Read(buf)
				got = append(got, buf[:n]...)
			}
			if err != io.EOF || !bytes.Equal(got, body) || !x.sawEnd.Load() {
				t.Errorf("read %d of %d bytes, %v", len(got), len(body), err)
			}
			x.Abort()
		}
	})
}
