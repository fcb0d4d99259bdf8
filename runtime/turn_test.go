package runtime_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// turnIn lets the source die in the middle of a step that both a planned and an
// unplanned run have, and turns the run at once.
func turnIn(t *testing.T, r *rig, effect, slow string) (run *report.Run, begun time.Time) {
	r.w.slow[slow] = time.Second
	id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
	for !slices.ContainsFunc(r.w.effects(), func(e string) bool { return len(e) >= len(effect) && e[:len(effect)] == effect }) {
		<-time.After(time.Millisecond)
	}
	<-time.After(100 * time.Millisecond)
	r.w.set(func() { r.w.hosts["par-1"].down = true })
	<-time.After(10 * time.Second)
	begun = time.Now()
	r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"}))
	r.expect(id, report.RunWaiting)
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
	return r.expect(id, report.RunUncommitted), begun
}

func lossOf(t *testing.T, run *report.Run, machine string) float64 {
	t.Helper()
	i := slices.IndexFunc(run.Machines, func(m report.Machine) bool { return m.Name == machine })
	if run.Machines[i].Loss == nil {
		t.Fatalf("nothing is said of the loss of %s", machine)
	}
	return *run.Machines[i].Loss
}

// TestTurnedInAStop: a stop in flight had to be done, and is only tried from then
// on. A machine that nobody knows the stop of may have written until the run was
// turned: the loss is not less than that.
func TestTurnedInAStop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		run, turned := turnIn(t, r, "par-1 stop app2", "par-1 stop db1")
		point := run.Machines[slices.IndexFunc(run.Machines, func(m report.Machine) bool { return m.Name == "db1" })].Point
		if got, want := lossOf(t, run, "db1"), turned.Sub(point.Instant).Seconds(); got < want {
			t.Errorf("the run says %.1f s of loss, it may be %.1f s", got, want)
		}
	})
}

// TestTurnedInATellingOfTheEpoch: so is the telling of the old site. All is
// drained by then: nothing is lost.
func TestTurnedInATellingOfTheEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		run, _ := turnIn(t, r, "lyo-1 epoch 2 of db1", "par-1 grant db1")
		for _, m := range []string{"db1", "app1", "app2"} {
			if got := lossOf(t, run, m); got != 0 {
				t.Errorf("%s: the run says %.1f s of loss", m, got)
			}
		}
	})
}

// TestStatementThatDoesNotHold: a person states that the old site is down, its
// machine is seen running there, and the site falls silent again: the statement
// of before does not start the machine at the new site, a fresh one does.
func TestStatementThatDoesNotHold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].down, r.w.slow["lyo-1 claim db1"] = true, 20*time.Second
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Unplanned, SourceIsDown: true, NoShutdown: true})
		<-time.After(10 * time.Second) // preflight is over
		r.w.set(func() { r.w.hosts["par-1"].down = false })
		if run := r.expect(id, report.RunWaiting); !strings.Contains(run.Waits[0].Ask, "known to run") {
			t.Fatalf("waits: %+v", run.Waits)
		}
		r.w.set(func() { r.w.hosts["par-1"].down = true })
		r.close()
		r.restart() // the next runtime knows it, too
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "again", By: "ann"}))
		run := r.expect(id, report.RunWaiting)
		noted(t, run, "the statement that paris is down does not hold")
		if !strings.Contains(run.Waits[0].Ask, "nobody knows") || r.w.hosts["lyo-1"].machines["db1"].rec.Epoch != 1 {
			t.Fatalf("waits: %+v", run.Waits)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: runtime.SourceIsDown, By: "ann"}))
		r.expect(id, report.RunUncommitted)
	})
}
