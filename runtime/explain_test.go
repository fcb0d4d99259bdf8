package runtime_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/proving"
	"github.com/drrun/drrun/runtime/report"
)

// TestEstimateIsThePastRun: what a plan is expected to take is what its only run
// has taken, laid out anew: the machines are ready at the same time.
func TestEstimateIsThePastRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		x, err := r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.must(err)
		if x.Estimate != nil || strings.Contains(x.Text, "estimate") {
			t.Errorf("without a run it is expected to take %+v:\n%s", x.Estimate, x.Text)
		}
		for what, took := range map[string]time.Duration{"par-1 stop db1": 10 * time.Second, "par-1 drain app1": 7 * time.Second, "lyo-1 start app1": 20 * time.Second, "lyo-1 prepare db1": 3 * time.Second} {
			r.w.slow[what] = took
		}
		id := r.attended(recovery.Planned)
		run := r.expect(id, report.RunUncommitted)
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunRolledBack)

		x, err = r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.must(err)
		if x.Estimate == nil {
			t.Fatalf("nothing is expected:\n%s", x.Text)
		}
		waited := 0.0
		for _, s := range run.Steps {
			if s.Kind == "wait" {
				waited += s.Seconds
			}
		}
		if want := run.RTO.Measured - waited; math.Abs(x.Estimate.Ready-want) > 0.5 || x.Estimate.RTO != run.RTO.Aim {
			t.Errorf("expected to be ready after %.2f s, the run was after %.2f s (waits left out)\n%s", x.Estimate.Ready, want, x.Text)
		}
		critical := 0.0
		for _, l := range x.Steps {
			if l.Estimate.Critical {
				critical += l.Estimate.Took
			}
		}
		if math.Abs(critical-x.Estimate.Ends) > 0.001 {
			t.Errorf("the critical path takes %.2f s of %.2f s", critical, x.Estimate.Ends)
		}
		for _, part := range []string{"lock it (by force after 2m)  [10.0s, one planned run]", "the machines are ready after"} {
			if !strings.Contains(x.Text, part) {
				t.Errorf("%q is not said in\n%s", part, x.Text)
			}
		}
		unplanned, err := r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		r.must(err)
		if !strings.Contains(unplanned.Text, "start app1 on lyo-1  [20.0s, one planned run]") || !strings.Contains(unplanned.Text, "nothing is known of") {
			t.Errorf("an unplanned run, of which only a planned one tells:\n%s", unplanned.Text)
		}
	})
}

// TestNotIsolated: a test says which machines drrun does not keep apart from the
// production network, before it and in its record; other runs do not.
func TestNotIsolated(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for i := range r.cat.estate.Machines {
			if m := &r.cat.estate.Machines[i]; m.Name == "db1" {
				m.Exec = nil
			}
		}
		const says = "not isolated by drrun: app1, app2 ("
		for _, typ := range []recovery.Type{recovery.Test, recovery.Planned} {
			x, err := r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: typ, DryRun: true})
			r.must(err)
			if strings.Contains(x.Text, says) != (typ == recovery.Test) {
				t.Errorf("the dry run of a %s failover:\n%s", typ, x.Text)
			}
		}
		noted(t, r.expect(r.attended(recovery.Test), report.RunUncommitted), says)
	})
}

// TestTestsOfAPlan: a plan is judged by the tests of its failover that have ended;
// those of its failback prove nothing of it.
func TestTestsOfAPlan(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		for id, failback := range map[string]bool{"there": false, "back": true} {
			r.start(runtime.Request{ID: id, Plan: "erp", Type: recovery.Test, Failback: failback, Cleanup: true})
			r.expect(id, report.RunDone)
		}
		tests, err := r.engine.Tests(t.Context(), "erp", 5)
		r.must(err)
		if len(tests) != 1 || tests[0].Run.ID != "there" || tests[0].Estate == nil || tests[0].Hash == "" {
			t.Errorf("%d tests: %+v", len(tests), tests)
		}
		for _, m := range tests[0].Run.Machines { // its record has the sums of what it used
			if p := m.Point; p == nil || len(p.Disks) != 1 || p.Disks[0] != (report.PointDisk{Name: "root", Size: 1 << 20, Sum: fmt.Sprintf("%016x", p.Seq*1000)}) {
				t.Errorf("%s: point %+v", m.Name, p)
			}
		}
	})
}

// TestTestsThatEndEarly: a test whose time was over before its end has failed, and
// says so; one that a person cancelled says nothing of its plan.
func TestTestsThatEndEarly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = nil
		for _, id := range []string{"late", "given-up"} { // both wait for somebody
			r.start(runtime.Request{ID: id, Plan: "erp", Type: recovery.Test, TTL: time.Hour})
			r.expect(id, report.RunWaiting)
			if id == "given-up" {
				r.must(r.engine.Cancel(t.Context(), id, "ann"))
			}
			<-time.After(2 * time.Hour)
			r.expect(id, report.RunCancelled)
		}
		tests, err := r.engine.Tests(t.Context(), "erp", 5)
		r.must(err)
		if len(tests) != 1 || tests[0].Run.ID != "late" {
			t.Fatalf("%d tests: %+v", len(tests), tests)
		}
		runs, err := r.engine.Runs(t.Context())
		r.must(err)
		for _, why := range []string{strings.Join(proving.Faults(tests[0].Run), ""), runs[0].Reason} {
			if !strings.Contains(why, "its time was over before it came to its end") {
				t.Errorf("it says %q", why)
			}
		}
	})
}
