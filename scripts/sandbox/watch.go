package sandbox

import (
	"runtime"
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
// on strings counts what it makes. Garbage does not count, as far as there is
// time to find out.
func (b *Box) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			base := b.start.Load()
			over := func(limit uint64) bool {
				h := heap()
				return base != 0 && h > base && h-base > limit && b.start.Load() == base
			}
			if !over(b.limits.Heap) {
				continue
			}
			if !over(2 * b.limits.Heap) {
				runtime.GC()
			}
			if over(b.limits.Heap) {
				b.cancel(ErrMemory)
				return
			}
		}
	}
}
