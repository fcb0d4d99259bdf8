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
// limit while its code ran, and the code holds a good part of that. It is the
// second net: the first is that every operation on strings counts what it makes.
// Garbage does not count.
func (b *Box) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var next uint64 // below it garbage is not worth a look
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		if b.start.Load() == 0 { // it waits for the world, maybe for hours
			tick.Stop()
			select {
			case <-b.ctx.Done():
				return
			case <-b.back:
			}
			tick.Reset(watchEvery)
			continue
		}
		if b.grown() <= b.limits.Heap || heap() < next {
			continue
		}
		runtime.GC() // what allocates is slowed down meanwhile
		if b.grown() > b.limits.Heap && b.guilty() {
			b.cancel(ErrMemory)
			return
		}
		next = heap() + b.limits.Heap/4
	}
}

// grown is by how much the heap has grown while the code ran; 0 when it does not
// run now. Garbage that others had left in it is not there for the code to use.
func (b *Box) grown() uint64 {
	base, h := b.start.Load(), heap()
	switch {
	case base == 0:
		return 0
	case h < base:
		b.start.CompareAndSwap(base, h)
		return 0
	}
	return h - base
}

// guilty decides about a state under which the heap has grown. One that holds
// little goes on, from the heap as it is now: others have grown, and end by
// themselves. One that does not say what it holds is ended when there is twice
// as much: its code may be in the middle of a long operation.
func (b *Box) guilty() bool {
	held, ok := b.own()
	switch base := b.start.Load(); {
	case !ok:
		return b.grown() > 2*b.limits.Heap
	case held >= b.limits.Heap/guilt:
		return true
	case base != 0: // if it went to the world meanwhile it begins anew when it is back
		b.start.CompareAndSwap(base, max(1, heap()-min(heap(), held)))
	}
	return false
}
