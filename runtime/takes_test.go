package runtime_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// taken is the run that takes db1 over to lyo-1, which confirms it to par-1 no
// more.
func (r *rig) taken() (run string) {
	r.w.set(func() { run = r.w.hosts["lyo-1"].machines["db1"].taken })
	return run
}

// takes starts an unplanned run that has claimed db1 and asks about its source.
func (r *rig) takes() string {
	r.t.Helper()
	r.w.set(func() { r.w.hosts["par-1"].machines["db1"].noStop = true })
	id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, SourceIsDown: true})
	r.expect(id, report.RunWaiting)
	if by := r.taken(); by != id {
		r.t.Errorf("before the grant db1 is taken over by %q", by)
	}
	return id
}

// TestTakeoverIsLetGo: from its claim on an unplanned run keeps the new site from
// confirming the old record; when nothing can be granted any more, it lets go.
func TestTakeoverIsLetGo(t *testing.T) {
	t.Run("cancel", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.takes()
			r.close()
			r.open()
			r.must(r.engine.Pause(t.Context(), id, "ann"))
			r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
			r.expect(id, report.RunWaiting)
			if by := r.taken(); by != id {
				t.Errorf("after another runtime has claimed it db1 is taken over by %q", by)
			}
			r.must(r.engine.Cancel(t.Context(), id, "ann"))
			r.settle(id)
			if by := r.taken(); by != "" {
				t.Errorf("cancelled, and db1 is taken over by %q", by)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			claim := "lyo-1 " + command.Claim.Name + " app1"
			r.w.faults[claim], r.w.kinds[claim], r.w.slow[claim] = 1, fault.Conflict, time.Second
			id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
			<-time.After(700 * time.Millisecond)
			if by := r.taken(); by != id {
				t.Errorf("in its claim db1 is taken over by %q", by)
			}
			r.expect(id, report.RunRefused)
			if by := r.taken(); by != "" {
				t.Errorf("refused, and db1 is taken over by %q", by)
			}
		})
	})
	t.Run("a planned run takes nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			r.w.set(func() { r.w.hosts["par-1"].machines["db1"].noStop = true })
			r.expect(r.start(runtime.Request{Plan: "erp", Type: recovery.Planned}), report.RunStopped)
			if by := r.taken(); by != "" {
				t.Errorf("db1 is taken over by %q", by)
			}
		})
	})
	t.Run("a silent host keeps its word", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.takes()
			r.w.set(func() { r.w.hosts["lyo-1"].down = true })
			r.must(r.engine.Cancel(t.Context(), id, "ann"))
			run := r.settle(id)
			said := func(n report.Note) bool {
				return strings.Contains(n.Text, "lyo-1 does not answer") && strings.Contains(n.Text, "drrun-agent permit db1 on par-1")
			}
			if !slices.ContainsFunc(run.Notes, said) {
				t.Errorf("notes: %+v", run.Notes)
			}
			r.w.set(func() { r.w.hosts["lyo-1"].down = false })
			if by := r.taken(); by != id {
				t.Errorf("db1 is taken over by %q", by)
			}
		})
	})
}

// TestRunIsShownWhileItLetsGo: a host that is slow to hear it holds nobody up.
func TestRunIsShownWhileItLetsGo(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.takes()
		r.w.set(func() { r.w.slow["lyo-1 "+command.Claim.Name+" db1"] = 3 * time.Second })
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		<-time.After(time.Second)
		if run, err := r.engine.Show(t.Context(), id); err != nil || run.Section != "failover" {
			t.Errorf("meanwhile the run is at its %s (%v)", run.Section, err)
		}
		if by := r.taken(); by != id {
			t.Errorf("meanwhile db1 is taken over by %q", by)
		}
		r.settle(id)
		if by := r.taken(); by != "" {
			t.Errorf("cancelled, and db1 is taken over by %q", by)
		}
	})
}

// TestTurnedRunTakesOver: a planned run that goes on as unplanned claims its
// machines anew before the person's word counts; without the new site's host it
// does not.
func TestTurnedRunTakesOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.set(func() { r.w.hosts["par-1"].machines["db1"].noStop = true })
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		as := runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"}
		claim := "lyo-1 " + command.Claim.Name + " app1" // the machine whose host is silent
		r.w.set(func() { r.w.faults[claim], r.w.kinds[claim] = 2, fault.Unreachable })
		err := r.engine.Resume(t.Context(), id, as)
		run := r.expect(id, report.RunStopped)
		if !fault.Is(err, fault.Unreachable) || fault.Hint(err) == "" || run.Type != recovery.Planned || len(run.Statements) != 0 {
			t.Errorf("the host is silent: %v; the run is %s, statements %+v", err, run.Type, run.Statements)
		}
		if by := r.taken(); by != "" {
			t.Errorf("it stays planned, and db1 is taken over by %q", by)
		}
		r.w.set(func() { delete(r.w.faults, claim) })
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		r.must(r.engine.Resume(t.Context(), id, as))
		if by := r.taken(); by != id {
			t.Errorf("with the statement db1 is taken over by %q", by)
		}
		r.expect(id, report.RunWaiting)
	})
}
