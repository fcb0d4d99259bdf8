package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

const asking = "group:application/after:point DNS"

// asks makes the action of the plan one that does something that may not be
// repeated on both sides of a question, and keeps a value over it.
func (r *rig) asks(q plans.Question) {
	r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
	r.lua.plan.Items[2].Group.After[0].Only, r.lua.plan.Items[2].Group.After[0].Skip = plans.AllTypes(), nil
	r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
		effect := func(what string) error {
			_, err := h.Op(ctx, what, plans.OpUnsafe, nil, func(context.Context, string) (json.RawMessage, error) {
				r.w.mu.Lock()
				defer r.w.mu.Unlock()
				r.w.happened("%s", what)
				return nil, nil
			})
			return err
		}
		if err := effect("http.post ticket"); err != nil {
			return false, "", err
		}
		if err := h.Set(ctx, "ticket", json.RawMessage(`42`)); err != nil {
			return false, "", err
		}
		h.Note("asks")
		a, err := h.Ask(ctx, q)
		if err != nil {
			return true, "it looked fine", nil //nolint:nilerr // a plan that hides the error does not hide the question
		}
		ticket, err := h.Get(ctx, "ticket")
		if err != nil {
			return false, "", err
		}
		h.Note(fmt.Sprintf("ticket %s: %v by %q (%s)", ticket, a.Go, a.By, a.Text))
		return true, "", effect("close ticket")
	}
}

func question(within time.Duration, onTimeout string) plans.Question {
	return plans.Question{Within: within, WaitStep: plans.WaitStep{Ask: "is the ledger well?", Role: "approver", OnTimeout: onTimeout}}
}

// TestActionWaitsForAPerson: the question is shown as that of a wait, outlives
// the runtime and the time of the step, and what stands before it is done once.
func TestActionWaitsForAPerson(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.asks(question(2*time.Hour, ""))
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunWaiting)
		asked := time.Now()
		if len(run.Waits) != 1 {
			t.Fatalf("waits: %+v", run.Waits)
		}
		w := run.Waits[0]
		if w.Step != asking || w.Name != "point DNS" || w.Ask != "is the ledger well?" || w.Role != "approver" || w.Timeout != "stop" ||
			!slices.Equal(w.Answers, []string{"go", "stop"}) || w.Deadline.Sub(w.Since) != 2*time.Hour || run.ExitCode != fault.ExitWaiting ||
			!strings.Contains(run.Reason, "is the ledger well?") || !strings.Contains(run.Hint, "drrun answer erp-1 go|stop") {
			t.Errorf("wait: %+v; exit %d, %s (%s)", w, run.ExitCode, run.Reason, run.Hint)
		}
		<-time.After(30 * time.Minute) // the step may take one
		r.close()
		r.restart()
		run = r.expect(id, report.RunWaiting)
		if d := run.Waits[0].Deadline; d.Sub(asked) < 2*time.Hour+29*time.Minute {
			t.Errorf("after the restart the deadline is %s after the question", d.Sub(asked))
		}
		if s := step(run, asking); s.Status != report.StepWaiting {
			t.Errorf("the step is %s", s.Status)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob", Text: "checked"}))
		run = r.expect(id, report.RunUncommitted)
		noted(t, run, `ticket 42: true by "bob" (checked)`)
		once(t, r.w.effects())
		if n := len(slices.DeleteFunc(slices.Clone(run.Notes), func(n report.Note) bool { return n.Text != "asks" })); n != 1 {
			t.Errorf("the note before the question is there %d times", n)
		}
		if len(run.Statements) != 1 || run.Statements[0].By != "bob" || run.Statements[0].Text != "checked" {
			t.Errorf("statements: %+v", run.Statements)
		}
	})
}

// TestQuestionSurvivesEveryCrash: the runtime dies at each record in turn.
func TestQuestionSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	var answered atomic.Int32
	t.Cleanup(func() { // the runs are parallel
		if answered.Load() < 3 {
			t.Errorf("%d runs lived up to the question", answered.Load())
		}
	})
	for n := 10; n < 90; n++ {
		t.Run("", func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.close()
				r.asks(question(time.Hour, ""))
				r.lua.plan.Failover.Before = nil
				inner := r.store
				r.store = &crashStore{Store: inner, left: n, after: n%2 == 0}
				r.open()
				id := "erp-1"
				if _, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann"}); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Minute)
				if run, err := r.engine.Show(t.Context(), id); err == nil && run.Status == report.RunWaiting {
					answered.Add(1)
					_ = r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}) // the runtime may die of it
					<-time.After(time.Minute)
				}
				r.close()
				r.store = inner
				r.restart()
				run := r.operator(id)
				if run.Status != report.RunUncommitted {
					t.Fatalf("%s: %s", run.Status, run.Reason)
				}
				once(t, r.w.effects())
				for _, want := range []string{"http.post ticket", "close ticket"} {
					if !slices.Contains(r.w.effects(), want) {
						t.Errorf("%s did not happen", want)
					}
				}
			})
		})
	}
}

// TestQuestionOfAnActionThatIsNotAnswered: as a wait does, it stops the run, or
// lets it go on; a no is not tried again.
func TestQuestionOfAnActionThatIsNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.asks(question(10*time.Minute, "stop"))
		r.lua.plan.Items[2].Group.After[0].Retry = plans.Retry{Times: 3, Every: time.Second}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		<-time.After(11 * time.Minute)
		run := r.expect(id, report.RunStopped)
		if !strings.Contains(run.Reason, "nobody answered") || !strings.Contains(run.Reason, "10m") || run.ExitCode != fault.ExitStopped {
			t.Errorf("exit %d: %s", run.ExitCode, run.Reason)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "point DNS", Word: "stop", By: "bob", Text: "not yet"}))
		run = r.expect(id, report.RunStopped)
		if !strings.Contains(run.Reason, "stop by bob: not yet") {
			t.Errorf("reason: %s", run.Reason)
		}
		r.asks(question(10*time.Minute, "continue"))
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		<-time.After(11 * time.Minute)
		noted(t, r.expect(id, report.RunUncommitted), `ticket 42: false by "" (nobody answered in time)`)
	})
}

// TestDrillAnswersTheQuestionOfAnAction: as the plan says, and no without.
func TestDrillAnswersTheQuestionOfAnAction(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		drill := func(id, unattended string, want report.RunStatus) *report.Run {
			q := question(time.Hour, "")
			q.Unattended = unattended
			r.asks(q)
			return r.expect(r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Unattended: true, Cleanup: true, ID: id}), want)
		}
		noted(t, drill("well", "go", report.RunDone), `ticket 42: true by "the plan (unattended)" ()`)
		if run := drill("ill", "", report.RunFailed); !strings.Contains(strings.Join(failures(run), " "), "stop by the plan") {
			t.Errorf("errors: %v", failures(run))
		}
	})
}

// TestCheckOnlyAsksTheWorld: it is asked again and again, so it keeps nothing
// and puts no question to a person.
func TestCheckOnlyAsksTheWorld(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		check := &r.lua.plan.Items[0].Group.After[0]
		check.Check = &plans.CheckStep{Func: &plans.FuncRef{Index: 1}}
		r.lua.funcs = append(r.lua.funcs, func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			if v, err := h.Get(ctx, "x"); err != nil || string(v) != "null" {
				return false, "", err
			}
			if err := h.Set(ctx, "x", json.RawMessage("1")); !fault.Is(err, fault.Invalid) {
				t.Errorf("set: %v", err)
			}
			_, err := h.Ask(ctx, question(0, ""))
			return true, "", err
		})
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		if !strings.Contains(run.Reason, "run:ask: a check only asks the world") {
			t.Errorf("reason: %s", run.Reason)
		}
	})
}

// TestValuesOfARun: one action finds what another has kept, as it was when it
// first asked, and there is a limit.
func TestValuesOfARun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		after := &r.lua.plan.Items[2].Group.After
		second := (*after)[0]
		second.Name, second.Action = "second", &plans.FuncRef{Index: 1}
		*after = append(*after, second)
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			for i := range runtime.MaxValues {
				if err := h.Set(ctx, fmt.Sprint("k", i), json.RawMessage(`{"n":1}`)); err != nil {
					return false, "", err
				}
			}
			if err := h.Set(ctx, "k1", json.RawMessage(`null`)); err != nil {
				return false, "", err
			}
			return true, "", nil
		}
		r.lua.funcs = append(r.lua.funcs, func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			a, err := h.Get(ctx, "k0")
			if err != nil {
				return false, "", err
			}
			b, err := h.Get(ctx, "k1")
			if err != nil {
				return false, "", err
			}
			h.Note(fmt.Sprintf("k0 %s k1 %s", a, b))
			for _, name := range []string{"k0", "new", "one too many"} {
				if err := h.Set(ctx, name, json.RawMessage(`2`)); err != nil {
					return false, "", err
				}
			}
			return true, "", nil
		})
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		noted(t, run, `k0 {"n":1} k1 null`)
		if !strings.Contains(run.Reason, "the run keeps 1000 values already") {
			t.Errorf("reason: %s", run.Reason)
		}
	})
}

// TestActionRunsProgramsOnTheController: those that the estate allows, and they
// are told of the run as a step's are.
func TestActionRunsProgramsOnTheController(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			_, _, err := h.Exec(ctx, "k", "", []string{"rm", "all"})
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), `does not allow the program "rm" on the controller`) {
				t.Errorf("rm: %v", err)
			}
			exit, out, err := h.Exec(ctx, "k", "", []string{"notify", "ops"})
			return exit == 0, out, err
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunUncommitted)
		if all := r.w.effects(); !slices.Contains(all, "controller notify ops") || slices.Contains(all, "controller rm all") {
			t.Errorf("effects: %q", all)
		}
	})
}
