package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// newH3DoorRig is a rig whose agent connects over HTTP/3 to a reverse proxy that answers extended
// CONNECT itself and forwards everything else to the gateway.
func newH3DoorRig(t *testing.T, connect http.HandlerFunc, adapt ...func(*rig)) *rig {
	return newRig(t, "h3", append(adapt, func(r *rig) {
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
	})...)
}

// Caddy and Envoy in front of an HTTP/1.1 backend answer extended CONNECT with 200 and then carry
// nothing, or turn it into a GET; Caddy in front of HTTP/2 loses its path. Others refuse it, or do
// not answer.
func TestH3TurnsToPOSTWhereCONNECTDoesNotGetThrough(t *testing.T) {
	for name, connect := range map[string]http.HandlerFunc{
		"answers for itself": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"answers as a gateway and carries nothing": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(exchange.HeaderGateway, "test")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"makes a GET of it": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(exchange.HeaderGateway, "test")
			w.WriteHeader(http.StatusUpgradeRequired)
		},
		"loses its path": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(exchange.HeaderGateway, "test")
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

// What the gateway itself refuses is not tried again with POST.
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
	if e, ok := errors.AsType[*AnswerError](err); !ok || e.Status != http.StatusUnauthorized || posts != 0 || r.h3().post.Load() {
		t.Errorf("Hello = %v, after %d POSTs", err, posts)
	}
}

// If neither gets through, the error is that of the first method, and the first method is tried
// first again.
func TestWhereNeitherCONNECTNorPOSTGetsThrough(t *testing.T) {
	r := newH3DoorRig(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }, lettingNobodyIn)
	r.dialer.URL.Path = "/elsewhere"
	_, err := r.dialer.Hello(t.Context())
	if e, ok := errors.AsType[*AnswerError](err); !ok || e.Status != http.StatusForbidden || r.h3().post.Load() {
		t.Errorf("Hello = %v, POST from now on: %t", err, r.h3().post.Load())
	}
}

// A server without extended CONNECT says so in its SETTINGS.
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
	for name, want := range map[string]string{":method": "POST", ":scheme": "https", ":path": "/culvert", "content-type": exchange.PostType} {
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

// answerOnePOST is an HTTP/3 server just good enough for one tunnel. It returns the fields of the
// request.
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
	s.Write(append(quicvarint.Append([]byte{0x01}, uint64(answer.Len())), answer.Bytes()...))
	s.Write(append(quicvarint.Append([]byte{0x00}, uint64(len(capsule))), capsule...))
	io.Copy(io.Discard, s)
	return fields
}
