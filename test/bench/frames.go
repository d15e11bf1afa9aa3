package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The records in the frames.
const (
	topic       = "bench"
	recordSize  = 1 << 10
	smallRecord = 100
	partition   = 1 << 20 // most of one partition in a Fetch response, Java's max.partition.fetch.bytes
	brokerCount = 3
)

// The newest versions that the brokers support. Their responses can have leader hints, which
// culvert looks for.
const (
	apiVersionsVersion = 5
	metadataVersion    = 12
	produceVersion     = 11
	fetchVersion       = 17
)

var topicID = [16]byte{0xbe, 0x4c, 15: 1}

var formatter = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench"))

// requestFrame returns a request with its length and header.
func requestFrame(r kmsg.Request) []byte { return formatter.AppendRequest(nil, r, 0) }

// Offsets in every frame; the correlation id is set when a frame is sent.
const (
	requestID    = 4 + 2 + 2
	responseID   = 4
	requestHead  = requestID + 4
	responseHead = responseID + 4
)

// responseFrame returns a response with its length and header.
func responseFrame(r kmsg.Response) []byte {
	b := make([]byte, responseHead)
	if r.IsFlexible() && r.Key() != kmsg.ApiVersions.Int16() {
		b = append(b, 0) // no tagged fields in the header
	}
	b = r.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func apiVersionsRequest() []byte {
	r := kmsg.NewPtrApiVersionsRequest()
	r.Version, r.ClientSoftwareName, r.ClientSoftwareVersion = apiVersionsVersion, "bench", "1"
	return requestFrame(r)
}

func metadataRequest() []byte {
	r := kmsg.NewPtrMetadataRequest()
	r.Version = metadataVersion
	return requestFrame(r)
}

// produceRequest returns a Produce request of one batch of about size bytes.
func produceRequest(size int) []byte { return produceOf(batch(size, recordSize)) }

func produceOf(records []byte) []byte {
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = produceVersion, 1, 30_000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = records
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return requestFrame(r)
}

// fetchRequest returns a Fetch request for at most size bytes, from as many partitions as that
// needs.
func fetchRequest(version int16, size int) []byte {
	r := kmsg.NewPtrFetchRequest()
	r.Version, r.MaxWaitMillis, r.MinBytes, r.MaxBytes = version, 500, 1, int32(size)
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, topicID
	for i := range max(1, size/partition) {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes = int32(i), int32(min(size, partition))
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return requestFrame(r)
}

// readFetchRequest decodes a Fetch request for one topic.
func readFetchRequest(version int16, frame []byte) (*kmsg.FetchRequest, error) {
	r := kmsg.NewPtrFetchRequest()
	r.Version = version
	const clientID = 2
	if len(frame) < requestHead+clientID {
		return nil, errors.New("Fetch request without a header")
	}
	body := frame[requestHead:]
	skip := clientID + max(0, int(int16(binary.BigEndian.Uint16(body))))
	if r.IsFlexible() {
		skip++ // no tagged fields in the header
	}
	if err := r.ReadFrom(body[min(len(body), skip):]); err != nil {
		return nil, err
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) == 0 {
		return nil, errors.New("Fetch request of other than one topic")
	}
	return r, nil
}

// fetchResponse returns as much as a Fetch request asks for.
func fetchResponse(kind fetchKind) *fetched {
	r := kmsg.NewPtrFetchResponse()
	r.Version = kind.version
	t := kmsg.NewFetchResponseTopic()
	t.Topic, t.TopicID = topic, topicID
	records := batch(int(kind.bytesOfEach), recordSize)
	for i := range kind.partitions {
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.HighWatermark, p.LastStableOffset = kind.first+int32(i), math.MaxInt64, math.MaxInt64
		p.RecordBatches = records
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	frame := responseFrame(r)
	return &fetched{frame, bytes.Index(frame, records)}
}

func produceResponse(partition int32) []byte {
	r := kmsg.NewPtrProduceResponse()
	r.Version = produceVersion
	p := kmsg.NewProduceResponseTopicPartition()
	p.Partition = partition
	t := kmsg.NewProduceResponseTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return responseFrame(r)
}

func apiVersionsResponse(version int16) []byte {
	r := kmsg.NewPtrApiVersionsResponse()
	r.Version = version
	for key, newest := range map[kmsg.Key]int16{kmsg.Produce: produceVersion, kmsg.Fetch: fetchVersion, kmsg.Metadata: metadataVersion, kmsg.ApiVersions: apiVersionsVersion} {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MaxVersion = key.Int16(), newest
		r.ApiKeys = append(r.ApiKeys, k)
	}
	return responseFrame(r)
}

// batch returns a record batch of slightly more than size bytes, with as many records of recordSize
// as fit, but at least one.
func batch(size, recordSize int) []byte {
	n := max(1, size/recordSize)
	b := kmsg.RecordBatch{Magic: 2, LastOffsetDelta: int32(n - 1), ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(n)}
	value := make([]byte, recordSize)
	for i := range n {
		r := kmsg.Record{OffsetDelta: int32(i), Value: value}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // a length of 0 is one byte long
		b.Records = r.AppendTo(b.Records)
	}
	const length, crc, crcEnd = 8 + 4, 17, 21 // KIP-98
	b.Length = int32(len(b.AppendTo(nil)) - length)
	out := b.AppendTo(nil)
	sum := crc32.Checksum(out[crcEnd:], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(out[crc:], sum)
	return out
}
