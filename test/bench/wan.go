package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
)

const loopback = "127.0.0.1"

// wan is a network between agents and gateways. Load and agents are on its client side; brokers and
// gateways are on its server side. Nil is loopback.
type wan struct {
	net  *netns.Network
	link netns.Link
}

// veth is a link that is as fast as the machine. Unlike loopback it has an MTU of 1500, so that the
// kernel cuts and joins packets.
const veth = "veth"

// parseWAN parses a link, such as veth or delay=25ms,loss=0.5%,rate=12500000.
func parseWAN(s string) (l netns.Link, err error) {
	if s == veth {
		return l, nil
	}
	for field := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "delay":
			l.Delay, err = time.ParseDuration(value)
		case "loss":
			l.Loss, err = strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
			if strings.HasSuffix(value, "%") {
				l.Loss /= 100
			}
		case "rate":
			l.Rate, err = strconv.Atoi(value)
		case "queue":
			l.Queue, err = strconv.Atoi(value)
		case "seed":
			l.Seed, err = strconv.ParseUint(value, 10, 64)
		default:
			return l, fmt.Errorf("-wan: %q is not one of delay (each way), loss (each way), rate (bytes a second), queue (bytes), seed", name)
		}
		if err != nil {
			return l, fmt.Errorf("-wan: %w", err)
		}
	}
	return l, nil
}

// describe says in words what the value of -wan is.
func describe(link string) string {
	l, err := parseWAN(link)
	switch {
	case link == "":
		return "loopback"
	case link == veth || err != nil:
		return link
	}
	words := []string{fmt.Sprintf("round trip %v", 2*l.Delay)}
	if l.Rate > 0 {
		words = append(words, fmt.Sprintf("%g Mbit/s", float64(l.Rate)*8/1e6))
	}
	if l.Loss > 0 {
		words = append(words, fmt.Sprintf("%g %% lost each way", l.Loss*100))
	}
	return strings.Join(words, ", ")
}

func newWAN(l netns.Link) (*wan, error) {
	n, err := netns.New(l)
	if err != nil {
		return nil, err
	}
	return &wan{n, l}, nil
}

// emulated reports whether the link is one that makes packets wait or lose their way.
func (w *wan) emulated() bool { return w != nil && w.link != netns.Link{} }

func (w *wan) close() {
	if w != nil {
		w.net.Close()
	}
}

func (w *wan) client() *netns.Namespace {
	if w == nil {
		return nil
	}
	return w.net.Client
}

func (w *wan) server() *netns.Namespace {
	if w == nil {
		return nil
	}
	return w.net.Server
}

// host returns the address on which the parts of a side listen.
func (w *wan) host(at *netns.Namespace) string {
	if w != nil && at == w.net.Server {
		return netns.ServerIP
	}
	return loopback
}

// listen returns the listen flags of a part of the bench. On a network its TCP uses CUBIC, the
// usual default; culvert chooses by itself.
func (w *wan) listen(at *netns.Namespace) []string {
	if w == nil {
		return nil
	}
	return []string{"-host", w.host(at), "-cubic"}
}

// dialContext dials from where the load runs.
func (w *wan) dialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	var d net.Dialer
	if w != nil {
		d.Control = cubic
	}
	err = w.client().Do(func() error {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}
