package runtime_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// TestReverseWithoutRoom: without room for the point "as found" a reverse stops
// before anything is overwritten; a person may give up what one machine has.
func TestReverseWithoutRoom(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].down = true
		id := r.start(runtime.Request{Machines: []string{"db1", "app1"}, Type: recovery.Unplanned, SourceIsDown: true, Commit: true})
		r.expect(id, report.RunCommitted)
		r.w.hosts["par-1"].down = false
		full := r.w.hosts["par-1"].machines["db1"]
		full.full = true

		req := runtime.ReverseRequest{Machines: []string{"db1", "app1"}, By: "ann", ID: "rev-1"}
		rev, err := r.engine.Reverse(t.Context(), req)
		r.must(err)
		run := r.expect(rev, report.RunStopped)
		if !strings.Contains(run.Hint+run.Errors[0].Error.Hint, "or discard it") || run.Errors[0].Error.Kind != fault.NoSpace {
			t.Errorf("it stopped with %+v, hint %q", run.Errors[0].Error, run.Hint)
		}
		if full.found || full.rec.Active != "lyon" || len(full.rec.Direction) > 0 {
			t.Errorf("the direction was turned without the point: %+v", full.rec)
		}
		r.must(r.engine.Cancel(t.Context(), rev, "ann"))
		r.expect(rev, report.RunCancelled)

		req.ID, req.Discard = "rev-2", []string{"app2"}
		if _, err := r.engine.Reverse(t.Context(), req); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "db1, app1") {
			t.Errorf("discard of a machine that is not reversed: %v", err)
		}
		r.w.trace = nil
		req.Discard = []string{"db1"}
		rev, err = r.engine.Reverse(t.Context(), req)
		r.must(err)
		run = r.expect(rev, report.RunDone)
		if got := r.w.effects(); !slices.Contains(got, "par-1 discard db1 by ann") || slices.Contains(got, "par-1 found db1") || slices.Contains(got, "par-1 discard app1 by ann") {
			t.Errorf("effects %q", got)
		}
		if s := run.Statements; len(s) != 1 || s[0].By != "ann" || s[0].What != "discard-diverged" || s[0].Text != "db1" {
			t.Errorf("statements %+v", s)
		}
		if f := run.Machines[0].Found; f == nil || !f.Discarded || f.Point != "" || f.Blocks != 2 {
			t.Errorf("db1: %+v", f)
		}
		noted := slices.ContainsFunc(run.Notes, func(n report.Note) bool {
			return strings.HasPrefix(n.Text, "db1: ") && strings.HasSuffix(n.Text, "discarded by ann")
		})
		if !noted {
			t.Errorf("notes %+v", run.Notes)
		}
	})
}
