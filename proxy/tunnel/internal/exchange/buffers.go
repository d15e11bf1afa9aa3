package exchange

import (
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// ChunkSize is the most that one Write should carry, in bytes, unless it is of a [Bulk].
	ChunkSize = 64 << 10

	// BulkSize is the size of a [Bulk] in bytes. Over ws, pieces of that size take a tenth less CPU
	// time than those of ChunkSize: there are fewer system calls.
	BulkSize = 256 << 10

	// maxBulk is how many buffers for bulk there are at most, 16 MiB in all. Without a bound, the
	// peers of thousands of streams could fill memory by not reading.
	maxBulk = 64

	// Headroom is the space in front of the bytes of a Write, for the header of a WebSocket frame
	// or an HTTP/3 frame. With it, header and payload leave in one write without a copy.
	Headroom = 14

	// bufferSize holds a chunk with its headers.
	bufferSize = Headroom + MaxTypeLength + ChunkSize

	// idleSize is the buffer of an idle POST, which waits for its next byte.
	idleSize = 512

	// smallSize holds what an idle stream sends, and most Kafka requests.
	smallSize = 2 << 10

	// wireSize holds a frame of ChunkSize with all headers, in TLS records of 16 KiB with 22 bytes
	// of overhead each, plus some small frames. bulkSize does so for one of BulkSize.
	wireSize = bufferSize + 2<<10
	bulkSize = Headroom + MaxTypeLength + BulkSize + 2<<10
)

var (
	buffers  = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}
	small    = sync.Pool{New: func() any { b := make([]byte, smallSize); return &b }}
	wirePool = sync.Pool{New: func() any { b := make([]byte, wireSize); return &b }}
)

// Buffer returns a buffer of at least n bytes from a pool; n must not exceed [Headroom] +
// [MaxTypeLength] + [ChunkSize]. The caller gives it back with [Release].
func Buffer(n int) *[]byte {
	if n <= smallSize {
		return small.Get().(*[]byte)
	}
	return buffers.Get().(*[]byte)
}

// Release gives back a buffer. The caller must not use it any more.
func Release(b *[]byte) {
	switch len(*b) {
	case smallSize:
		small.Put(b)
	case bufferSize:
		buffers.Put(b)
	case wireSize:
		wirePool.Put(b)
	case bulkSize:
		bulk.free.Put(b)
	}
}

// bulk are the buffers for streams that carry much.
var bulk bulkBuffers

// bulkBuffers is a pool that never has more than maxBulk buffers, in use or not. Those that are
// neither given back nor used are collected as garbage, and so make room for others.
type bulkBuffers struct {
	free  sync.Pool
	exist atomic.Int64
}

// get returns a buffer of bulkSize, which [Release] takes back, or nil if there are enough.
func (p *bulkBuffers) get() *[]byte {
	if b, ok := p.free.Get().(*[]byte); ok {
		return b
	}
	if p.exist.Add(1) > maxBulk {
		p.exist.Add(-1)
		return nil
	}
	b := make([]byte, bulkSize)
	runtime.AddCleanup(&b, func(exist *atomic.Int64) { exist.Add(-1) }, &p.exist)
	return &b
}

// A Bulk is a large buffer with room for headers in front.
type Bulk struct{ buf *[]byte }

// NewBulk returns a Bulk, or false if there are enough of them. The caller gives it back with
// Release.
func NewBulk() (Bulk, bool) {
	b := bulk.get()
	return Bulk{b}, b != nil
}

// bulkRoom is the space in front of the bytes of a Bulk.
const bulkRoom = Headroom + MaxTypeLength

// Bytes are the bytes that the Bulk is for, [BulkSize] of them.
func (b Bulk) Bytes() []byte { return (*b.buf)[bulkRoom:][:BulkSize] }

// Frame puts a header in front of the first n bytes, and returns what Write sends as both.
func (b Bulk) Frame(head []byte, n int) []byte {
	at := bulkRoom - len(head)
	copy((*b.buf)[at:], head)
	return (*b.buf)[at-Headroom : bulkRoom+n]
}

// Release gives back the buffer.
func (b Bulk) Release() { Release(b.buf) }
