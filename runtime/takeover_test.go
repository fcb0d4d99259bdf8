package runtime_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// TestCommitWithoutWhatMovedOn: of a run whose machines another run has moved in
// part, those that it still has are committed; nothing is done to the others.
func TestCommitWithoutWhatMovedOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Machines: []string{"db1", "app1"}, Type: recovery.Planned})
		r.expect(id, report.RunUncommitted)
		r.close()
		var fence ident.Fence
		r.w.set(func() {
			for _, h := range r.w.hosts {
				m := h.machines["app1"]
				m.rec, m.fence = recovery.Authority{Epoch: 9, Active: "lyon", Run: "other", Uncommitted: true}, m.fence+10
				fence = m.fence
			}
		})
		r.open()
		if err := r.engine.ChangePoint(t.Context(), id, "latest", "ann"); !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Hint(err), "drrun commit "+id) {
			t.Errorf("change of the point: %v (hint %s)", err, fault.Hint(err))
		}
		r.w.set(func() { r.w.faults["lyo-1 commit db1"] = 1 })
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.settle(id)
		r.close()
		r.open()
		if run, err := r.engine.Show(t.Context(), id); err != nil || !run.Status.Ended() { // the commit that stopped goes on
			r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		}
		run := r.expect(id, report.RunCommitted)
		noted(t, run, "machine app1 has moved on by run other: it stays out of the commit")
		for _, h := range r.w.hosts {
			if m := h.machines["db1"]; m.rec.Uncommitted || m.rec.Run != id {
				t.Errorf("db1 is not committed: %+v", m.rec)
			}
			if m := h.machines["app1"]; m.fence != fence || m.rec.Epoch != 9 || !m.rec.Uncommitted {
				t.Errorf("app1 was touched: %+v, fence %d", m.rec, m.fence)
			}
		}
	})
}

// TestRollbackWithoutWhatMovedOn: as above, for the way back.
func TestRollbackWithoutWhatMovedOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Machines: []string{"db1", "app1"}, Type: recovery.Planned})
		r.expect(id, report.RunUncommitted)
		r.close()
		r.w.set(func() {
			for _, h := range r.w.hosts {
				m := h.machines["app1"]
				m.rec, m.fence = recovery.Authority{Epoch: 9, Active: "lyon", Run: "other", Uncommitted: true}, m.fence+10
			}
		})
		r.open()
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		run := r.expect(id, report.RunRolledBack)
		noted(t, run, "machine app1 has moved on by run other: it stays out of the rollback")
		here, there := r.w.hosts["par-1"].machines, r.w.hosts["lyo-1"].machines
		if here["db1"].power != recovery.PowerRunning || there["db1"].power != recovery.PowerStopped || here["db1"].rec.Active != "paris" {
			t.Errorf("db1 is not back: %+v, %+v", here["db1"], there["db1"])
		}
		if here["app1"].rec.Epoch != 9 || there["app1"].power != recovery.PowerRunning || here["app1"].power != recovery.PowerStopped {
			t.Errorf("app1 was touched: %+v, %+v", here["app1"], there["app1"])
		}
	})
}

// TestSourceThatWasGivenBack: another run unlocks and starts a machine between
// the final delta of a planned run and its grant. The run does not go on with the
// point it has: what was written since is not in it.
func TestSourceThatWasGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 grant db1"] = -1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		m := r.w.hosts["par-1"].machines["db1"]
		r.w.set(func() {
			m.fence, m.locked, m.power = m.fence+10, false, recovery.PowerRunning
			r.w.faults["lyo-1 grant db1"] = 0
		})
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run := r.expect(id, report.RunStopped)
		if len(run.Errors) == 0 || !strings.Contains(run.Errors[len(run.Errors)-1].Error.Message, "would be lost") {
			t.Errorf("errors: %v", failures(run))
		}
		if rec := r.w.hosts["lyo-1"].machines["db1"].rec; rec.Epoch != 1 || m.power != recovery.PowerRunning {
			t.Errorf("lyo-1 holds %+v, par-1 is %s", rec, m.power)
		}
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.expect(id, report.RunCancelled)
	})
}

// TestGrantNeedsTheSource: of a silent source nobody knows whether another run
// has given its machine back: the new site is not granted. A person may state
// that the site is down.
func TestGrantNeedsTheSource(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 grant db1"] = -1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.w.set(func() { r.w.hosts["par-1"].down, r.w.faults["lyo-1 grant db1"] = true, 0 })
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run := r.expect(id, report.RunStopped)
		if rec := r.w.hosts["lyo-1"].machines["db1"].rec; rec.Epoch != 1 || !strings.Contains(run.Hint+fault.Hint(run.Errors[len(run.Errors)-1].Error), "--as unplanned") {
			t.Errorf("lyo-1 holds %+v; %v, hint %s", rec, failures(run), run.Hint)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"}))
		r.expect(id, report.RunUncommitted)
	})
}

// TestGrantWaitsNoLongerForALostSource: a grant that waits for its silent source
// goes on at once when a person lets the run go on as unplanned: it does not have
// to give up first.
func TestGrantWaitsNoLongerForALostSource(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 grant db1"] = -1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.w.set(func() { r.w.hosts["par-1"].down, r.w.faults["lyo-1 grant db1"] = true, 0 })
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		<-time.After(10 * time.Second)
		if run, err := r.engine.Show(t.Context(), id); err != nil || run.Status != report.RunRunning {
			t.Fatalf("the grant does not wait: %+v, %v", run, err)
		}
		stated := time.Now()
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"}))
		r.expect(id, report.RunUncommitted)
		if took := time.Since(stated); took > time.Minute {
			t.Errorf("the run went on for %s after it was said that the site is down", took)
		}
	})
}
