package proxy

import (
	"fmt"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Brokers choose the addresses in tickets, so there is no end to them.
func TestTicketsAreBounded(t *testing.T) {
	var s tickets
	start := time.Unix(1_000_000, 0)
	for i := range 3 * maxTickets {
		now := start.Add(time.Duration(i) * time.Second)
		s.add(tunnel.Ticket{Address: fmt.Sprintf("kafka-%d:9092", i), Expires: now.Add(ticketLifetime).Unix()}, now)
		if n := s.nodes(); n > maxTickets {
			t.Fatalf("%d tickets are kept, the limit is %d", n, maxTickets)
		}
	}
	now := start.Add(3 * maxTickets * time.Second)
	if s.find(fmt.Sprintf("kafka-%d:9092", 3*maxTickets-1), now) == nil {
		t.Error("the newest ticket is gone")
	}
	if s.find("kafka-0:9092", now) != nil {
		t.Error("the oldest ticket is still there")
	}
}

func TestTicketsExpire(t *testing.T) {
	var s tickets
	now := time.Unix(1_000_000, 0)
	s.add(tunnel.Ticket{Address: "kafka-0:9092", Expires: now.Unix() + 10}, now)
	if s.find("kafka-0:9092", now.Add(9*time.Second)) == nil {
		t.Error("the ticket is gone before it expires")
	}
	if s.find("kafka-0:9092", now.Add(10*time.Second)) != nil {
		t.Error("the ticket is used after it has expired")
	}
}

// A stream may learn late that its ticket was refused.
func TestARefusalDropsOnlyTheTicketsOfItsTime(t *testing.T) {
	var s tickets
	now := time.Unix(1_000_000, 0)
	ticket := func(address, mac string) tunnel.Ticket {
		return tunnel.Ticket{Address: address, MAC: []byte(mac), Expires: now.Unix() + 10}
	}
	s.add(ticket("kafka-0:9092", "old"), now)
	s.add(ticket("kafka-1:9092", "old"), now)
	s.refused(ticket("kafka-0:9092", "old"))
	if s.find("kafka-0:9092", now) != nil || s.find("kafka-1:9092", now) != nil {
		t.Error("a ticket with the key of a refused one is still there")
	}
	s.add(ticket("kafka-0:9092", "new"), now)
	s.refused(ticket("kafka-0:9092", "old"))
	if s.find("kafka-0:9092", now) == nil {
		t.Error("the refusal of an old ticket has dropped a new one")
	}
}
