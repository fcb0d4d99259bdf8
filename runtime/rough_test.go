package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// count is how often an effect happened.
func (w *world) count(effect string) int {
	n := 0
	for _, e := range w.effects() {
		if e == effect {
			n++
		}
	}
	return n
}

// leave ends the engine without waiting for anything.
func (r *rig) leave() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	r.must(r.engine.Close(ctx))
}

// restart is what a controller does that was ended and starts again.
func (r *rig) restart() {
	r.t.Helper()
	r.open()
	ids, err := r.engine.Unfinished(r.t.Context())
	r.must(err)
	for _, id := range ids {
		r.must(r.engine.Resume(r.t.Context(), id, runtime.ResumeOptions{By: "controller"}))
	}
}

func step(run *report.Run, id string) report.Step {
	i := slices.IndexFunc(run.Steps, func(s report.Step) bool { return s.ID == id })
	if i < 0 {
		return report.Step{}
	}
	return run.Steps[i]
}

// TestTakeOverHoldsUpNobody: agents that are slow to answer, or gone, do not
// stop the engine's other calls.
func TestTakeOverHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.close()
		r.open()
		r.w.set(func() { r.w.slow["par-1 status"] = time.Hour })
		done := make(chan error, 2)
		began := time.Now()
		for range 2 { // the second waits for the first
			go func() { done <- r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}) }()
		}
		<-time.After(time.Second)
		before := time.Now()
		_, err := r.engine.Show(t.Context(), id)
		r.must(err)
		_, err = r.engine.Runs(t.Context())
		r.must(err)
		if took := time.Since(before); took != 0 {
			t.Errorf("show and runs took %s", took)
		}
		if a, b := <-done, <-done; (a == nil) == (b == nil) {
			t.Errorf("answers: %v and %v, want one that counts", a, b)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the takeover took %s with one host that does not answer", took)
		}
		r.expect(id, report.RunUncommitted)
	})
}

func TestTestAndRealRunOfOneMachine(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		real := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned})
		r.expect(real, report.RunUncommitted)
		trial := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Test, ID: "trial"})
		r.expect(trial, report.RunUncommitted)
		r.must(r.engine.Commit(t.Context(), real, "ann"))
		r.expect(real, report.RunCommitted)
		r.must(r.engine.Cleanup(t.Context(), trial, "ann"))
		r.expect(trial, report.RunDone)
	})
}

// TestRealRunGoesOverARunningTest: it does not wait for the test's steps in
// flight, and the cleanup works although the machine has another epoch by then.
func TestRealRunGoesOverARunningTest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["lyo-1 check app1"] = 5 * time.Second
		trial := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, ID: "trial"})
		for r.w.count("lyo-1 start app1 in a test") == 0 {
			<-time.After(100 * time.Millisecond)
		}
		real := r.start(runtime.Request{Machines: []string{"app2"}, Type: recovery.Planned, ID: "real"})
		r.expect(real, report.RunUncommitted)
		run := r.expect(trial, report.RunCancelled)
		cancelled := len(run.Errors) == 1 && strings.Contains(run.Errors[0].Error.Message, "cancelled by ann, whose real run goes over the test")
		if !cancelled || r.w.count("lyo-1 cleanup app2") != 1 {
			t.Errorf("errors %v, effects %v", failures(run), r.w.effects())
		}
	})
}

// TestRefusedDrillIsOver: no later runtime takes it up, although its time is not
// over yet.
func TestRefusedDrillIsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["lyo-1"].down = true
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Cleanup: true, TTL: time.Hour, ID: "drill"})
		r.expect(id, report.RunRefused)
		r.close()
		r.open()
		if ids, err := r.engine.Unfinished(t.Context()); err != nil || len(ids) > 0 {
			t.Errorf("unfinished: %v, %v", ids, err)
		}
	})
}

// A run that preflight refuses leaves the tests alone.
func TestRefusedRunLeavesTests(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		trial := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, ID: "trial"})
		r.expect(trial, report.RunUncommitted)
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		real := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, ID: "real"})
		r.expect(real, report.RunRefused)
		r.expect(trial, report.RunUncommitted)
	})
}

// TestTimeIsUpAndTheOutcomeIsNotKnown: the program ran, its answer never came.
// The next attempt asks for it under the same operation id.
func TestTimeIsUpAndTheOutcomeIsNotKnown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.lost["par-1 exec db1"] = -1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		if len(run.Errors) != 1 || !fault.Is(run.Errors[0].Error, fault.Unreachable) {
			t.Errorf("errors: %v", failures(run))
		}
		r.w.set(func() { r.w.lost["par-1 exec db1"] = 0 })
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		if n := r.w.count("par-1 exec systemctl stop pooler"); n != 1 {
			t.Errorf("the program ran %d times", n)
		}
	})
}

// TestRestartDoesNotAnswerForAPerson: a controller that starts again takes up a
// run that waits for a decision, and leaves the decision to the person.
func TestRestartDoesNotAnswerForAPerson(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := &r.lua.plan.Failover.Before[0]
		before.Exec.Cmd, before.OnFail = []string{"false"}, program.OnFailAsk
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.close()
		r.restart()
		run := r.expect(id, report.RunWaiting)
		if n := r.w.count("controller false"); n != 1 || !run.Live {
			t.Fatalf("the program ran %d times; driven: %v", n, run.Live)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunWaiting)
	})
}

func TestDrillSurvivesEveryRestart(t *testing.T) {
	t.Parallel()
	for n := 1; n < 70; n++ {
		t.Run("", func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.close()
				r.lua.plan.Items[1].Wait.Skip, r.lua.plan.Items[1].Wait.Wait.Unattended = nil, "go"
				r.lua.plan.Failover.Before = nil
				inner := r.store
				r.store = &crashStore{Store: inner, left: n, after: true}
				r.open()
				_, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Test, Unattended: true, Cleanup: true, ID: "drill"})
				<-time.After(time.Minute)
				r.close()
				r.store = inner
				r.restart()
				if n > 1 {
					r.must(err)
				}
				r.expect("drill", report.RunDone)
			})
		})
	}
}

// TestUnsafeOperationCutShortIsUnknown: the time of an action ends during an
// operation that may not be repeated.
func TestUnsafeOperationCutShortIsUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			_, err := h.Op(ctx, "http.post", plans.OpUnsafe, json.RawMessage(`"ticket"`), func(ctx context.Context, _ string) (json.RawMessage, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			return err == nil, "", err
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run := r.expect(id, report.RunWaiting)
		if run.ExitCode != fault.ExitUnknown || !strings.Contains(run.Waits[0].Ask, `http.post "ticket" was cut short`) || !strings.Contains(run.Waits[0].Ask, "erp.lua:26") {
			t.Fatalf("exit %d, waits %+v", run.ExitCode, run.Waits)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "done", By: "bob"}))
		r.expect(id, report.RunUncommitted)
	})
}

// TestDrainEndsOnlyByAStall: longer than the time of a step while something
// moves, over a link that breaks once, and also where the drain is only tried.
func TestDrainEndsOnlyByAStall(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, m := range []string{"db1", "app1"} {
			r.w.slow["par-1 drain "+m], r.w.moving["par-1 "+m] = 12*time.Minute, true
		}
		r.w.lost["par-1 drain db1"] = 1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned, ID: "planned"})
		r.expect(id, report.RunUncommitted)
		id = r.start(runtime.Request{Machines: []string{"app1"}, Type: recovery.Unplanned, ID: "unplanned"})
		run := r.expect(id, report.RunUncommitted)
		if s := step(run, "shutdown/app1/drain"); s.Status != report.StepDone {
			t.Errorf("the final drain: %+v", s)
		}
		r.w.set(func() { r.w.slow["par-1 drain app2"] = time.Hour })
		began := time.Now()
		id = r.start(runtime.Request{Machines: []string{"app2"}, Type: recovery.Planned, ID: "stalled"})
		run = r.expect(id, report.RunStopped)
		if took := time.Since(began); took > 6*time.Minute || !strings.Contains(run.Reason, "nothing moved") {
			t.Errorf("after %s: %s", took, run.Reason)
		}
	})
}

// TestProgressIsAskedForTogether: a host with work on three machines is asked once
// for all of them, and less often when it takes long; the one that does not move
// ends, the others go on.
func TestProgressIsAskedForTogether(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, m := range []string{"app1", "app2", "db1"} {
			r.w.slow["par-1 drain "+m], r.w.moving["par-1 "+m] = 10*time.Minute, m != "app2"
		}
		id := r.start(runtime.Request{Machines: []string{"app1", "app2", "db1"}, Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		for m, want := range map[string]report.StepStatus{"app1": report.StepDone, "app2": report.StepFailed, "db1": report.StepDone} {
			if s := step(run, "drain-ahead/"+m); s.Status != want {
				t.Errorf("the drain of %s is %s, want %s", m, s.Status, want)
			}
		}
		if !strings.Contains(run.Reason, "nothing moved in time (5m0s)") {
			t.Errorf("it stopped: %s", run.Reason)
		}
		all, rest := r.w.together["par-1 app1 app2 db1"], r.w.together["par-1 app1 db1"]
		if all < 90 || all > 130 || rest < 90 || rest > 130 { // five minutes each, every three seconds but for the first ones
			t.Errorf("asked for three %d times, for the two that were left %d times", all, rest)
		}
	})
}

func TestCommitWindowOverARestart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Commit = plans.CommitPolicy{Mode: "window", Within: time.Hour, OnTimeout: "commit"}
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunUncommitted)
		<-time.After(10 * time.Minute)
		r.close()
		r.restart()
		r.expect(id, report.RunUncommitted)
		<-time.After(time.Hour)
		r.expect(id, report.RunCommitted)

		late := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, Failback: true, ID: "late"})
		r.expect(late, report.RunUncommitted)
		r.close()
		<-time.After(2 * time.Hour)
		r.restart() // it came due while no runtime ran: a person decides
		<-time.After(2 * time.Hour)
		run := r.expect(late, report.RunUncommitted)
		if strings.Contains(run.Reason, "committed at") {
			t.Errorf("reason: %s", run.Reason)
		}
	})
}

// TestStepOfThePlanIsPassedOver: a run keeps the plan it began with, so a person
// may let it go on without a step that the plan has wrong.
func TestStepOfThePlanIsPassedOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "stop", By: "bob"}))
		run := r.expect(id, report.RunStopped)
		if !slices.Contains(run.Allowed, report.OpAnswer) || !strings.Contains(run.Hint, `drrun answer `+id+` "wait:business go/no-go" go`) {
			t.Errorf("allowed %v, hint %s", run.Allowed, run.Hint)
		}
		if err := r.engine.Answer(t.Context(), id, runtime.Answer{Step: "points", Word: "go", By: "ann"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("a step of drrun itself: %v", err)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "ann", Text: "we know"}))
		run = r.expect(id, report.RunPartial) // it says what it left out
		if r.w.count("lyo-1 start app1") != 1 || len(run.Statements) != 2 || !run.Uncommitted {
			t.Errorf("effects %v, statements %v", r.w.effects(), run.Statements)
		}
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
	})
}

// TestCancelStartsWhatWasFailedOver: after the epoch was raised, a cancel leaves
// every machine running at the new site, uncommitted.
func TestCancelStartsWhatWasFailedOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.expect(id, report.RunPartial)
		for _, m := range []string{"db1", "app1", "app2"} {
			if r.w.count("lyo-1 start "+m) != 1 {
				t.Errorf("%s: effects %v", m, r.w.effects())
			}
		}
		if run.ExitCode != fault.ExitFailed || !strings.Contains(run.Reason, "failed over to lyon, and uncommitted: db1, app1, app2") {
			t.Errorf("exit %d, reason %s", run.ExitCode, run.Reason)
		}
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
	})
}

// TestCloseDoesNotWaitForAnAgent: a step that calls a host which does not answer
// is no step in flight.
func TestCloseDoesNotWaitForAnAgent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["par-1 stop db1"] = time.Second
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		for !strings.Contains(strings.Join(r.w.effects(), "\n"), "par-1 stop app2") {
			<-time.After(time.Millisecond)
		}
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		<-time.After(3 * time.Second)
		begun := time.Now()
		r.close()
		if took := time.Since(begun); took > maxPause {
			t.Errorf("closing took %s", took)
		}
		r.w.set(func() { r.w.hosts["par-1"].down = false })
		r.restart()
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		if r.w.count("par-1 stop db1") != 1 {
			t.Errorf("effects %v", r.w.effects())
		}
	})
}

// maxPause is how long the engine may wait between two calls of an agent.
const maxPause = 5 * time.Second

// TestUnplannedLeavesPlannedStepsBehind: what was in flight for the planned run
// only neither holds up nor stops the unplanned one that it has become.
func TestUnplannedLeavesPlannedStepsBehind(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["par-1 drain db1"] = time.Hour
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, Commit: true})
		<-time.After(10 * time.Second)
		r.w.set(func() { r.w.slow["par-1 drain db1"] = 0 }) // the final one, of the unplanned run too, is quick
		begun := time.Now()
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run := r.expect(id, report.RunCommitted) // which waits for what is in flight
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("it took %s", took)
		}
		if len(run.Errors) > 0 || run.Type != recovery.Unplanned {
			t.Errorf("type %s, errors %v", run.Type, failures(run))
		}
	})
}

// TestMachineThatEndsBehindItsStart: it is looked at again before the run calls
// its machines recovered.
func TestMachineThatEndsBehindItsStart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		db := r.w.hosts["lyo-1"].machines["db1"]
		r.w.set(func() { db.power = recovery.PowerStopped })
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		if run := r.expect(id, report.RunStopped); !strings.Contains(run.Reason, "db1 is stopped on lyo-1") || run.ExitCode != fault.ExitStopped {
			t.Errorf("exit %d: %s", run.ExitCode, run.Reason)
		}
		r.w.set(func() { db.power = recovery.PowerRunning })
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunUncommitted)
	})
}

// TestTwoTestsAtOneAddress: the second would be answered by the first's machines.
func TestTwoTestsAtOneAddress(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first := r.start(runtime.Request{Plan: "erp", Type: recovery.Test})
		r.expect(first, report.RunUncommitted)
		second := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, ID: "second"})
		if run := r.expect(second, report.RunRefused); !strings.Contains(run.Reason, "test "+first+" of db1 stands at") {
			t.Errorf("reason: %s", run.Reason)
		}
		r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Force: true, ID: "third"})
		r.expect("third", report.RunUncommitted)
	})
}

// TestNothingToDoIsSaidOfRunningMachinesOnly: what is active where the run would
// take it, and does not run there, is no aim reached.
func TestNothingToDoIsSaidOfRunningMachinesOnly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		home := runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, By: "ann"}
		done := r.start(home)
		r.expect(done, report.RunDone)
		for want, change := range map[string]func(){
			"app1 is active at paris and is stopped there":              func() { r.w.hosts["par-1"].machines["app1"].power = recovery.PowerStopped },
			"nobody knows whether it runs there: par-1 does not answer": func() { r.w.hosts["par-1"].down = true },
		} {
			r.w.set(change)
			_, err := r.engine.Start(t.Context(), home)
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), want) || fault.Hint(err) == "" {
				t.Errorf("%v (hint %s), want %s", err, fault.Hint(err), want)
			}
			r.w.set(func() {
				r.w.hosts["par-1"].down = false
				r.w.hosts["par-1"].machines["app1"].power = recovery.PowerRunning
			})
		}
	})
}

func TestWhatFailedInAnUnplannedRunIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunPartial)
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run := r.expect(id, report.RunUncommitted)
		if r.w.count("lyo-1 start app1") != 1 || r.w.count("lyo-1 start db1") != 1 || len(run.Errors) != 0 {
			t.Errorf("effects %v, errors %v", r.w.effects(), failures(run))
		}
	})
}

// TestUnplannedRunThatMovedNothing: it holds its machines until a person lets it
// try again, or give back what it stopped.
func TestUnplannedRunThatMovedNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := strip(r.w.summary())
		r.w.faults["lyo-1 grant db1"] = -1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Unplanned})
		run := r.expect(id, report.RunPartial)
		if run.ExitCode != fault.ExitPartial || !slices.Contains(run.Allowed, report.OpCancel) || !slices.Contains(run.Allowed, report.OpResume) {
			t.Errorf("exit %d, allowed %v", run.ExitCode, run.Allowed)
		}
		if err := r.engine.Commit(t.Context(), id, "ann"); !fault.Is(err, fault.Refused) {
			t.Errorf("commit: %v", err)
		}
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.expect(id, report.RunCancelled)
		if after := strip(r.w.summary()); after != before {
			t.Errorf("after the cancel:\n%s\nwant\n%s", after, before)
		}
	})
}

// stubborn finishes what it began, whatever its context says.
type stubborn struct{ controllerHost }

func (s stubborn) Run(ctx context.Context, argv, env []string) (int, string, error) {
	<-time.After(time.Second)
	return s.controllerHost.Run(context.WithoutCancel(ctx), argv, env)
}

// TestKnownResultsAreWrittenWhileLeaving: a runtime that leaves at once still
// records what it has come to know.
func TestKnownResultsAreWrittenWhileLeaving(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.close()
		r.engine = runtime.New(runtime.Options{Store: r.store, Caller: r.w, Catalogue: r.cat, Scripts: r.lua, Runner: stubborn{controllerHost{r.w}}})
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, ID: "erp-1"})
		for {
			run, err := r.engine.Show(t.Context(), id)
			r.must(err)
			if step(run, "failover/before:tell the desk").Status == report.StepRunning {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		r.leave()
		r.open()
		run, err := r.engine.Show(t.Context(), id)
		r.must(err)
		if s := step(run, "failover/before:tell the desk"); s.Status != report.StepDone {
			t.Errorf("the step is %s: %v", s.Status, s.Error)
		}
	})
}

func TestNotesOfAnActionAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.funcs[0] = func(_ context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			for range 3 * runtime.MaxNotes {
				h.Note(strings.Repeat("x", 2*runtime.MaxNote))
			}
			return true, "", nil
		}
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunUncommitted)
		records, err := r.engine.Journal(t.Context(), id)
		r.must(err)
		if n := len(records); n < runtime.MaxNotes || n > runtime.MaxNotes+150 {
			t.Errorf("%d records", n)
		}
		if last := run.Notes[len(run.Notes)-1]; !strings.Contains(last.Text, "left out") {
			t.Errorf("the last note: %.80s", last.Text)
		}
	})
}

// TestResumeClaimsAnew: a resume also takes the machines back from a runtime
// that has claimed them meanwhile.
func TestResumeClaimsAnew(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.w.set(func() {
			for _, h := range r.w.hosts {
				for _, m := range h.machines {
					m.fence += 10
				}
			}
		})
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
	})
}

// TestRunThatWasOvertaken: a runtime with another state folder has moved a
// machine. The run leaves that machine's fencing number alone, can only be
// cancelled, and then holds nothing any more.
func TestRunThatWasOvertaken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["par-1 stop db1"] = -1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		var fence uint64
		r.w.set(func() {
			rec := recovery.Authority{Epoch: 9, Active: "lyon", Run: "other"}
			for _, h := range r.w.hosts {
				m := h.machines["app1"]
				m.rec, m.fence = rec, m.fence+10
				fence = uint64(m.fence)
			}
		})
		err := r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"})
		if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "app1") || !strings.Contains(err.Error(), "other") || !strings.Contains(fault.Hint(err), "cancel "+id) {
			t.Errorf("resume: %v (hint %s)", err, fault.Hint(err))
		}
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.settle(id)
		if !run.Status.Ended() || !strings.Contains(run.Reason, "not everything") {
			t.Errorf("after the cancel: %s (%s)", run.Status, run.Reason)
		}
		if m := r.w.hosts["lyo-1"].machines["app1"]; uint64(m.fence) != fence || m.rec.Epoch != 9 {
			t.Errorf("app1 was touched: %+v", m)
		}
		r.w.set(func() { r.w.faults["par-1 stop db1"] = 0 })
		if _, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned, ID: "next"}); err != nil {
			t.Errorf("db1 is not free: %v", err)
		}
		r.settle("next")
	})
}

// TestRoomIsForAllMachinesTogether: each fits, all of them do not.
func TestRoomIsForAllMachinesTogether(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.needs = 40
		one := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Test, Cleanup: true, ID: "one"})
		r.expect(one, report.RunDone)
		all := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, ID: "all"})
		if run := r.expect(all, report.RunRefused); !strings.Contains(run.Reason, "lyo-1 needs 120 B to prepare db1, app1, app2 and has 100 B") {
			t.Errorf("reason: %s", run.Reason)
		}
		forced := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Force: true, ID: "forced"})
		run := r.expect(forced, report.RunUncommitted)
		noted(t, run, "overridden by --force: lyo-1 needs")
	})
}

// TestCheckSurvivesARestartOfItsAgent: an agent that ends answers "interrupted".
func TestCheckSurvivesARestartOfItsAgent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 check db1"], r.w.kinds["lyo-1 check db1"] = 2, fault.Interrupted
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
	})
}

// TestCheckThatRunsOutSaysItOnce: with its time and the last answer.
func TestCheckThatRunsOutSaysItOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 check db1"], r.w.kinds["lyo-1 check db1"] = -1, fault.Unreachable
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		said := run.Errors[0].Error.Message
		if strings.Count(said, "not done within") != 1 || !strings.Contains(said, "; the last answer: ") || strings.Contains(said, "time is up") {
			t.Errorf("it says: %s", said)
		}
	})
}

// TestCheckBeforeTheShutdownAsksTheSource: the machine still runs there, at the
// address that it has there.
func TestCheckBeforeTheShutdownAsksTheSource(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Shutdown.Before = append(r.lua.plan.Shutdown.Before, plans.Step{Kind: plans.StepCheck, Name: "still here", Within: time.Minute,
			Check: &plans.CheckStep{Check: recovery.Check{TCP: "db1:5432"}}})
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunWaiting)
		for name, want := range map[string]string{"shutdown/before:still here": "asked 10.10.0.11", "group:databases/after:postgres answers": "asked 10.20.0.11"} {
			if s := step(run, name); s.Status != report.StepDone || !strings.HasPrefix(s.Detail, want) {
				t.Errorf("%s: %s, %q, want %q", name, s.Status, s.Detail, want)
			}
		}
	})
}

// TestControllerHandsItsRunsOver: what one controller was at when it ended, the
// next one goes on with; what a person has paused stays paused.
func TestControllerHandsItsRunsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		open := func() {
			r.engine = runtime.New(runtime.Options{Store: r.store, Caller: r.w, Catalogue: r.cat, Scripts: r.lua, Runner: controllerHost{r.w}, Controller: true})
		}
		r.close()
		open()
		id := r.start(runtime.Request{Machines: []string{"app1"}, Type: recovery.Planned, ID: "moved"})
		held := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned, ID: "held"})
		<-time.After(100 * time.Millisecond)
		r.must(r.engine.Pause(t.Context(), held, "ann"))
		<-time.After(100 * time.Millisecond)
		r.close()
		open()
		for _, run := range []string{id, held} {
			got, err := r.engine.Show(t.Context(), run)
			r.must(err)
			if got.Status != report.RunPaused {
				t.Fatalf("run %s is %s after the close", run, got.Status)
			}
		}
		ids, err := r.engine.Unfinished(t.Context())
		r.must(err)
		if !slices.Equal(ids, []string{id}) {
			t.Fatalf("unfinished: %v", ids)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "controller"}))
		r.expect(id, report.RunUncommitted)
		r.expect(held, report.RunPaused)
	})
}

// TestResumeDoesNotUndoACancel: the steps in flight end, then what was asked for
// last is done.
func TestResumeDoesNotUndoACancel(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["par-1 drain db1"] = 10 * time.Second
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		<-time.After(time.Second)
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "bob"}))
		r.expect(id, report.RunCancelled)
		if n := r.w.count("par-1 stop db1"); n != 0 {
			t.Errorf("effects: %v", r.w.effects())
		}
	})
}

// TestCleanupThatFailedIsTriedAgain: whatever is used to ask for it.
func TestCleanupThatFailedIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 cleanup app1"] = 2
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Cleanup: true})
		r.expect(id, report.RunStopped)
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunStopped)
		r.must(r.engine.Cleanup(t.Context(), id, "ann"))
		r.expect(id, report.RunDone)
		if r.w.count("lyo-1 cleanup app1") != 1 || r.w.count("lyo-1 cleanup db1") != 1 {
			t.Errorf("effects: %v", r.w.effects())
		}
	})
}

// TestStartThatFailedInACancelIsTriedAgain: the machine was failed over, and the
// cancel could not start it.
func TestStartThatFailedInACancelIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"], r.w.faults["lyo-1 start app1"] = 1, 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		run := r.expect(id, report.RunPartial)
		if !slices.Contains(run.Allowed, report.OpResume) || slices.Contains(run.Allowed, report.OpCancel) {
			t.Errorf("allowed: %v", run.Allowed)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run = r.expect(id, report.RunPartial)
		if r.w.count("lyo-1 start app1") != 1 || slices.Contains(run.Allowed, report.OpResume) {
			t.Errorf("effects %v, allowed %v", r.w.effects(), run.Allowed)
		}
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
	})
}

// TestRefusalAfterALostAnswer: a program that may have run is not known to have
// failed because another run's claim keeps its host from saying so.
func TestRefusalAfterALostAnswer(t *testing.T) {
	for lost, want := range map[bool]report.StepStatus{true: report.StepUnknown, false: report.StepFailed} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const program = "par-1 exec db1"
				if lost {
					r.w.lost[program] = 1
					r.w.slow[program] = 100 * time.Millisecond
				} else {
					r.w.faults[program], r.w.kinds[program] = 1, fault.Conflict
				}
				id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
				for lost := lost; lost; { // then another run claims the machine
					<-time.After(time.Millisecond)
					r.w.set(func() {
						if lost = r.w.lost[program] > 0; !lost {
							r.w.faults[program], r.w.kinds[program] = 1, fault.Conflict
						}
					})
				}
				run := r.settle(id)
				i := slices.IndexFunc(run.Steps, func(s report.Step) bool { return strings.HasSuffix(s.ID, "drain the pooler") })
				if i < 0 || run.Steps[i].Status != want {
					t.Errorf("the run is %s, the step %+v", run.Status, run.Steps[i])
				}
			})
		})
	}
}
