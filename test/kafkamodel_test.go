package test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/kafkamodel"
)

// TestModelAgreesWithKafka sends the same bytes to a broker and to its model. Responses must agree,
// and so must the moment at which the connection is closed.
func TestModelAgreesWithKafka(t *testing.T) {
	kafka.Need(t)
	c := kafka.Start(t, kafka.Config{IDs: []int32{0}, SASL: true, Properties: []string{
		// Only clients of this mechanism may reauthenticate.
		"listener.name.sasl.scram-sha-512.connections.max.reauth.ms=3600000",
	}})
	for _, s := range modelScripts(c.Topic(t, "model")) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, c)
		})
	}
}

// A script may take a minute. Where the broker must never answer, the test waits one second.
const (
	scriptTime = time.Minute
	hangTime   = time.Second
)

func (s script) run(t *testing.T, c *kafka.Cluster) {
	address, cfg := c.Bootstrap(), s.cfg
	if s.sasl {
		address = c.SASL()
		cfg.SASL, cfg.Authenticate = true, checkToken
		cfg.Mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(scriptTime))
	model := kafkamodel.New(cfg)
	var last []byte
	hangs := false
	for _, next := range s.flights {
		if model.Closed() {
			break
		}
		b := next(last)
		if _, err := conn.Write(b); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		for _, e := range model.Receive(b) {
			if e.Answered {
				last = compare(t, conn, e)
			}
			hangs = e.Hangs
		}
	}
	checkEnd(t, conn.(*net.TCPConn), model.Closed(), hangs)
}

// checkEnd checks that the broker sends no more and treats the connection as the model does: it has
// closed it, closes it when the client does, or leaves even that unread.
func checkEnd(t *testing.T, conn *net.TCPConn, closed, hangs bool) {
	t.Helper()
	if !closed {
		if err := conn.CloseWrite(); err != nil {
			t.Errorf("the broker has closed the connection: %v", err)
		}
	}
	if hangs {
		conn.SetDeadline(time.Now().Add(hangTime))
	}
	rest, err := io.ReadAll(conn)
	if len(rest) > 0 {
		t.Errorf("the broker sent more: %x", rest)
	}
	if errors.Is(err, syscall.ECONNRESET) {
		err = nil // unread data makes the close a reset
	}
	if hangs != errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the end of the connection: %v; want it to hang: %v", err, hangs)
	}
}

// compare reads what the broker sends next and compares it with the model's response. It returns
// the token in it, if there is one.
func compare(t *testing.T, conn net.Conn, e kafkamodel.Event) []byte {
	t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		t.Fatalf("no answer, want one to %+v: %v", e, err)
	}
	got, want := make([]byte, binary.BigEndian.Uint32(size[:])), e.Response[4:]
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if e.Kind == kafkamodel.Token {
		if (len(got) == 0) != (len(want) == 0) {
			t.Errorf("token %q, want %q", got, want)
		}
		return got
	}
	if !bytes.HasPrefix(got, want[:4]) {
		t.Fatalf("answer %x, want correlation id %x", got, want[:4])
	}
	response := decode(t, e, got)
	if diff := gocmp.Diff(known(decode(t, e, want)), known(response)); diff != "" {
		t.Errorf("response (-model +broker):\n%s", diff)
	}
	if r, ok := response.(*kmsg.SASLAuthenticateResponse); ok {
		return r.SASLAuthBytes
	}
	return nil
}

func decode(t *testing.T, e kafkamodel.Event, b []byte) kmsg.Response {
	t.Helper()
	r := kmsg.ResponseForKey(e.Key)
	r.SetVersion(e.Version)
	if e.Key == int16(kmsg.ApiVersions) && (e.Version < 0 || e.Version > 4) {
		r.SetVersion(0) // answers a version that the broker does not know
	}
	header := 4
	if r.IsFlexible() && e.Key != int16(kmsg.ApiVersions) {
		header++
	}
	if err := r.ReadFrom(b[header:]); err != nil {
		t.Fatalf("%s %d: %x: %v", kmsg.NameForKey(e.Key), e.Version, b, err)
	}
	return r
}

// known returns the fields of a response that the model fills in.
func known(r kmsg.Response) (all []any) {
	switch r := r.(type) {
	case *kmsg.ApiVersionsResponse:
		slices.SortFunc(r.ApiKeys, func(a, b kmsg.ApiVersionsResponseApiKey) int { return cmp.Compare(a.ApiKey, b.ApiKey) })
		for _, k := range r.ApiKeys {
			all = append(all, fmt.Sprint(kmsg.NameForKey(k.ApiKey), " ", k.MinVersion, "-", k.MaxVersion))
		}
	case *kmsg.SASLHandshakeResponse:
		slices.Sort(r.SupportedMechanisms)
		all = append(all, strings.Join(r.SupportedMechanisms, " "))
	case *kmsg.SASLAuthenticateResponse:
	default:
		return nil
	}
	return append(all, reflect.ValueOf(r).Elem().FieldByName("ErrorCode").Int())
}

const plainToken = "\x00alice\x00alice-secret"

func bearer(token string) string { return "n,,\x01auth=Bearer " + token + "\x01\x01" }

// checkToken accepts and rejects tokens as the brokers do.
func checkToken(mechanism string, token []byte, round int) kafkamodel.Step {
	step := func(result kafkamodel.Result, answer string) kafkamodel.Step {
		return kafkamodel.Step{Result: result, Answer: []byte(answer)}
	}
	text, scram := string(token), strings.HasPrefix(mechanism, "SCRAM")
	switch {
	case mechanism == "PLAIN" && text == plainToken:
		return step(kafkamodel.Done, "")
	case mechanism == "OAUTHBEARER" && text == bearer("none"):
		return step(kafkamodel.Continue, `{"status":"invalid_token"}`)
	case mechanism == "OAUTHBEARER" && strings.HasPrefix(text, "n,,\x01auth=Bearer "):
		return step(kafkamodel.Done, "")
	case scram && round == 0 && strings.HasPrefix(text, "n,,n=bob,"):
		return step(kafkamodel.Continue, "r=")
	case scram && round == 1 && strings.HasPrefix(text, "c=biws,r=") && !strings.Contains(text, "r=wrong"):
		return step(kafkamodel.Done, "v=")
	}
	return step(kafkamodel.Fail, "")
}
