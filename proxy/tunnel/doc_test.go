package tunnel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// The codec reads the examples in docs/tunnel.md, and they mean what the page says.
func TestTheExamplesOfTheWireFormat(t *testing.T) {
	page, err := os.ReadFile("../../docs/tunnel.md")
	if err != nil {
		t.Fatal(err)
	}
	example := make(map[string][]byte)
	for _, m := range regexp.MustCompile("(?s)```hex (\\w+)\n(.*?)```").FindAllSubmatch(page, -1) {
		b, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		if err != nil {
			t.Fatalf("example %s: %v", m[1], err)
		}
		example[string(m[1])] = b
	}

	got, err, _ := transfer(t, bytes.NewReader(example["agent"]))
	if string(got) != "hello" || !errors.Is(err, ErrCut) {
		t.Errorf("agent: read %q, %v", got, err)
	}

	w := exchange.NewWire(readConn{r: bytes.NewReader(example["ws"])}, nil)
	if payload, _ := io.ReadAll(exchange.NewWS(w, w, false, nil)); !bytes.Equal(payload, example["agent"]) {
		t.Errorf("ws: payload %x", payload)
	}

	c := agentConn(t, bytes.NewReader(example["gateway"]))
	got, err = io.ReadAll(c)
	if string(got) != "hi" || err != nil || c.answer.Gateway != "0.3.0" || c.answer.Version != "1.0" {
		t.Errorf("gateway: %+v, read %q, %v", c.answer, got, err)
	}

	opened := example["gateway"][:37]
	_, err = io.ReadAll(agentConn(t, bytes.NewReader(append(bytes.Clone(opened), example["error"]...))))
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDial || e.Message != "kafka-0:9092: connection refused" {
		t.Errorf("error: %v", err)
	}
}

// agentConn returns the agent's end of a stream on which in arrives.
func agentConn(t *testing.T, in io.Reader) *Conn {
	c := newDialled(&fakeExchange{r: in, Exchange: deadlines{}}, TransportWS, &defaultTiming, openCapsule, nil, func() {})
	t.Cleanup(func() { c.Close() })
	return c
}

// docs/tunnel.md names every code and status that this package can send.
func TestTheWireFormatNamesEveryCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/tunnel.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []Code{CodeVersion, CodeProtocol, CodeTarget, CodeTicket, CodeDial, CodeBroker, CodeClient, CodeDraining, CodeLimit, CodeInternal} {
		if !bytes.Contains(page, fmt.Appendf(nil, "| `%s` |", code)) {
			t.Errorf("docs/tunnel.md does not name code %s", code)
		}
	}
	for _, c := range []capsuleType{capsuleData, capsuleKeepalive, capsuleFinalData, capsuleTicket, capsuleOpen, capsuleNotice, capsuleOpened, capsuleTimes, capsuleError} {
		if !bytes.Contains(page, fmt.Appendf(nil, "| `0x%02x` | %s |", uint64(c), c)) {
			t.Errorf("docs/tunnel.md does not name capsule %s", c)
		}
	}
	if !bytes.Contains(page, []byte("version "+Version)) {
		t.Errorf("docs/tunnel.md is not of version %s", Version)
	}
}
