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

// TestLockedMachineWhoseOtherSiteIsLost: a person says that it is, and the machine
// is started where it is.
func TestLockedMachineWhoseOtherSiteIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		m := r.w.hosts["par-1"].machines["db1"]
		m.power, m.locked = recovery.PowerStopped, true
		r.w.hosts["lyo-1"].down = true
		req := runtime.Request{Machines: []string{"db1"}, Type: recovery.Unplanned, Failback: true, By: "ann", ID: "without"}
		if _, err := r.engine.Start(t.Context(), req); !fault.Is(err, fault.Refused) {
			t.Errorf("without a word on lyon: %v", err)
		}
		req.SourceIsDown, req.ID = true, "with"
		r.must(second(r.engine.Start(t.Context(), req)))
		r.expect("with", report.RunDone)
		if m.power != recovery.PowerRunning || m.locked {
			t.Errorf("db1 is %s, locked %v", m.power, m.locked)
		}
	})
}

// TestGiveBackAsksTheOtherSite: the new site is silent when a run is cancelled.
// Nobody knows whether another runtime has failed its machines over there, so they
// are not given back before a person says that it is down, or it answers.
func TestGiveBackAsksTheOtherSite(t *testing.T) {
	asked := func(t *testing.T, r *rig) (id string, held *fakeMachine) {
		r.w.faults["par-1 stop db1"] = 1
		id = r.start(runtime.Request{Machines: []string{"db1", "app1", "app2"}, Type: recovery.Planned, By: "ann"})
		r.expect(id, report.RunStopped)
		r.w.set(func() { r.w.hosts["lyo-1"].down = true })
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.expect(id, report.RunWaiting)
		if len(run.Waits) != 3 || run.Waits[0].Answers[0] != runtime.TargetIsDown || !strings.Contains(run.Hint, "target-is-down") {
			t.Errorf("it asks %+v; %s", run.Waits, run.Hint)
		}
		if held = r.w.hosts["par-1"].machines["app1"]; held.power != recovery.PowerStopped || !held.locked {
			t.Fatalf("app1 is %s, locked %v", held.power, held.locked)
		}
		return id, held
	}
	t.Run("it is down", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			before := r.w.summary()
			id, _ := asked(t, r)
			r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "cancel/app2/unlock", Word: runtime.TargetIsDown, By: "ann"}))
			r.expect(id, report.RunCancelled)
			if strip(r.w.summary()) != strip(before) {
				t.Errorf("after the cancel:\n%s", r.w.summary())
			}
		})
	})
	t.Run("it has the machine", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id, held := asked(t, r)
			r.w.set(func() { r.w.movedToLyon("app1", "app2", "db1") })
			for _, m := range []string{"app1", "app2", "db1"} {
				r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "cancel/" + m + "/unlock", Word: "again", By: "ann"}))
			}
			run := r.expect(id, report.RunCancelled)
			if held.power == recovery.PowerRunning || !held.locked || run.Hint != "" {
				t.Errorf("app1 is %s, locked %v; hint %q", held.power, held.locked, run.Hint)
			}
		})
	})
}

// TestGiveBackAsksBeforeEveryTry: the old site is silent when a run is cancelled,
// and another runtime fails the machines over before it is back.
func TestGiveBackAsksBeforeEveryTry(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["par-1 stop db1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann"})
		r.expect(id, report.RunStopped)
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		<-time.After(time.Minute) // it calls par-1
		r.w.set(func() {
			r.w.movedToLyon("app1", "app2", "db1")
			r.w.hosts["par-1"].down = false
		})
		r.expect(id, report.RunCancelled)
		if m := r.w.hosts["par-1"].machines["app1"]; m.power == recovery.PowerRunning || !m.locked {
			t.Errorf("app1 is %s on par-1, locked %v", m.power, m.locked)
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
