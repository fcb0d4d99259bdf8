package sandbox

import (
	"runtime/metrics"
	"time"
)

const (
	heapMetric = "/memory/classes/heap/objects:bytes"
	watchEvery = 10 * time.Millisecond
)

func heap() uint64 {
	s := []metrics.Sample{{Name: heapMetric}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// watch ends the state when the heap of the process has grown by more than the
// limit since it began. It is the second net: the first is that every operation
// on strings counts what it makes.
func (b *Box) watch() {
	start := heap()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			if h := heap(); h > start && h-start > b.limits.Heap {
				b.cancel(ErrMemory)
				return
			}
		}
	}
}
