package runtime

import (
	"context"
	"slices"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/proving"
	"github.com/drrun/drrun/runtime/report"
)

// Tests returns the newest tests of a plan that have ended, at most so many, the
// newest last. Tests of its failback say nothing of the failover, and those that a
// person or a real failover cancelled say nothing at all: they are left out.
func (e *Engine) Tests(ctx context.Context, plan string, most int) ([]proving.Test, error) {
	heads, err := e.heads(ctx)
	if err != nil {
		return nil, err
	}
	var out []proving.Test
	for _, h := range slices.Backward(heads) {
		if h.Plan != plan || h.Type != recovery.Test || h.Kind != report.KindFailover || h.Direction == program.Failback || !h.Status.Ended() || h.Status == report.RunCancelled {
			continue
		}
		st, err := e.peek(ctx, h.ID)
		if err != nil {
			return nil, err
		}
		if st.Run.Bundle == "" { // of single machines, under the name of one
			continue
		}
		src, err := e.sources(ctx, &st.Run)
		if err != nil {
			return nil, err
		}
		if out = append(out, proving.Test{Run: snapshot(st, nil, false), Hash: src.bundle.Hash(), Estate: src.estate}); len(out) == most {
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}
