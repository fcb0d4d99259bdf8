package runtime_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// TestMachineThatNoCancelGaveBack: a cancel that cannot unlock a machine says
// with which command it is started where it was; that is a run of its own, which
// claims the machine and does nothing else.
func TestMachineThatNoCancelGaveBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := r.w.summary()
		r.w.faults["par-1 stop app2"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann"})
		r.expect(id, report.RunStopped)
		back := runtime.Request{Machines: []string{"app1"}, Type: recovery.Planned, Failback: true, By: "ann", ID: "back"}
		if _, err := r.engine.Start(t.Context(), back); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), id) {
			t.Errorf("a machine of a run that has not ended: %v", err)
		}
		r.w.set(func() { r.w.faults["par-1 unlock app1"] = 1 })
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.expect(id, report.RunCancelled)
		if want := "drrun failover app1 --planned --failback"; !strings.Contains(run.Hint, want) {
			t.Fatalf("the hint is %q, want %q", run.Hint, want)
		}
		held := r.w.hosts["par-1"].machines["app1"]
		if held.power != recovery.PowerStopped || !held.locked {
			t.Fatalf("app1 is %s, locked %v", held.power, held.locked)
		}
		back.DryRun = true
		x, err := r.engine.Explain(t.Context(), back)
		if r.must(err); !strings.Contains(x.Text, "unlock app1 on par-1") {
			t.Errorf("it is explained as:\n%s", x.Text)
		}
		r.must(second(r.engine.Start(t.Context(), back)))
		run = r.expect("back", report.RunDone)
		if got := steps(run); got != "claim again/app1/unlock again/app1/start" || run.ExitCode != fault.ExitOK || !strings.Contains(run.Reason, "started again at paris: app1") {
			t.Errorf("steps %s; exit %d: %s", got, run.ExitCode, run.Reason)
		}
		if strip(r.w.summary()) != strip(before) {
			t.Errorf("after it:\n%s", r.w.summary())
		}
	})
}

// TestLockedMachineOfAnotherRun: what a run that has not been committed has
// locked is that run's to start, also for a runtime that does not know it.
func TestLockedMachineOfAnotherRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		m := r.w.hosts["lyo-1"].machines["db1"]
		m.rec.Epoch, m.rec.Active, m.rec.Run, m.rec.Uncommitted, m.locked = 2, "lyon", "other", true, true
		r.w.hosts["par-1"].machines["db1"].power = recovery.PowerStopped
		if _, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned, By: "ann"}); !fault.Is(err, fault.Refused) {
			t.Errorf("it is started: %v", err)
		}
	})
}

// TestMachineThatMovedBeforeTheClaim: another runtime fails the machine over
// between the look by which the run was made and its claim.
func TestMachineThatMovedBeforeTheClaim(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["lyo-1 room db1"] = 2 * time.Second // of preflight, which has looked
		r.must(second(r.engine.Start(t.Context(), runtime.Request{Machines: []string{"db1"}, Type: recovery.Unplanned, By: "ann", ID: "late"})))
		<-time.After(time.Second)
		r.w.set(func() { r.w.movedToLyon("db1") })
		if run := r.expect("late", report.RunRefused); !strings.Contains(run.Reason, "db1 is active at lyon by run other") {
			t.Errorf("it says: %s", run.Reason)
		}
	})
}

// movedToLyon is what a run of another runtime has done, of which par-1 knows
// nothing.
func (w *world) movedToLyon(machines ...string) {
	w.hosts["lyo-1"].down = false
	for _, name := range machines {
		m := w.hosts["lyo-1"].machines[name]
		m.rec.Epoch, m.rec.Active, m.rec.Run, m.power = m.rec.Epoch+1, "lyon", "other", recovery.PowerRunning
	}
}

func second(_ string, err error) error { return err }

func steps(run *report.Run) string {
	var ids []string
	for i := range run.Steps {
		ids = append(ids, run.Steps[i].ID)
	}
	return strings.Join(ids, " ")
}
