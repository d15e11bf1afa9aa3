package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// client is a connection of the load to a broker.
type client struct {
	net.Conn
	r              *bufio.Reader
	sent, received uint32 // the next correlation ids
}

func (w *wan) dial(address string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := w.dialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{Conn: c, r: bufio.NewReader(c)}, nil
}

func (c *client) send(frame []byte) error {
	c.sent++
	return writeFrame(c.Conn, frame, requestID, c.sent-1) // given c, net.Buffers makes two writes
}

// begin reads a response's header and returns the size of the frame.
func (c *client) begin() (size int, err error) {
	head, err := c.r.Peek(responseHead)
	if err != nil {
		return 0, err
	}
	if id := binary.BigEndian.Uint32(head[responseID:]); id != c.received {
		return 0, fmt.Errorf("response with correlation id %d, want %d", id, c.received)
	}
	c.received++
	size = int(binary.BigEndian.Uint32(head)) + 4
	c.r = grownFor(size, c.r)
	return size, nil
}

// receive reads a whole response.
func (c *client) receive() (size int, err error) {
	if size, err = c.begin(); err != nil {
		return 0, err
	}
	return c.r.Discard(size)
}

func (c *client) exchange(frame []byte) error {
	if err := c.send(frame); err != nil {
		return err
	}
	_, err := c.receive()
	return err
}

// discover returns the brokers' addresses as a client learns them.
func (w *wan) discover(bootstrap string) ([]string, error) {
	c, err := w.dial(bootstrap)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := c.exchange(apiVersionsRequest()); err != nil {
		return nil, fmt.Errorf("ApiVersions: %w", err)
	}
	if err := c.send(metadataRequest()); err != nil {
		return nil, err
	}
	size, err := c.begin()
	if err != nil {
		return nil, fmt.Errorf("Metadata: %w", err)
	}
	frame, err := c.r.Peek(size)
	if err != nil {
		return nil, err
	}
	r := kmsg.NewPtrMetadataResponse()
	r.Version = metadataVersion
	if err := r.ReadFrom(frame[responseHead+1:]); err != nil {
		return nil, err
	}
	var addresses []string
	for _, b := range r.Brokers {
		addresses = append(addresses, fmt.Sprintf("%s:%d", b.Host, b.Port))
	}
	if len(addresses) != brokerCount {
		return nil, fmt.Errorf("Metadata names %d brokers, want %d", len(addresses), brokerCount)
	}
	return addresses, nil
}
