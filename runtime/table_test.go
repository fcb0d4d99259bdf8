package runtime_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// standings bring a run to each place where it can stand. They return its id.
var standings = map[string]func(r *rig) string{
	"running": func(r *rig) string {
		r.w.slow["par-1 drain db1"] = time.Minute
		return r.begin(recovery.Planned)
	},
	"waits": func(r *rig) string { r.start(planned); return r.at(report.RunWaiting) },
	"paused": func(r *rig) string {
		r.start(planned)
		r.must(r.engine.Pause(r.t.Context(), "r", "ann"))
		return r.at(report.RunPaused)
	},
	"stopped early": func(r *rig) string {
		r.w.faults["par-1 drain db1"] = -1
		r.start(planned)
		return r.at(report.RunStopped)
	},
	"stopped late": func(r *rig) string {
		r.w.faults["lyo-1 start db1"] = -1
		r.start(planned)
		return r.at(report.RunStopped)
	},
	"asks about right": func(r *rig) string {
		r.w.hosts["par-1"].machines["db1"].noStop = true
		r.start(unplanned)
		return r.at(report.RunWaiting)
	},
	"outcome unknown": func(r *rig) string {
		r.w.slow["par-1 exec"] = 0
		r.w.faults["par-1 exec db1"], r.w.kinds["par-1 exec db1"] = -1, fault.Unknown
		r.start(planned)
		return r.at(report.RunWaiting)
	},
	"uncommitted planned":   func(r *rig) string { return r.over(recovery.Planned, report.RunUncommitted) },
	"uncommitted unplanned": func(r *rig) string { return r.over(recovery.Unplanned, report.RunUncommitted) },
	"partial": func(r *rig) string {
		r.w.faults["lyo-1 start db1"] = -1
		return r.over(recovery.Unplanned, report.RunPartial)
	},
	"not proved": func(r *rig) string {
		r.w.hosts["par-1"].machines["db1"].missed = true
		return r.over(recovery.Planned, report.RunStopped)
	},
	"refused": func(r *rig) string {
		r.w.hosts["par-1"].down = true
		r.start(planned)
		return r.at(report.RunRefused)
	},
	"cancelled": func(r *rig) string {
		r.w.faults["par-1 drain db1"] = -1
		r.start(planned)
		r.at(report.RunStopped)
		r.must(r.engine.Cancel(r.t.Context(), "r", "ann"))
		return r.at(report.RunCancelled)
	},
	"cancelled half way": func(r *rig) string {
		r.w.faults["lyo-1 grant app1"] = -1
		r.over(recovery.Planned, report.RunStopped)
		r.must(r.engine.Cancel(r.t.Context(), "r", "ann"))
		return r.at(report.RunPartial)
	},
	"commit stopped": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.w.set(func() { r.w.faults["lyo-1 commit db1"] = -1 })
		r.must(r.engine.Commit(r.t.Context(), "r", "ann"))
		return r.at(report.RunStopped)
	},
	"committed planned": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.must(r.engine.Commit(r.t.Context(), "r", "ann"))
		return r.at(report.RunCommitted)
	},
	"committed unplanned": func(r *rig) string {
		r.over(recovery.Unplanned, report.RunUncommitted)
		r.must(r.engine.Commit(r.t.Context(), "r", "ann"))
		return r.at(report.RunCommitted)
	},
	"rolling back": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.w.set(func() { r.w.slow["lyo-1 stop db1"] = time.Minute })
		r.must(r.engine.Rollback(r.t.Context(), "r", "ann"))
		return "r"
	},
	"rollback stopped": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.w.set(func() { r.w.faults["lyo-1 stop db1"] = -1 })
		r.must(r.engine.Rollback(r.t.Context(), "r", "ann"))
		return r.at(report.RunStopped)
	},
	"rolled back": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.must(r.engine.Rollback(r.t.Context(), "r", "ann"))
		return r.at(report.RunRolledBack)
	},
	"change of the point stopped": func(r *rig) string {
		r.over(recovery.Unplanned, report.RunUncommitted)
		r.w.set(func() { r.w.faults["lyo-1 prepare db1"] = -1 })
		r.must(r.engine.ChangePoint(r.t.Context(), "r", "latest-processed", "ann"))
		return r.at(report.RunStopped)
	},
	"superseded": func(r *rig) string {
		r.over(recovery.Planned, report.RunUncommitted)
		r.w.set(func() { r.w.hosts["lyo-1"].down = true })
		r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, SourceIsDown: true, ID: "back"})
		r.expect("back", report.RunUncommitted)
		return r.at(report.RunSuperseded)
	},
	"test stands": func(r *rig) string { return r.over(recovery.Test, report.RunUncommitted) },
	"test stopped": func(r *rig) string {
		r.w.faults["lyo-1 start db1"] = -1
		return r.over(recovery.Test, report.RunStopped)
	},
	"test cleanup stopped": func(r *rig) string {
		r.over(recovery.Test, report.RunUncommitted)
		r.w.set(func() { r.w.faults["lyo-1 cleanup db1"] = -1 })
		r.must(r.engine.Cleanup(r.t.Context(), "r", "ann"))
		return r.at(report.RunStopped)
	},
	"test cleaned up": func(r *rig) string {
		r.over(recovery.Test, report.RunUncommitted)
		r.must(r.engine.Cleanup(r.t.Context(), "r", "ann"))
		return r.at(report.RunDone)
	},
	"reversed": func(r *rig) string {
		r.over(recovery.Unplanned, report.RunUncommitted)
		r.must(r.engine.Commit(r.t.Context(), "r", "ann"))
		r.at(report.RunCommitted)
		_, err := r.engine.Reverse(r.t.Context(), runtime.ReverseRequest{Machines: []string{"db1"}, By: "ann", ID: "rev"})
		r.must(err)
		r.expect("rev", report.RunDone)
		return "rev"
	},
}

var (
	planned   = runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann", ID: "r"}
	unplanned = runtime.Request{Plan: "erp", Type: recovery.Unplanned, By: "ann", ID: "r"}
)

// begin starts a run and does not wait for it.
func (r *rig) begin(typ recovery.Type) string {
	r.t.Helper()
	_, err := r.engine.Start(r.t.Context(), runtime.Request{Plan: "erp", Type: typ, By: "ann", ID: "r"})
	r.must(err)
	<-time.After(10 * time.Second)
	return "r"
}

func (r *rig) at(want report.RunStatus) string {
	r.t.Helper()
	r.expect("r", want)
	return "r"
}

// over brings a run without its wait to where it ends or stops.
func (r *rig) over(typ recovery.Type, want report.RunStatus) string {
	r.t.Helper()
	r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
	r.start(runtime.Request{Plan: "erp", Type: typ, By: "ann", ID: "r"})
	return r.at(want)
}

// asks are the operations that can be asked of a run.
var asks = map[string]func(ctx context.Context, e *runtime.Engine, id string) error{
	report.OpPause:    func(ctx context.Context, e *runtime.Engine, id string) error { return e.Pause(ctx, id, "bob") },
	report.OpCancel:   func(ctx context.Context, e *runtime.Engine, id string) error { return e.Cancel(ctx, id, "bob") },
	report.OpCommit:   func(ctx context.Context, e *runtime.Engine, id string) error { return e.Commit(ctx, id, "bob") },
	report.OpCleanup:  func(ctx context.Context, e *runtime.Engine, id string) error { return e.Cleanup(ctx, id, "bob") },
	report.OpRollback: func(ctx context.Context, e *runtime.Engine, id string) error { return e.Rollback(ctx, id, "bob") },
	report.OpChangePoint: func(ctx context.Context, e *runtime.Engine, id string) error {
		return e.ChangePoint(ctx, id, "latest-processed", "bob")
	},
	report.OpResume: func(ctx context.Context, e *runtime.Engine, id string) error {
		return e.Resume(ctx, id, runtime.ResumeOptions{By: "bob"})
	},
	report.OpAnswer: func(ctx context.Context, e *runtime.Engine, id string) error {
		r, err := e.Show(ctx, id)
		if err != nil {
			return err
		}
		a := runtime.Answer{Word: "go", By: "bob"}
		if len(r.Waits) > 0 {
			a.Word = r.Waits[0].Answers[0]
		}
		return e.Answer(ctx, id, a)
	},
}

// TestEveryOperationInEveryStanding: what a run says is allowed is done, and
// everything else is refused, with what is allowed and without a change.
func TestEveryOperationInEveryStanding(t *testing.T) {
	t.Parallel()
	for name, stand := range standings {
		for op, ask := range asks {
			t.Run(name+"/"+op, func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					id := stand(r)
					run, err := r.engine.Show(t.Context(), id)
					r.must(err)
					before := r.w.summary()
					err = ask(t.Context(), r.engine, id)
					idle := op == report.OpResume && (run.Status.Busy() || run.Status == report.RunWaiting) // it goes on by itself, or when somebody answers
					switch allowed := slices.Contains(run.Allowed, op); {
					case allowed && err != nil:
						t.Errorf("%s of a run that is %s (%s), allowed %v: %v", op, run.Status, name, run.Allowed, err)
					case allowed, idle && err == nil:
					case !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "run "+id+" is "+string(run.Status)):
						t.Errorf("%s of a run that is %s (%s), allowed %v: %v", op, run.Status, name, run.Allowed, err)
					case fault.Hint(err) != "allowed now: "+orNothing(run.Allowed):
						t.Errorf("the refusal of %s (%s) hints %q, allowed %v", op, name, fault.Hint(err), run.Allowed)
					case !run.Status.Busy() && r.w.summary() != before:
						t.Errorf("a refused %s (%s) changed\n%s\nto\n%s", op, name, before, r.w.summary())
					}
				})
			})
		}
	}
}

func orNothing(ops []string) string {
	if len(ops) == 0 {
		return "nothing"
	}
	return strings.Join(ops, ", ")
}

// TestEveryRunInEveryState: a run that the state of a machine does not allow is
// refused before anything is changed, with what is allowed.
func TestEveryRunInEveryState(t *testing.T) {
	t.Parallel()
	runs := map[plans.Operation]recovery.Type{plans.OpTestRun: recovery.Test, plans.OpPlannedRun: recovery.Planned, plans.OpUnplanned: recovery.Unplanned}
	refused := 0
	for _, state := range plans.MachineStates {
		for op, typ := range runs {
			if !slices.Contains(plans.Allowed(state), op) {
				refused++
			}
			t.Run(string(state)+"/"+string(op), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					for _, h := range r.w.hosts {
						h.machines["app1"].life = state
					}
					r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
					before := r.w.summary()
					r.start(runtime.Request{Plan: "erp", Type: typ, Force: true, By: "ann", ID: "r"})
					run := r.settle("r")
					switch allowed := slices.Contains(plans.Allowed(state), op); {
					case allowed != (run.Status == report.RunUncommitted):
						t.Errorf("%s of a machine that is %s ends %s: %s", op, state, run.Status, run.Reason)
					case allowed:
					case !strings.Contains(run.Reason, "app1") || !strings.Contains(run.Hint, "allowed now: "+plans.Words(state)):
						t.Errorf("%s of a machine that is %s: %s (%s)", op, state, run.Reason, run.Hint)
					case r.w.summary() != before:
						t.Errorf("a refused %s changed\n%s\nto\n%s", op, before, r.w.summary())
					}
				})
			})
		}
	}
	if refused < 10 {
		t.Errorf("only %d cells are refused", refused)
	}
}
