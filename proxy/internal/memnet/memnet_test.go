package memnet

import (
	"io"
	"net"
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
