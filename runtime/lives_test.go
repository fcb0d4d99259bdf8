package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

func TestEventsMissNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Cleanup: true})
		var live []report.Event
		for ev, err := range r.engine.Events(t.Context(), id, 0) {
			r.must(err)
			if ev.Kind != report.EventProgress {
				live = append(live, ev)
			}
		}
		last := live[len(live)-1]
		if last.Kind != report.EventEnd || last.Head == nil || last.Head.Status != report.RunDone {
			t.Errorf("the last event is %+v", last)
		}
		for i, ev := range live {
			if ev.Seq != uint64(i+1) || ev.Text == "" || ev.Run != id { //nolint:gosec // small
				t.Errorf("event %d: %+v", i, ev)
			}
		}
		var later []report.Event // the same from the store, and from the middle
		for ev, err := range r.engine.Events(t.Context(), id[:4], 10) {
			r.must(err)
			later = append(later, ev)
		}
		if fmt.Sprint(texts(later)) != fmt.Sprint(texts(live[10:])) {
			t.Errorf("later:\n%v\nlive:\n%v", texts(later), texts(live[10:]))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errCrash)
		for _, err := range r.engine.Events(ctx, id, 0) {
			if err == nil {
				t.Error("events after the reader's context ended")
			}
		}
	})
}

func texts(evs []report.Event) (out []string) {
	for _, ev := range evs {
		out = append(out, ev.Text)
	}
	return out
}

func TestCloseParksAndAnotherEngineGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		<-time.After(200 * time.Millisecond)
		r.close()
		before := len(r.w.effects())
		r.open()
		run, err := r.engine.Show(t.Context(), id)
		r.must(err)
		if run.Status != report.RunPaused || run.Live || run.ExitCode != fault.ExitStopped {
			t.Fatalf("after the close: %s, live %v, exit %d", run.Status, run.Live, run.ExitCode)
		}
		if before == 0 || before > 20 {
			t.Fatalf("%d effects before the close: not in the middle", before)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.close()
		r.open() // a run that waits goes on waiting; the answer takes it over
		if list, err := r.engine.Unfinished(t.Context()); err != nil || len(list) != 1 {
			t.Fatalf("unfinished: %v, %v", list, err)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunUncommitted)
		if r.w.hosts["lyo-1"].machines["db1"].fence <= 4 {
			t.Errorf("fencing number %d: another process must claim with a higher one", r.w.hosts["lyo-1"].machines["db1"].fence)
		}
	})
}

func TestLostAnswersAreAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, key := range []string{"par-1 drain db1", "par-1 stop app1", "lyo-1 grant db1", "par-1 grant db1", "lyo-1 prepare app2", "lyo-1 start db1",
			"lyo-1 exec app1", "lyo-1 claim app1", "par-1 exec db1"} {
			r.w.lost[key] = 1
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunUncommitted)
		seen := map[string]bool{}
		for _, e := range r.w.effects() {
			if seen[e] {
				t.Errorf("%s happened twice", e)
			}
			seen[e] = true
		}
	})
}

// TestStoredUnreachable: an agent that could not reach its peer stores that as
// the operation's result and would answer it forever.
func TestStoredUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.sticky["par-1 drain db1"] = true
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		<-time.After(2 * time.Second)
		r.w.set(func() { r.w.sticky["par-1 drain db1"] = false })
		r.expect(id, report.RunWaiting)
	})
	t.Run("for long", func(t *testing.T) { // the results of a whole attempt do not hold up the next one
		bubble(t, func(t *testing.T, r *rig) {
			r.w.sticky["par-1 drain db1"] = true
			id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
			r.expect(id, report.RunStopped)
			r.w.set(func() { r.w.sticky["par-1 drain db1"] = false })
			r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
			<-time.After(30 * time.Second)
			r.expect(id, report.RunWaiting)
		})
	})
}

func TestWaitTimesOutAndDrillAnswersItself(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		<-time.After(2*time.Hour + time.Second)
		run := r.expect(id, report.RunStopped)
		if !strings.Contains(run.Reason, "nobody answered") {
			t.Errorf("reason: %s", run.Reason)
		}
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunRolledBack)
		r.lua.plan.Items[1].Wait.Skip, r.lua.plan.Items[1].Wait.Wait.Unattended = nil, "go"
		drill := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Unattended: true, Cleanup: true, ID: "drill"})
		run = r.expect(drill, report.RunDone)
		if len(run.Statements) != 1 || !strings.Contains(run.Statements[0].By, "unattended") {
			t.Errorf("statements: %+v", run.Statements)
		}
	})
}

func TestDivergedActionWaitsForAPerson(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var address string
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			args, err := json.Marshal(address)
			if err != nil {
				return false, "", err
			}
			if _, err := h.Op(ctx, "dns.update", plans.OpIdempotent, args, func(context.Context, string) (json.RawMessage, error) { return nil, nil }); err != nil {
				return true, "it looked fine", nil //nolint:nilerr // a plan that hides the error does not hide the divergence
			}
			_, err = h.Op(ctx, "wait", plans.OpIdempotent, nil, func(ctx context.Context, _ string) (json.RawMessage, error) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
				return nil, ctx.Err()
			})
			return true, "", err
		}
		address = "10.0.0.1"
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		<-time.After(3500 * time.Millisecond) // inside the second operation
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.must(r.engine.Close(ctx)) // at once
		r.open()
		address = "10.0.0.2"
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run := r.expect(id, report.RunWaiting)
		if run.ExitCode != fault.ExitUnknown || !strings.Contains(run.Waits[0].Ask, "10.0.0.1") || !strings.Contains(run.Waits[0].Ask, "10.0.0.2") ||
			!strings.Contains(run.Waits[0].Ask, "erp.lua:26") {
			t.Fatalf("exit %d, waits %+v", run.ExitCode, run.Waits)
		}
		if err := r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("go to an unknown outcome: %v", err)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "done", By: "bob"}))
		r.expect(id, report.RunUncommitted)
	})
}

// TestActionThatEndsEarlyHasDiverged: what it did before the restart it has to do
// again, or nobody knows what its result stands for.
func TestActionThatEndsEarlyHasDiverged(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		last := 2
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			for i := range last {
				if err := h.Set(ctx, "n", mustJSON(i)); err != nil {
					return false, "", err
				}
			}
			if last == 1 {
				return true, "", nil
			}
			_, err := h.Ask(ctx, plans.Question{Within: time.Hour, WaitStep: plans.WaitStep{Ask: "well?"}})
			return true, "", err
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		last = 1
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run := r.expect(id, report.RunWaiting)
		if run.ExitCode != fault.ExitUnknown || !strings.Contains(run.Waits[0].Ask, `operation 2 was run.set {"name":"n","value":1}, now the action ends before it`) {
			t.Fatalf("exit %d, waits %+v", run.ExitCode, run.Waits)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "again", By: "bob"}))
		r.expect(id, report.RunUncommitted)
	})
}

func TestRunningSourceIsNeverStartedTwice(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].machines["app1"].noStop = true
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, SourceIsDown: true})
		run := r.expect(id, report.RunWaiting)
		if run.Waits[0].Step != "right-to-run/app1" || !strings.Contains(run.Waits[0].Ask, "known to run") {
			t.Fatalf("waits: %+v", run.Waits)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob", Text: "without app1"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run = r.expect(id, report.RunPartial)
		for _, e := range r.w.effects() {
			if strings.HasPrefix(e, "lyo-1") && strings.Contains(e, "app1") && !strings.Contains(e, "exec") {
				t.Errorf("touched: %s", e)
			}
		}
		if run.Machines[1].State != "failed" {
			t.Errorf("app1 is %s", run.Machines[1].State)
		}
	})
}

func TestRealRunGoesOverATest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		test := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, ID: "trial"})
		r.expect(test, report.RunUncommitted)
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned})
		r.expect(id, report.RunUncommitted)
		r.expect(test, report.RunDone)
	})
}

func TestSecondRunIsRefusedByName(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		_, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"app2"}, Type: recovery.Planned, ID: "two"})
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "app2") || !strings.Contains(err.Error(), id) || fault.Hint(err) == "" {
			t.Errorf("second run: %v", err)
		}
		if _, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Test, ID: id}); !fault.Is(err, fault.Conflict) {
			t.Errorf("the same id: %v", err)
		}
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.expect(id, report.RunPartial) // failed over already: a cancel does not take that back
		if !strings.Contains(run.Reason, "uncommitted") {
			t.Errorf("reason: %s", run.Reason)
		}
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
	})
}

func TestPlannedNeedsTheSource(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].down = true
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunRefused)
		if run.ExitCode != fault.ExitRefused || !strings.Contains(run.Hint, "--unplanned") || len(r.w.effects()) != 0 {
			t.Errorf("exit %d, hint %q, effects %v", run.ExitCode, run.Hint, r.w.effects())
		}
		if _, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"db1"}, Type: recovery.Test, ID: "free"}); err != nil {
			t.Errorf("the machines of a refused run are not free: %v", err)
		}
		r.settle("free")
	})
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for name, req := range map[string]runtime.Request{
			"nothing":           {Type: recovery.Test},
			"two":               {Plan: "erp", Machines: []string{"db1"}, Type: recovery.Test},
			"no type":           {Plan: "erp"},
			"planned and point": {Plan: "erp", Type: recovery.Planned, Point: "latest-app"},
			"test and commit":   {Plan: "erp", Type: recovery.Test, Commit: true},
			"planned and down":  {Plan: "erp", Type: recovery.Planned, SourceIsDown: true},
			"cleanup of a real": {Plan: "erp", Type: recovery.Planned, Cleanup: true},
			"bad id":            {Plan: "erp", Type: recovery.Test, ID: "../x"},
			"unknown machine":   {Machines: []string{"db9"}, Type: recovery.Test},
			"unknown plan":      {Plan: "crm", Type: recovery.Test},
		} {
			if _, err := r.engine.Start(t.Context(), req); fault.ExitCode(err) != fault.ExitInvalid {
				t.Errorf("%s: %v (exit %d)", name, err, fault.ExitCode(err))
			}
		}
		if runs, err := r.engine.Runs(t.Context()); err != nil || len(runs) != 0 {
			t.Errorf("runs: %v, %v", runs, err)
		}
		x, err := r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		if err != nil || len(x.Steps) < 20 || len(r.w.effects()) != 0 {
			t.Errorf("explain: %v, %d effects", err, len(r.w.effects()))
		}
		x, err = r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, DryRun: true})
		if err != nil || x.Refused != nil || !strings.Contains(x.Text, "nothing speaks against it") {
			t.Errorf("dry run: %v, %v\n%s", err, x.Refused, x.Text)
		}
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		x, err = r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, DryRun: true})
		if err != nil || len(x.Steps) < 20 || !fault.Is(x.Refused, fault.Refused) || strings.Count(x.Text, "runs, does not answer") != 3 || fault.Hint(x.Refused) == "" {
			t.Errorf("dry run with a dead source: %v, %v\n%s", err, x.Refused, x.Text)
		}
		if runs, err := r.engine.Runs(t.Context()); err != nil || len(runs) != 0 || len(r.w.effects()) != 0 {
			t.Errorf("a dry run left something: %v, %v", runs, err)
		}
	})
}

func TestFailingProgramNamesFileAndLine(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Failover.Before[0].Exec.Cmd = []string{"false"}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		if got := run.Errors[0].Error.Message; !strings.Contains(got, "erp.lua:8") || !strings.Contains(got, "exit code 1: it said no") {
			t.Errorf("error: %s", got)
		}
	})
}

func TestCommitWindow(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Commit = plans.CommitPolicy{Mode: "window", Within: time.Hour, OnTimeout: "commit"}
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunUncommitted)
		if !strings.Contains(run.Reason, "committed at") {
			t.Errorf("reason: %s", run.Reason)
		}
		<-time.After(time.Hour)
		r.expect(id, report.RunCommitted)
	})
}
