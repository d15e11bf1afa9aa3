package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

const (
	connections = 4
	inFlight    = 5 // per connection, as Java's producer
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
	return &client{Conn: c, r: bufio.NewReaderSize(c, readSize)}, nil
}

func (c *client) send(frame []byte) error {
	c.sent++
	return writeFrame(c, frame, requestID, c.sent-1)
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
	return int(binary.BigEndian.Uint32(head)) + 4, nil
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

// stream is a load that keeps connections full of requests of one kind.
type stream struct {
	request []byte
	carried atomic.Int64 // bytes of requests and responses that are complete
	stop    atomic.Bool
}

// run runs the load, calls window while it runs, and then lets all requests in flight be answered.
func (s *stream) run(r *row, window func()) error {
	var g errgroup.Group
	for i := range connections {
		c, err := r.wan.dial(r.brokers[i%len(r.brokers)])
		if err != nil {
			s.stop.Store(true)
			return errors.Join(err, g.Wait())
		}
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		flying := make(chan struct{}, inFlight-1)
		g.Go(func() error { return s.sendAll(c, flying) })
		g.Go(func() error { return s.receiveAll(c, flying) })
	}
	window()
	s.stop.Store(true)
	return g.Wait()
}

func (s *stream) sendAll(c *client, flying chan<- struct{}) error {
	defer close(flying)
	for !s.stop.Load() {
		flying <- struct{}{}
		if err := c.send(s.request); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) receiveAll(c *client, flying <-chan struct{}) error {
	defer c.Close()
	for range flying {
		n, err := c.receive()
		if err != nil {
			for range flying { // unblocks the sender, which then sees the closed connection
				c.Close()
			}
			return err
		}
		s.carried.Add(int64(n + len(s.request)))
	}
	return nil
}

// roundTrips repeats one exchange for a while and returns how long each took, without the first
// ones.
func roundTrips(c *client, request []byte, d time.Duration, warm int) ([]time.Duration, error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(d + time.Minute))
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < d || len(took) < 2*warm; {
		t := time.Now()
		if err := c.exchange(request); err != nil {
			return nil, err
		}
		took = append(took, time.Since(t))
	}
	return took[warm:], nil
}

// quantile is the q-th of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// firstByte returns how long the header of a response took to arrive.
func (c *client) firstByte(request []byte) (time.Duration, error) {
	t := time.Now()
	if err := c.send(request); err != nil {
		return 0, err
	}
	size, err := c.begin()
	took := time.Since(t)
	if err != nil {
		return 0, err
	}
	_, err = c.r.Discard(size)
	return took, err
}
