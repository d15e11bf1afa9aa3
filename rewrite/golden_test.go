package rewrite

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
)

var update = flag.Bool("update", false, "write what the clients of testdata/*.frame get")

// golden is a frame of testdata: what a broker sent, and what a client is to get.
type golden struct {
	key            protocol.APIKey
	version        int16
	local          map[int32]string // host:port by node id
	broker, client []byte
}

// readGolden parses a file of lines: a comment behind #, a name and its value, or hexadecimal
// digits, indented, that belong to the name above.
func readGolden(t testing.TB, file string) golden {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := golden{local: map[int32]string{}}
	into := map[string]*[]byte{"broker": &g.broker, "client": &g.client}
	var name string
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line := s.Text()
		if digits, ok := strings.CutPrefix(line, "\t"); ok {
			b, err := hex.DecodeString(digits)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			*into[name] = append(*into[name], b...)
			continue
		}
		var value string
		name, value, _ = strings.Cut(line, " ")
		switch name {
		case "key":
			g.key = protocol.APIKey(atoi(t, value))
		case "version":
			g.version = int16(atoi(t, value))
		case "local":
			id, address, _ := strings.Cut(value, " ")
			g.local[int32(atoi(t, id))] = address
		}
	}
	return g
}

func atoi(t testing.TB, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (g golden) directory() directory {
	return func(b Broker) (string, int32) {
		host, port, err := net.SplitHostPort(g.local[b.NodeID])
		if err != nil {
			return "", 0
		}
		p, _ := strconv.Atoi(port)
		return host, int32(p)
	}
}

func goldenFiles(t testing.TB) []string {
	files, err := filepath.Glob("testdata/*.frame")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d golden frames, %v", len(files), err)
	}
	return files
}

func TestGoldenFrames(t *testing.T) {
	for _, file := range goldenFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".frame"), func(t *testing.T) {
			g := readGolden(t, file)
			got, _, err := relay(&Rewriter{Directory: g.directory()}, g.key, g.version, g.broker)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				writeClient(t, file, got)
			} else if !bytes.Equal(got, g.client) {
				t.Errorf("\n got %x\nwant %x", got, g.client)
			}
			want := g.broker
			if rowOf(g.key).names == Controllers {
				want = got // controllers are hidden, whatever the Directory says
			}
			same, _, err := relay(&Rewriter{Directory: identity}, g.key, g.version, g.broker)
			if err != nil || !bytes.Equal(same, want) {
				t.Errorf("identity: %v\n got %x\nwant %x", err, same, want)
			}
			parse(t, g.key, g.version, got)
		})
	}
}

func writeClient(t *testing.T, file string, frame []byte) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(b), "client\n")
	digits := hex.EncodeToString(frame)
	head += "client\n"
	for len(digits) > 0 {
		n := min(64, len(digits))
		head += fmt.Sprintf("\t%s\n", digits[:n])
		digits = digits[n:]
	}
	if err := os.WriteFile(file, []byte(head), 0o644); err != nil {
		t.Fatal(err)
	}
}
