package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// readSize is how much the broker and the load read at a time. They shall not
// be what is measured.
const readSize = 256 << 10

// broker is a cluster of brokers that do nothing with records: Produce is
// acknowledged, Fetch gets the same response each time.
type broker struct {
	listeners []net.Listener
	metadata  []byte
	produce   []byte
	versions  []byte

	mu      sync.Mutex
	fetches map[fetchKind][]byte
}

// fetchKind is what a Fetch request asks for.
type fetchKind struct {
	version int16
	size    int
}

// runBroker is the process of the brokers.
func runBroker(out io.Writer, _ []string) error {
	listeners, err := listenAll(brokerCount)
	if err != nil {
		return err
	}
	b := &broker{listeners: listeners, fetches: map[fetchKind][]byte{}}
	b.metadata = b.metadataResponse()
	b.produce = produceResponse()
	b.versions = apiVersionsResponse()
	sayReady(out, listeners)
	var over sync.WaitGroup
	for _, ln := range listeners {
		over.Go(func() { acceptAll(ln, b.serve) })
	}
	over.Wait()
	return nil
}

// listenAll listens on n ports of loopback.
func listenAll(n int) (listeners []net.Listener, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
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
	r := bufio.NewReaderSize(c, readSize)
	for {
		head, err := r.Peek(requestHead)
		if err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(head)) + 4
		key, version := kmsg.Key(binary.BigEndian.Uint16(head[4:])), int16(binary.BigEndian.Uint16(head[6:]))
		id := binary.BigEndian.Uint32(head[requestID:])
		response, err := b.answer(r, key, version, size)
		if err != nil {
			return err
		}
		if err := writeFrame(c, response, responseID, id); err != nil {
			return err
		}
	}
}

// answer reads the request of size bytes and returns the response to it.
func (b *broker) answer(r *bufio.Reader, key kmsg.Key, version int16, size int) ([]byte, error) {
	if key == kmsg.Fetch {
		return b.fetch(r, version, size)
	}
	if _, err := r.Discard(size); err != nil {
		return nil, err
	}
	switch {
	case key == kmsg.Produce && version == produceVersion:
		return b.produce, nil
	case key == kmsg.Metadata && version == metadataVersion:
		return b.metadata, nil
	case key == kmsg.ApiVersions && version == apiVersionsVersion:
		return b.versions, nil
	}
	return nil, fmt.Errorf("request of %s v%d", key.Name(), version)
}

func (b *broker) fetch(r *bufio.Reader, version int16, size int) ([]byte, error) {
	frame := make([]byte, size)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	q := kmsg.NewPtrFetchRequest()
	q.Version = version
	body := frame[requestHead:]
	body = body[min(len(body), 2+len("bench")):] // client id
	if q.IsFlexible() {
		body = body[min(len(body), 1):] // no tagged fields in the header
	}
	if err := q.ReadFrom(body); err != nil {
		return nil, err
	}
	if q.MaxBytes > 256<<20 {
		return nil, errors.New("fetch of more than is sensible")
	}
	kind := fetchKind{version, int(q.MaxBytes)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fetches[kind] == nil {
		b.fetches[kind] = fetchResponse(kind.version, kind.size)
	}
	return b.fetches[kind], nil
}

func (b *broker) metadataResponse() []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version, r.ClusterID = metadataVersion, kmsg.StringPtr("bench")
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID = kmsg.StringPtr(topic), topicID
	for id, ln := range b.listeners {
		n := kmsg.NewMetadataResponseBroker()
		n.NodeID, n.Host, n.Port = int32(id), "127.0.0.1", int32(ln.Addr().(*net.TCPAddr).Port)
		r.Brokers = append(r.Brokers, n)
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.Leader, p.Replicas, p.ISR = int32(id), int32(id), []int32{int32(id)}, []int32{int32(id)}
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return responseFrame(r)
}

func produceResponse() []byte {
	r := kmsg.NewPtrProduceResponse()
	r.Version = produceVersion
	t := kmsg.NewProduceResponseTopic()
	t.Topic = topic
	t.Partitions = append(t.Partitions, kmsg.NewProduceResponseTopicPartition())
	r.Topics = append(r.Topics, t)
	return responseFrame(r)
}

func apiVersionsResponse() []byte {
	r := kmsg.NewPtrApiVersionsResponse()
	r.Version = apiVersionsVersion
	for key, newest := range map[kmsg.Key]int16{kmsg.Produce: produceVersion, kmsg.Fetch: 17, kmsg.Metadata: metadataVersion, kmsg.ApiVersions: apiVersionsVersion} {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MaxVersion = key.Int16(), newest
		r.ApiKeys = append(r.ApiKeys, k)
	}
	return responseFrame(r)
}

// writeFrame writes a frame that others write too, with a correlation id of its
// own, in one system call.
func writeFrame(c net.Conn, frame []byte, at int, id uint32) error {
	head := binary.BigEndian.AppendUint32(append(make([]byte, 0, requestHead), frame[:at]...), id)
	parts := net.Buffers{head, frame[len(head):]}
	_, err := parts.WriteTo(c)
	return err
}
