package main

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What the frames carry.
const (
	topic       = "bench"
	recordSize  = 1 << 10
	partition   = 1 << 20 // most of one partition in a Fetch response, Java's max.partition.fetch.bytes
	brokerCount = 3
)

// The versions that the load speaks, but for Fetch: what Apache Kafka 4 and its
// clients choose, so that leader hints are looked for.
const (
	apiVersionsVersion = 4
	metadataVersion    = 12
	produceVersion     = 11
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
func produceRequest(size int) []byte {
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = produceVersion, 1, 30_000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = batch(size)
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return requestFrame(r)
}

// fetchRequest returns a Fetch request that the broker answers with about size
// bytes.
func fetchRequest(version int16, size int) []byte {
	r := kmsg.NewPtrFetchRequest()
	r.Version, r.MaxWaitMillis, r.MinBytes, r.MaxBytes = version, 500, 1, int32(size)
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, topicID
	for i := range partitions(size) {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes = int32(i), partition
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return requestFrame(r)
}

// fetchResponse answers a Fetch request with about size bytes of records.
func fetchResponse(version int16, size int) []byte {
	r := kmsg.NewPtrFetchResponse()
	r.Version = version
	t := kmsg.NewFetchResponseTopic()
	t.Topic, t.TopicID = topic, topicID
	for i := range partitions(size) {
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition = int32(i)
		p.RecordBatches = batch(min(size, partition))
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return responseFrame(r)
}

func partitions(size int) int { return max(1, size/partition) }

// batch returns a record batch of size bytes and a little more, with as many
// records of recordSize as fit, and one at least.
func batch(size int) []byte {
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
