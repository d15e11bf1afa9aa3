package tunnel

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/quicvarint"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// FeatureTimes in [Open.Features] asks the gateway for TIMES: see [Conn.OnTimes].
const FeatureTimes = "times"

// Times sums up how long things of one kind took.
type Times struct {
	Key   int16 // the kind; the tunnel does not interpret it
	Count uint64
	Sum   time.Duration
}

// Bounds of a TIMES, at both ends.
const (
	maxTimes     = 128           // kinds
	maxTimesSize = 20 * maxTimes // bytes: varints of at most 4, 8 and 8
	maxCount     = 1 << 20       // of one kind; a gateway tells at least once a second
	maxTook      = time.Hour     // on average; times maxCount that fits a varint
)

// timesOut is what the gateway's end of a stream has measured and not told yet.
type timesOut struct {
	wanted  bool // the agent has asked
	waiting atomic.Bool
	last    atomic.Int64 // exchange.Clock of the last TIMES, or of the start

	mu   sync.Mutex
	sums []Times // empty unless waiting
}

// AddTime tells the agent that something of the kind key took d, if it has asked for that. The sums
// since the last TIMES leave with the next Write if the last is half a second old, by a timer when
// it is one second old, and before FINAL_DATA or ERROR. AddTime does not block.
func (c *Conn) AddTime(key int16, d time.Duration) {
	if !c.times.wanted || c.writing.final.Load() {
		return
	}
	if c.times.add(key, min(max(d, 0), maxTook)) {
		now := exchange.Clock()
		if since := now - c.times.last.Load(); since < int64(c.t.times) {
			now -= since
		}
		c.tickBy(now + int64(c.t.times))
	}
}

// add adds to the sums, and reports whether there were none. Kinds beyond maxTimes are not counted.
func (o *timesOut) add(key int16, d time.Duration) (first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.sums, func(t Times) bool { return t.Key == key })
	if i < 0 {
		if len(o.sums) == maxTimes {
			return false
		}
		i = len(o.sums)
		o.sums = append(o.sums, Times{Key: key})
	}
	if t := &o.sums[i]; t.Count < maxCount {
		t.Count++
		t.Sum += d
	}
	return !o.waiting.Swap(true)
}

// due reports whether there is something to tell and the last TIMES is as old as that.
func (o *timesOut) due(age time.Duration) bool {
	return o.waiting.Load() && exchange.Clock()-o.last.Load() >= int64(age)
}

// take appends TIMES with the sums to b, and resets them.
func (o *timesOut) take(b []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	b = exchange.AppendTypeLength(b, uint64(capsuleTimes), uint64(sizeOf(o.sums)))
	for _, t := range o.sums {
		b = quicvarint.Append(quicvarint.Append(quicvarint.Append(b, uint64(uint16(t.Key))), t.Count), uint64(t.Sum))
	}
	o.sums = o.sums[:0]
	o.waiting.Store(false)
	o.last.Store(exchange.Clock())
	return b
}

// sizeOf returns the length of a TIMES' value.
func sizeOf(sums []Times) (n int) {
	for _, t := range sums {
		n += quicvarint.Len(uint64(uint16(t.Key))) + quicvarint.Len(t.Count) + quicvarint.Len(uint64(t.Sum))
	}
	return n
}

// timesRoom is the length of a whole TIMES at most.
const timesRoom = maxTimesSize + exchange.MaxTypeLength

// timesWith reports whether TIMES leaves together with a capsule of type t and n bytes: it must fit
// into the same buffer.
func (c *Conn) timesWith(t capsuleType, n int) bool {
	if n+timesRoom > exchange.ChunkSize {
		return false
	}
	last := t == capsuleFinalData || t == capsuleError
	return last && c.times.waiting.Load() || c.times.due(c.t.times/2)
}

// OnTimes sets the function that Read calls for all that a TIMES says. Without it they are skipped.
// A gateway sends them only if [Open.Features] has [FeatureTimes]. Call it before the first Read.
func (c *Conn) OnTimes(f func(Times)) { c.reading.onTimes = f }

// wantsTimes reports whether the TIMES that begins is to be read, and not skipped.
func (c *Conn) wantsTimes() bool {
	size := c.reading.dec.left + uint64(len(c.reading.dec.value))
	return c.reading.onTimes != nil && size <= maxTimesSize
}

// stepTimes reads the rest of a TIMES and passes it on. One that says what cannot be is ignored: a
// measurement is no reason to end a stream.
func (c *Conn) stepTimes() error {
	value, err := c.reading.dec.whole(c.x)
	if err != nil {
		return err
	}
	sums, ok := decodeTimes(value)
	if !ok {
		return nil
	}
	for _, t := range sums {
		c.reading.onTimes(t)
	}
	return nil
}

// decodeTimes decodes the value of a TIMES. ok is false if it is none, or beyond the bounds.
func decodeTimes(value []byte) (sums []Times, ok bool) {
	for len(value) > 0 {
		var numbers [3]uint64
		for i := range numbers {
			v, n, err := quicvarint.Parse(value)
			if err != nil {
				return nil, false
			}
			numbers[i], value = v, value[n:]
		}
		key, count, sum := numbers[0], numbers[1], numbers[2]
		if len(sums) == maxTimes || key > 1<<16-1 || count == 0 || count > maxCount || sum > count*uint64(maxTook) {
			return nil, false
		}
		sums = append(sums, Times{Key: int16(uint16(key)), Count: count, Sum: time.Duration(sum)})
	}
	return sums, true
}
