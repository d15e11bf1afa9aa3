package status_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// counting returns documents with numbers, and counts them.
func counting(made *atomic.Int32, size int) func() document.Document {
	filling := strings.Repeat("x", size)
	return func() document.Document {
		return document.Document{Version: document.Version, Uptime: float64(made.Add(1)), Build: document.Build{Version: filling}}
	}
}

// open requests the stream on a connection of its own.
func open(t *testing.T, ln *memListener, header string) (net.Conn, *http.Response) {
	t.Helper()
	conn := ln.dial(t)
	if _, err := io.WriteString(conn, "GET /status/stream HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, resp
}

// next reads one event.
func next(t *testing.T, r *bufio.Reader) document.Document {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read an event: %v", err)
	}
	data, ok := strings.CutPrefix(line, "data: ")
	if blank, err := r.ReadString('\n'); !ok || blank != "\n" || err != nil {
		t.Fatalf("%q, then %q, %v: want one line with data, and a blank one", line, blank, err)
	}
	var d document.Document
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADocumentIsMadeOncePerSecondForAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		ln, stop := startInMemory(t, &status.Server{Status: counting(&made, 0)})
		defer stop()
		var readers []*bufio.Reader
		for i := range 10 {
			header := ""
			if i%2 == 1 {
				header = "Accept-Encoding: deflate, gzip\r\n"
			}
			_, resp := open(t, ln, header)
			if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/event-stream" {
				t.Fatalf("%d, %s", resp.StatusCode, got)
			}
			body := io.Reader(resp.Body)
			if i%2 == 1 {
				unzipped, err := gzip.NewReader(resp.Body)
				if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
					t.Fatalf("%v: %v", resp.Header, err)
				}
				body = unzipped
			}
			readers = append(readers, bufio.NewReader(body))
		}
		begin := time.Now()
		for second := range 30 { // longer than the server's deadlines for a request
			for i, r := range readers {
				if d := next(t, r); int(d.Uptime) != second+1 {
					t.Fatalf("second %d, reader %d: document %v", second, i, d.Uptime)
				}
			}
		}
		if d := time.Since(begin); d != 29*time.Second {
			t.Errorf("30 events took %v, want 29s", d)
		}
	})
}

func TestNothingIsMadeWhileNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		ln, stop := startInMemory(t, &status.Server{Status: counting(&made, 0)})
		defer stop()
		time.Sleep(10 * time.Second)
		conn, resp := open(t, ln, "")
		next(t, bufio.NewReader(resp.Body))
		conn.Close()
		synctest.Wait()
		before := made.Load()
		time.Sleep(10 * time.Second)
		if before != 1 || made.Load() != before {
			t.Errorf("%d documents for one event, %d later: want 1 and 1", before, made.Load())
		}
	})
}

// One reader that takes nothing neither delays the others nor is waited for.
func TestASlowReaderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		ln, stop := startInMemory(t, &status.Server{Status: counting(&made, 100<<10)})
		defer stop()
		slow, _ := open(t, ln, "")
		_, resp := open(t, ln, "")
		quick := bufio.NewReader(resp.Body)
		begin := time.Now()
		for range 8 {
			next(t, quick)
		}
		if d := time.Since(begin); d != 7*time.Second {
			t.Errorf("8 events beside a slow reader took %v, want 7s", d)
		}
		rest, err := io.ReadAll(slow)
		if len(rest) > 16<<10 || err != nil {
			t.Errorf("the slow reader then gets %d bytes, %v: want the end", len(rest), err)
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		ln, stop := startInMemory(t, &status.Server{Status: counting(&made, 0)})
		defer stop()
		var first net.Conn
		for i := range 128 {
			conn, resp := open(t, ln, "")
			if resp.StatusCode != 200 {
				t.Fatalf("stream %d: %s", i+1, resp.Status)
			}
			go io.Copy(io.Discard, conn)
			if i == 0 {
				first = conn
			}
		}
		for range 100 { // pages that go on trying hold no connection
			_, resp := open(t, ln, "")
			reason, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 503 || !strings.HasPrefix(string(reason), "128 live pages are open, and no more are served: close one.") {
				t.Fatalf("stream 129: %d %q", resp.StatusCode, reason)
			}
		}
		// Scrapers and probes have connections left.
		for range 64 {
			conn := ln.dial(t)
			fmt.Fprint(conn, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
				t.Fatalf("a probe beside 128 streams: %v, %v", resp, err)
			}
		}
		first.Close()
		synctest.Wait()
		if _, resp := open(t, ln, ""); resp.StatusCode != 200 {
			t.Errorf("a stream after one has ended: %s", resp.Status)
		}
		if made.Load() > 3 {
			t.Errorf("%d documents, want one per second", made.Load())
		}
	})
}

// The last bytes of a stream say that it is whole, also with gzip, and it delays no shutdown.
func TestStreamsEndWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		ln, stop := startInMemory(t, &status.Server{Status: counting(&made, 0)})
		_, plain := open(t, ln, "")
		_, zipped := open(t, ln, "Accept-Encoding: gzip\r\n")
		read := make(chan error, 2)
		go func() {
			_, err := io.Copy(io.Discard, plain.Body)
			read <- err
		}()
		go func() {
			r, err := gzip.NewReader(zipped.Body)
			if err == nil {
				_, err = io.Copy(io.Discard, r) // verifies size and checksum
			}
			read <- err
		}()
		time.Sleep(3500 * time.Millisecond)
		begin := time.Now()
		stop()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the shutdown took %v, want no wait for streams", d)
		}
		for range 2 {
			if err := <-read; err != nil {
				t.Errorf("a stream ended with %v", err)
			}
		}
	})
}

// A document that cannot be made, as when a credential is on a file system that hangs, must not take
// the connections of probes, however often a page tries again.
func TestAStatusThatHangsLeavesRoomForProbes(t *testing.T) {
	hangs := make(chan struct{})
	url, client := start(t, &status.Server{Status: func() document.Document {
		<-hangs
		return document.Document{}
	}})
	defer close(hangs)
	for range 250 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /status/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		conn.Read(make([]byte, 100))
		conn.Close()
	}
	client.Timeout = 3 * time.Second
	if resp, body := do(t, client, "GET", url+"/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("a probe: %d %q", resp.StatusCode, body)
	}
}
