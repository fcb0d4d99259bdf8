package replica

import (
	"context"
	"sync"

	"github.com/drrun/drrun/internal/fault"
)

// ErrPreempted ends a Verify, PrepareTest or Thin, or the reading of a disk for
// its table, when a step of a run, a change of the hold or the end of the agent
// needs the heads; errors.Is finds it. It can be asked for again.
var ErrPreempted = fault.Errorf(fault.Stopped, "something more urgent takes its place").WithHint("ask again later")

// priority says whether an operation may be ended for a real failover.
type priority int

const (
	yielding priority = iota // ended by an urgent one
	normal                   // waited for
	urgent                   // ends a yielding one
)

// workLock lets one operation at the heads run at a time.
type workLock struct {
	sem chan struct{}

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the yielding operation that runs
	urgent int                     // urgent operations that wait
}

// take waits for the lock; the returned context is what the operation runs
// under, done gives the lock back.
func (w *workLock) take(ctx context.Context, p priority) (context.Context, func(), error) {
	if p == urgent {
		w.mu.Lock()
		w.urgent++
		if w.cancel != nil {
			w.cancel(ErrPreempted)
		}
		w.mu.Unlock()
		defer func() { w.mu.Lock(); w.urgent--; w.mu.Unlock() }()
	}
	select {
	case w.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if p != yielding {
		return ctx, func() { <-w.sem }, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	w.cancel = cancel
	if w.urgent > 0 {
		cancel(ErrPreempted)
	}
	w.mu.Unlock()
	return ctx, func() {
		w.mu.Lock()
		w.cancel = nil
		w.mu.Unlock()
		cancel(nil)
		<-w.sem
	}, nil
}
