package source

import (
	"context"
	"sync"
	"time"

	"github.com/drrun/drrun/agent/hrl"
)

// limits are what a cycle may take; tests set smaller ones.
type limits struct {
	segment int64 // stored bytes reserved for an open segment
	full    int64 // stored bytes at which a segment is closed: one more run and the index still fit
	spool   int64 // bytes spooled before the scan waits for the target
	// much is the number of changed bytes from which a cycle sends ahead
	// before the machine is held still.
	much int64
	// long is how long a pass ahead takes before another one is worth it.
	long time.Duration
}

var defaultLimits = limits{
	segment: hrl.SegmentBytes, full: hrl.SegmentBytes - 8<<20, spool: 3 * hrl.SegmentBytes,
	much: 64 << 20, long: 10 * time.Second,
}

// budget bounds the spooled bytes of a machine.
type budget struct {
	mu    sync.Mutex
	used  int64
	limit int64
	freed chan struct{} // closed and replaced when bytes are given back
}

func newBudget(limit int64) *budget { return &budget{limit: limit, freed: make(chan struct{})} }

// wait takes n bytes as soon as they fit; into an empty spool anything fits.
func (b *budget) wait(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		freed := b.freed
		if b.used == 0 || b.used+n <= b.limit {
			b.used += n
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add takes n bytes (or gives back -n) and reports whether the spool is still
// within its limit.
func (b *budget) add(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	if n < 0 {
		b.wake()
	}
	return b.used <= b.limit
}

func (b *budget) set(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = n
	b.wake()
}

func (b *budget) wake() {
	close(b.freed)
	b.freed = make(chan struct{})
}
