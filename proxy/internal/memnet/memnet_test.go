package memnet

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
)

func TestConnBehavesAsTCPDoes(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l := Listen("mem:1")
		accepted := make(chan net.Conn, 1)
		go func() {
			c, _ := l.Accept()
			accepted <- c
		}()
		a, err := l.DialContext(t.Context(), "tcp", "anywhere")
		if err != nil {
			return nil, nil, nil, err
		}
		b := <-accepted
		return a, b, func() { a.Close(); b.Close(); l.Close() }, nil
	})
}

func TestCloseWriteLeavesTheOtherDirectionOpen(t *testing.T) {
	a, b := Pipe(Addr("a"), Addr("b"))
	io.WriteString(a, "question")
	a.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
		t.Fatalf("ReadAll = %q, %v", got, err)
	}
	io.WriteString(b, "answer")
	b.Close()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Errorf("ReadAll = %q, %v", got, err)
	}
}

func TestCutIsNoEOF(t *testing.T) {
	a, b := Pipe(Addr("a"), Addr("b"))
	b.Cut()
	if _, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after Cut: %v, want a reset", err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("Write after Cut went through")
	}
}

// A reset discards what the other end has not read. It is SetLinger(0), or a Close that leaves
// bytes unread, or bytes that arrive after a Close.
func TestAResetDiscardsWhatIsBuffered(t *testing.T) {
	for how, reset := range map[string]func(a, b *Conn){
		"linger 0": func(a, b *Conn) { b.SetLinger(0); b.Close() },
		"unread":   func(a, b *Conn) { a.Write([]byte("question")); b.Close() },
		"too late": func(a, b *Conn) { b.Close(); a.Write([]byte("question")) },
	} {
		a, b := Pipe(Addr("a"), Addr("b"))
		io.WriteString(b, "answer")
		b.CloseWrite()
		reset(a, b)
		if got, err := io.ReadAll(a); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: ReadAll = %q, %v, want a reset", how, got, err)
		}
	}
}
