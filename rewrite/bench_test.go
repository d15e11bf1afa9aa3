package rewrite

import (
	"io"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BenchmarkRelay relays healthy responses; bare is io.Copy through a buffer of the same size.
func BenchmarkRelay(b *testing.B) {
	produce := kmsg.NewPtrProduceResponse()
	produce.Version = 12
	for _, bb := range []struct {
		name    string
		key     protocol.APIKey
		version int16
		frame   []byte
	}{
		{"Fetch 40 MiB in 40 partitions", protocol.Fetch, 17, fetchOf(40, 1<<20)},
		{"Fetch 5000 empty partitions", protocol.Fetch, 17, fetchOf(5000, 0)},
		{"Fetch 40 MiB v15, not walked", protocol.Fetch, 15, fetchOf(40, 1<<20)},
		{"Produce", protocol.Produce, 12, frameOf(produce)},
		{"Metadata 3 brokers", protocol.Metadata, 12, frameOf(metadataOf(12, 3))},
		{"Metadata 10000 brokers", protocol.Metadata, 12, frameOf(metadataOf(12, 10_000))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.frame)))
			b.ReportAllocs()
			f := protocol.NewFlow(&repeat{b: bb.frame}, io.Discard)
			w := &Rewriter{Directory: loopback}
			for b.Loop() {
				if _, err := w.Relay(f, bb.key, bb.version, int64(len(bb.frame))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("bare 40 MiB", func(b *testing.B) {
		frame := fetchOf(40, 1<<20)
		b.SetBytes(int64(len(frame)))
		b.ReportAllocs()
		src, buf := &repeat{b: frame}, make([]byte, 64<<10)
		for b.Loop() {
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(src, int64(len(frame))), buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPass passes responses whose errors are read; bare passes them unread.
func BenchmarkPass(b *testing.B) {
	produce := kmsg.NewPtrProduceResponse()
	produce.Version = 9
	produce.Topics = []kmsg.ProduceResponseTopic{{Topic: "orders", Partitions: make([]kmsg.ProduceResponseTopicPartition, 1)}}
	fetch := kmsg.NewPtrFetchResponse()
	fetch.Version = 12
	fetch.Topics = []kmsg.FetchResponseTopic{{Topic: "orders", Partitions: []kmsg.FetchResponseTopicPartition{{RecordBatches: make([]byte, 1<<10)}}}}
	metadata := metadataOf(12, 3)
	metadata.Topics = make([]kmsg.MetadataResponseTopic, 10)
	for i := range metadata.Topics {
		metadata.Topics[i].Partitions = make([]kmsg.MetadataResponseTopicPartition, 6)
	}
	for name, r := range map[string]kmsg.Response{
		"Produce of 1 partition": produce, "Fetch of 1 KiB": fetch, "Metadata of 60 partitions": metadata,
	} {
		for _, how := range []struct {
			name string
			pass func(*protocol.Flow, protocol.APIKey, int16, int64) (protocol.Outcome, error)
		}{{"read", Pass}, {"bare", func(f *protocol.Flow, _ protocol.APIKey, _ int16, size int64) (protocol.Outcome, error) {
			return protocol.Outcome{}, f.PassThrough(size)
		}}} {
			b.Run(name+"/"+how.name, func(b *testing.B) {
				frame := frameOf(r)
				b.ReportAllocs()
				f := protocol.NewFlow(&repeat{b: frame}, io.Discard)
				for b.Loop() {
					f.Peek(8, 8)
					if _, err := how.pass(f, protocol.APIKey(r.Key()), r.GetVersion(), int64(len(frame))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
