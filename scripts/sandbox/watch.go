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
// on strings counts what it makes. Garbage does not count.
func (b *Box) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			base := b.start.Load()
			if base == 0 { // it waits for the world, maybe for hours
				tick.Stop()
				select {
				case <-b.ctx.Done():
					return
				case <-b.back:
				}
				tick.Reset(watchEvery)
				continue
			}
			over := func() bool {
				h := heap()
				return h > base && h-base > b.limits.Heap && b.start.Load() == base
			}
			if !over() {
				continue
			}
			runtime.GC() // what allocates is slowed down meanwhile
			if over() {
				b.cancel(ErrMemory)
				return
			}
		}
	}
}
