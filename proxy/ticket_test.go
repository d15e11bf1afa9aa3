package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func keysOf(keys ...string) func() ([][]byte, error) {
	return func() (out [][]byte, err error) {
		for _, k := range keys {
			out = append(out, []byte(k))
		}
		return out, nil
	}
}

func TestATicketIsValidForItsAddressOnly(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSigner(keysOf("new key", "old key"))
	good, err := s.sign(tunnel.Ticket{ClusterID: "c", NodeID: 3, Address: "kafka-3:9092"}, now)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := newSigner(keysOf("old key")).sign(tunnel.Ticket{Address: "kafka-3:9092"}, now)
	agents, _ := newSigner(keysOf("the agent's token")).sign(tunnel.Ticket{Address: "kafka-3:9092"}, now)
	changed := func(change func(*tunnel.Ticket)) tunnel.Ticket {
		tk := good
		change(&tk)
		return tk
	}
	for _, test := range []struct {
		name    string
		ticket  tunnel.Ticket
		address string
		at      time.Time
		want    error
	}{
		{"good", good, "kafka-3:9092", now, nil},
		{"signed with the key before", old, "kafka-3:9092", now, nil},
		{"last second", good, "kafka-3:9092", now.Add(ticketLifetime - time.Second), nil},
		{"expired", good, "kafka-3:9092", now.Add(ticketLifetime), errTicketExpired},
		{"signed with the agent's token", agents, "kafka-3:9092", now, errTicketInvalid},
		{"made up", tunnel.Ticket{Address: "10.0.0.1:22", Expires: now.Add(time.Hour).Unix()}, "10.0.0.1:22", now, errTicketInvalid},
		{"address changed", changed(func(t *tunnel.Ticket) { t.Address = "169.254.169.254:80" }), "169.254.169.254:80", now, errTicketInvalid},
		{"expiry changed", changed(func(t *tunnel.Ticket) { t.Expires++ }), "kafka-3:9092", now, errTicketInvalid},
		{"node changed", changed(func(t *tunnel.Ticket) { t.NodeID++ }), "kafka-3:9092", now, errTicketInvalid},
		{"cluster changed", changed(func(t *tunnel.Ticket) { t.ClusterID = "" }), "kafka-3:9092", now, errTicketInvalid},
	} {
		if err := s.verify(&test.ticket, test.address, test.at); !errors.Is(err, test.want) {
			t.Errorf("%s: verify = %v, want %v", test.name, err, test.want)
		}
	}
	if err := s.verify(&good, "kafka-4:9092", now); err == nil {
		t.Error("a ticket for kafka-3 led to kafka-4")
	}
}

// Whatever an agent shows, it is let to an address only by the very ticket that was signed for it.
func FuzzTicket(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	s := newSigner(keysOf("key"))
	good, _ := s.sign(tunnel.Ticket{ClusterID: "c", NodeID: 3, Address: "kafka-3:9092"}, now)
	shown := func(t tunnel.Ticket) []byte {
		b, _ := json.Marshal(t)
		return b
	}
	f.Add(shown(good), "kafka-3:9092")
	f.Add(shown(good), "10.0.0.1:22")
	f.Add(shown(tunnel.Ticket{Address: "10.0.0.1:22", MAC: good.MAC}), "10.0.0.1:22")
	f.Add([]byte(`{"cluster_id":"c\" 3 \"kafka-3:9092\" 1","mac":""}`), "")
	f.Fuzz(func(t *testing.T, wire []byte, address string) {
		var ticket tunnel.Ticket
		if json.Unmarshal(wire, &ticket) != nil {
			return
		}
		err := s.verify(&ticket, address, now)
		if is := bytes.Equal(shown(ticket), shown(good)) && address == good.Address; (err == nil) != is {
			t.Errorf("verify(%s, %q) = %v", wire, address, err)
		}
	})
}

func TestRandomTicketKeysDiffer(t *testing.T) {
	tk, err := newSigner(nil).sign(tunnel.Ticket{Address: "kafka-3:9092"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := newSigner(nil).verify(&tk, "kafka-3:9092", time.Now()); !errors.Is(err, errTicketInvalid) {
		t.Errorf("another process's ticket: verify = %v, want %v", err, errTicketInvalid)
	}
}
