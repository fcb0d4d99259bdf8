package runtime

import (
	"context"
	"slices"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/proving"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// endOfTest is who cancels a test that stands longer than its time to live.
const endOfTest = "the end of the test's time"

// timedOut reports whether a test was cancelled because its time was over before
// it came to its end.
func timedOut(st *state.State) bool {
	return st.Status == report.RunCancelled && st.Type == recovery.Test &&
		slices.ContainsFunc(st.Notes, func(n report.Note) bool { return n.Text == "cancelled by "+endOfTest })
}

// reasonOf says why a run stands where it stands.
func reasonOf(st *state.State) string {
	if timedOut(st) {
		return "its time was over before it came to its end; it is cleaned up"
	}
	return st.Reason
}

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
		if h.Plan != plan || h.Type != recovery.Test || h.Kind != report.KindFailover || h.Direction == program.Failback || !h.Status.Ended() {
			continue
		}
		st, err := e.peek(ctx, h.ID)
		if err != nil {
			return nil, err
		}
		if h.Status == report.RunCancelled && !timedOut(st) {
			continue
		}
		if st.Run.Bundle == "" { // of single machines, under the name of one
			continue
		}
		src, err := e.sources(ctx, st.Run)
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
