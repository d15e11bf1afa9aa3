package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// revoking is a gateway whose tokens a test changes.
type revoking struct {
	running
	file credentials.File
	log  *memoryLog
}

func startRevoking(t *testing.T, broker, tokens string, change func(*Gateway)) revoking {
	t.Helper()
	r := revoking{file: testFile(t, "--token-file", tokens), log: &memoryLog{}}
	file, err := credentials.ReadTokens(r.file, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &credentials.Policy{Tokens: file}
	r.running = startGateway(t, []string{broker}, func(g *Gateway) {
		g.Authenticate, g.Grant, g.Judge, g.RevokeStreams = c.Authenticate, c.Grant, c.Judge, true
		g.checkEvery, g.Logger = 5*time.Millisecond, r.log.logger()
		if change != nil {
			change(g)
		}
	})
	return r
}

// dialler opens streams with a token.
func (r revoking) dialler(t *testing.T, transport, token string) *tunnel.Dialer {
	t.Helper()
	u, err := url.Parse(r.address)
	if err != nil {
		t.Fatal(err)
	}
	d := &tunnel.Dialer{URL: u, Transport: transport, TLS: clientTLS(t), Token: func() (string, error) { return token, nil }}
	t.Cleanup(func() { d.Close() })
	return d
}

// stream opens one and asks something over it.
func stream(t *testing.T, d *tunnel.Dialer) *tunnel.Conn {
	t.Helper()
	c, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if err := askOver(c, 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// askOver sends a request and wants its response.
func askOver(c net.Conn, id int32) error {
	if _, err := c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, id)); err != nil {
		return err
	}
	return readAnswerTo(c, id)
}

func readAnswerTo(c net.Conn, id int32) error {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != id {
		return fmt.Errorf("response to %d, want to %d", got, id)
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:]))-4)
	return err
}

func refusedToken(err error) bool {
	e, ok := errors.AsType[*tunnel.AnswerError](err)
	return ok && e.Gateway && e.Status == http.StatusUnauthorized
}

func plainBroker(t *testing.T) string {
	return fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
}

func TestARevokedTokenEndsItsStreamsAlone(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			r := startRevoking(t, plainBroker(t), "team=old\nteam=new\nother=three\n", nil)
			old := r.dialler(t, transport, "old")
			gone := []*tunnel.Conn{stream(t, old), stream(t, old)}
			kept := []*tunnel.Conn{stream(t, r.dialler(t, transport, "new")), stream(t, r.dialler(t, transport, "three"))}
			writeFile(t, r.file, "team=new\nother=three\n")
			for _, c := range gone {
				if n, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("a stream of the revoked token reads %d, %v, want its end in good order", n, err)
				}
			}
			if _, err := old.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil); !refusedToken(err) {
				t.Errorf("a new stream of the revoked token: %v, want 401", err)
			}
			for _, c := range kept {
				if err := askOver(c, 2); err != nil {
					t.Errorf("a stream of another token, of the same name or not: %v", err)
				}
			}
			waitFor(t, "the log", func() bool { return containsAll(r.log.String(), "ending streams", "identity=team", "streams=2") })
		})
	}
}

// What is being answered is answered.
func TestARevokedStreamEndsBetweenTwoRequests(t *testing.T) {
	var asked atomic.Int32
	answer := make(chan struct{})
	give := sync.OnceFunc(func() { close(answer) })
	defer give()
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte {
		if asked.Add(1); id == 2 {
			<-answer
		}
		return metadata(id, 1)
	}))
	r := startRevoking(t, broker, "a=one\nb=two", nil)
	c := stream(t, r.dialler(t, "ws", "one"))
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2))
	waitFor(t, "the request", func() bool { return asked.Load() == 2 })
	writeFile(t, r.file, "b=two")
	waitFor(t, "the end", func() bool { return containsAll(r.log.String(), "ending streams") })
	give()
	if err := readAnswerTo(c, 2); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d, %v behind the answer, want the end", n, err)
	}
}

// Who has been revoked cannot stay by never finishing a request.
func TestARevokedStreamIsCutInTheEnd(t *testing.T) {
	r := startRevoking(t, plainBroker(t), "a=one\nb=two", func(g *Gateway) { g.DrainTimeout = 20 * time.Millisecond })
	d := r.dialler(t, "ws", "one")
	silent, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	slow := stream(t, d)
	slow.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2)[:9])
	writeFile(t, r.file, "b=two")
	for what, c := range map[string]*tunnel.Conn{"silent": silent, "slow": slow} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || tunnel.IsTimeout(err) {
			t.Errorf("%s: %d, %v, want an end", what, n, err)
		}
	}
}

// A file that is incomplete for a moment, as one that an editor writes in place, ends nothing.
func TestOneFailedCheckEndsNoStream(t *testing.T) {
	var missing bool
	judge := func(any) error {
		if missing {
			return errors.New("gone")
		}
		return nil
	}
	near, _ := net.Pipe()
	defer near.Close()
	c := newConn(near, connSettings{})
	var r relays
	r.add(c, tunnel.Peer{})
	for _, gone := range []bool{true, false, true, false, true} {
		missing = gone
		r.revoke(judge, time.Hour, nil)
	}
	if c.ending.drained(false) {
		t.Error("ended after one look that did not find its token")
	}
	r.revoke(judge, time.Hour, nil)
	if !c.ending.drained(false) {
		t.Errorf("not ended after %d looks", revokeChecks)
	}
}

// By default a revoked token opens nothing new, and what is open goes on.
func TestWithoutRevokeStreamsTheyContinue(t *testing.T) {
	r := startRevoking(t, plainBroker(t), "a=one\nb=two", func(g *Gateway) { g.RevokeStreams = false })
	d := r.dialler(t, "ws", "one")
	c := stream(t, d)
	writeFile(t, r.file, "b=two")
	for id := range int32(50) { // over several looks
		if err := askOver(c, 2+id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil); !refusedToken(err) {
		t.Errorf("a new stream of the revoked token: %v, want 401", err)
	}
}

func containsAll(s string, all ...string) bool {
	for _, part := range all {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}
