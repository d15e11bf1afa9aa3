package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// readSize is how much the broker and the load read at a time. It is large, so that they are not
// what the bench measures.
const readSize = 256 << 10

// grownFor returns a reader with a large buffer if the frame is larger than the one of r.
// Connections that are idle keep the small one: there can be 10,000.
func grownFor(frame int, r *bufio.Reader) *bufio.Reader {
	if frame <= r.Size() {
		return r
	}
	return bufio.NewReaderSize(r, readSize)
}

// cluster is what the brokers share.
type cluster struct {
	listeners []net.Listener

	mu      sync.Mutex
	fetches map[fetchKind]*fetched
}

// broker does not store records. It acknowledges Produce, and answers Fetch with the same records
// each time.
type broker struct {
	*cluster
	produced []byte // for the one partition that this broker leads
}

// runBroker runs all brokers in one process.
func runBroker(out io.Writer, args []string) error {
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	listen := listenFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	listeners, err := listen.all(brokerCount)
	if err != nil {
		return err
	}
	c := &cluster{listeners: listeners, fetches: map[fetchKind]*fetched{}}
	announce(out, listeners)
	var over sync.WaitGroup
	for id, ln := range listeners {
		b := &broker{c, produceResponse(int32(id))}
		over.Go(func() { acceptAll(ln, b.serve) })
	}
	over.Wait()
	return nil
}

// listen is where a part listens, and how its connections behave.
type listen struct {
	host  string
	cubic bool
}

func listenFlags(flags *flag.FlagSet) *listen {
	l := new(listen)
	flags.StringVar(&l.host, "host", loopback, "where to listen")
	flags.BoolVar(&l.cubic, "cubic", false, "have TCP be what most of it is")
	return l
}

// all opens n listeners.
func (l *listen) all(n int) (listeners []net.Listener, err error) {
	config := net.ListenConfig{}
	if l.cubic {
		config.Control = cubic
	}
	for range n {
		ln, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(l.host, "0"))
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// acceptAll serves until the listener ends. The process ends its connections.
func acceptAll(ln net.Listener, serve func(net.Conn) error) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}

// serve answers the requests of one connection.
func (b *broker) serve(c net.Conn) error {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		head, err := r.Peek(requestHead)
		if err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(head)) + 4
		key, version := kmsg.Key(binary.BigEndian.Uint16(head[4:])), int16(binary.BigEndian.Uint16(head[6:]))
		id := binary.BigEndian.Uint32(head[requestID:])
		r = grownFor(size, r)
		if err := b.answer(c, r, key, version, size, id); err != nil {
			return err
		}
	}
}

// answer reads the request of size bytes and writes the response to it.
func (b *broker) answer(c net.Conn, r *bufio.Reader, key kmsg.Key, version int16, size int, id uint32) error {
	if key == kmsg.Fetch {
		return b.fetch(c, r, version, size, id)
	}
	if _, err := r.Discard(size); err != nil {
		return err
	}
	switch {
	case key == kmsg.Produce && version == produceVersion:
		return writeFrame(c, b.produced, responseID, id)
	case key == kmsg.Metadata && version <= metadataVersion:
		return writeFrame(c, b.metadata(version), responseID, id)
	case key == kmsg.ApiVersions && version <= apiVersionsVersion:
		return writeFrame(c, apiVersionsResponse(version), responseID, id)
	}
	return fmt.Errorf("request of %s v%d", key.Name(), version)
}

// fetchKind is the difference between Fetch responses, except for their first offset.
type fetchKind struct {
	version     int16
	first       int32 // partition
	partitions  int
	bytesOfEach int32
}

// fetched is a Fetch response that is sent many times.
type fetched struct {
	frame  []byte
	offset int // of the first batch's first offset in frame; no checksum covers it
}

func (b *broker) fetch(c net.Conn, r *bufio.Reader, version int16, size int, id uint32) error {
	frame := make([]byte, size)
	if _, err := io.ReadFull(r, frame); err != nil {
		return err
	}
	q, err := readFetchRequest(version, frame)
	if err != nil {
		return err
	}
	ps := q.Topics[0].Partitions
	f := b.fetched(fetchKind{version, ps[0].Partition, len(ps), min(ps[0].PartitionMaxBytes, partition)})
	head := binary.BigEndian.AppendUint32(slices.Clone(f.frame[:responseID]), id)
	offset := binary.BigEndian.AppendUint64(nil, uint64(ps[0].FetchOffset))
	parts := net.Buffers{head, f.frame[responseHead:f.offset], offset, f.frame[f.offset+len(offset):]}
	_, err = parts.WriteTo(c)
	return err
}

func (c *cluster) fetched(kind fetchKind) *fetched {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fetches[kind] == nil {
		c.fetches[kind] = fetchResponse(kind)
	}
	return c.fetches[kind]
}

func (c *cluster) metadata(version int16) []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version, r.ClusterID = version, new("bench")
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID = new(topic), topicID
	for id, ln := range c.listeners {
		n := kmsg.NewMetadataResponseBroker()
		at := ln.Addr().(*net.TCPAddr)
		n.NodeID, n.Host, n.Port = int32(id), at.IP.String(), int32(at.Port)
		r.Brokers = append(r.Brokers, n)
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.Leader, p.Replicas, p.ISR = int32(id), int32(id), []int32{int32(id)}, []int32{int32(id)}
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return responseFrame(r)
}

// writeFrame writes a frame that connections share, with its own correlation id, in one system
// call.
func writeFrame(c net.Conn, frame []byte, at int, id uint32) error {
	head := binary.BigEndian.AppendUint32(append(make([]byte, 0, requestHead), frame[:at]...), id)
	parts := net.Buffers{head, frame[len(head):]}
	_, err := parts.WriteTo(c)
	return err
}
