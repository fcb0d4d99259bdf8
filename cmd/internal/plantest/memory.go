package plantest

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a simulation may take, in bytes; a plan of 10,000 machines needs all of it.
// Garbage is collected seldom, as a simulation is over soon.
const (
	mostMemory = 500 << 20 // above it the collector works all the time
	fullMemory = 415 << 20 // above it, OneAfterTheOther calls it
	littleHeap = 64 << 20  // below it, it does not
	gcPercent  = 400       // of what is in use, before what is garbage is collected
	tendEvery  = 10 * time.Millisecond
)

// OneAfterTheOther suits a process that simulates one world at a time. In virtual
// time one goroutine runs after the other, and a second processor would be woken
// for each and find nothing, which makes a large simulation a quarter longer. It is
// there for the collector only, which is called here and not by itself.
func OneAfterTheOther() {
	procs := runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	go func() { // outside of every bubble
		for left := uint64(0); ; {
			for range time.Tick(tendEvery) {
				if due(left) {
					break
				}
			}
			runtime.GOMAXPROCS(procs)
			runtime.GC()
			runtime.GOMAXPROCS(1)
			left = memory()
		}
	}()
}

// due reports whether garbage is to be collected; left is what the last time has
// left of the heap.
func due(left uint64) bool {
	heap := memory()
	if heap < max(littleHeap, left+left/16) { // there is little to be had
		return false
	}
	return heap > left*gcPercent/100+littleHeap || inUse() > fullMemory
}

// memory is what objects of the heap take, garbage included: bytes.
func memory() uint64 { return metric("/memory/classes/heap/objects:bytes")[0] }

// inUse is what the process has from the system: bytes.
func inUse() uint64 {
	m := metric("/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes")
	return m[0] - m[1] - m[2]
}

func metric(names ...string) []uint64 {
	samples := make([]metrics.Sample, len(names))
	for i := range samples {
		samples[i].Name = names[i]
	}
	metrics.Read(samples)
	out := make([]uint64, len(names))
	for i := range samples {
		out[i] = samples[i].Value.Uint64()
	}
	return out
}
