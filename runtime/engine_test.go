package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// rig is an engine over a fake world.
type rig struct {
	t      *testing.T
	w      *world
	store  store.Store
	engine *runtime.Engine
	cat    *catalogue
	lua    *scripts
}

func newRig(t *testing.T) *rig {
	t.Helper()
	p := testPlan()
	r := &rig{t: t, w: newWorld("db1", "app1", "app2"), store: store.NewMemory(), cat: &catalogue{estate: testEstate(), plan: p}}
	r.lua = &scripts{plan: p, funcs: []func(context.Context, plans.RunInfo, plans.HostCalls) (bool, string, error){r.pointDNS}}
	if err := plans.Check(p, r.cat.estate); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

// pointDNS is an action of an idempotent and an unsafe operation and a program
// on a host.
func (r *rig) pointDNS(ctx context.Context, info plans.RunInfo, h plans.HostCalls) (bool, string, error) {
	if _, err := h.Now(ctx); err != nil {
		return false, "", err
	}
	ip, err := json.Marshal(info.Machines["db1"].IP)
	if err != nil {
		return false, "", err
	}
	_, err = h.Op(ctx, "dns.update", plans.OpIdempotent, ip, func(_ context.Context, key string) (json.RawMessage, error) {
		r.w.mu.Lock()
		defer r.w.mu.Unlock()
		if r.w.ops["dns "+key] == "" {
			r.w.ops["dns "+key] = key
			r.w.happened("dns.update %s", ip)
		}
		return nil, nil
	})
	if err != nil {
		return false, "", err
	}
	h.Note("DNS points at " + info.Machines["db1"].IP)
	_, err = h.Op(ctx, "exec", plans.OpIdempotent, json.RawMessage(`["reload"]`), func(ctx context.Context, key string) (json.RawMessage, error) {
		exit, _, err := h.Exec(ctx, key, "app1", []string{"systemctl", "reload"})
		return mustJSON(exit), err
	})
	if err != nil {
		return false, "", err
	}
	_, err = h.Op(ctx, "http.post", plans.OpUnsafe, json.RawMessage(`"ticket"`), func(context.Context, string) (json.RawMessage, error) {
		r.w.mu.Lock()
		defer r.w.mu.Unlock()
		r.w.happened("http.post ticket")
		return nil, nil
	})
	return err == nil, "3 operations", err
}

func (r *rig) open() {
	r.engine = runtime.New(runtime.Options{Store: r.store, Caller: r.w, Catalogue: r.cat, Scripts: r.lua, Runner: controllerHost{r.w},
		Clock: clock.Real{}, NewID: func(plan string) string { return plan + "-1" }})
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.engine.Close(r.t.Context()); err != nil && !errors.Is(err, errCrash) {
		r.t.Errorf("close: %v", err)
	}
}

func (r *rig) start(req runtime.Request) string {
	r.t.Helper()
	if req.By == "" {
		req.By = "ann"
	}
	id, err := r.engine.Start(r.t.Context(), req)
	if err != nil {
		r.t.Fatalf("start: %v (hint: %s)", err, fault.Hint(err))
	}
	return id
}

// settle waits until the run does nothing by itself any more.
func (r *rig) settle(id string) *report.Run {
	r.t.Helper()
	var seen int64
	for n := range 100_000 {
		// Nothing was written: nothing to see, or no more than every five seconds.
		rev, err := r.store.Rev(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		if rev == seen && n%20 != 0 {
			<-time.After(250 * time.Millisecond)
			continue
		}
		seen = rev
		run, err := r.engine.Show(r.t.Context(), id)
		if err != nil {
			r.t.Fatal(err)
		}
		if !run.Status.Busy() {
			synctest.Wait()
			if run, err = r.engine.Show(r.t.Context(), id); err != nil {
				r.t.Fatal(err)
			}
			if !run.Status.Busy() {
				return run
			}
		}
		<-time.After(250 * time.Millisecond)
	}
	r.t.Fatal("the run does not come to rest")
	return nil
}

func (r *rig) expect(id string, want report.RunStatus) *report.Run {
	r.t.Helper()
	run := r.settle(id)
	if run.Status != want {
		r.t.Fatalf("run is %s (%s; hint %s), want %s\nerrors: %v\n%s", run.Status, run.Reason, run.Hint, want, failures(run), strings.Join(r.w.effects(), "\n"))
	}
	for _, b := range r.w.broken {
		r.t.Errorf("contract broken: %s", b)
	}
	for host, h := range r.w.hosts {
		for name, m := range h.machines {
			if run.Status.Ended() && m.taken == id && !h.down {
				r.t.Errorf("the run is over, and %s holds %s for it", host, name)
			}
		}
	}
	return run
}

func failures(run *report.Run) []string {
	var out []string
	for _, f := range run.Errors {
		out = append(out, f.Step+": "+f.Error.Message)
	}
	return out
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v (hint: %s)", err, fault.Hint(err))
	}
}

// golden compares the trace of a run with a file: what happened, what was
// shown, and how it ended.
func (r *rig) golden(name, id string) {
	r.t.Helper()
	run, err := r.engine.Show(r.t.Context(), id)
	r.must(err)
	var b strings.Builder
	fmt.Fprintf(&b, "# effects\n%s\n\n# steps\n", strings.Join(r.w.effects(), "\n"))
	for _, s := range run.Steps {
		fmt.Fprintf(&b, "%3d %-40s %-8s %s\n", s.Number, s.ID, s.Status, strings.TrimSpace(s.Reason+" "+s.Detail))
	}
	fmt.Fprintf(&b, "\n# run\n%s, exit %d: %s\nallowed: %v\n", run.Status, run.ExitCode, run.Reason, run.Allowed)
	for _, e := range run.Errors {
		fmt.Fprintf(&b, "error: %s: %s (hint: %s)\n", e.Step, e.Error.Message, e.Error.Hint)
	}
	for _, n := range run.Notes {
		fmt.Fprintf(&b, "note: %s\n", strings.TrimSpace(n.Step+" "+n.Text))
	}
	for _, s := range run.Statements {
		fmt.Fprintf(&b, "statement: %s by %s %s\n", s.What, s.By, s.Text)
	}
	if run.RTO != nil {
		fmt.Fprintf(&b, "rto: %.1f s, rpo: %.1f s\n", run.RTO.Measured, run.RPO.Measured)
	}
	fmt.Fprintf(&b, "\n# world\n%s", r.w.summary())
	goldenFile(r.t, name, b.String())
}

func goldenFile(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", file, got)
	}
}

func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() { r.close() }()
		f(t, r)
	})
}

func TestPlannedThenCommitThenFailback(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunWaiting)
		if run.ExitCode != fault.ExitWaiting || len(run.Waits) != 1 || run.Waits[0].Role != "approver" {
			t.Errorf("waits: %+v, exit %d", run.Waits, run.ExitCode)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob", Text: "ledger is fine"}))
		r.expect(id, report.RunUncommitted)
		r.golden("planned", id)
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
		r.golden("planned-committed", id)

		again := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, ID: "again"})
		run = r.expect(again, report.RunDone)
		if !strings.Contains(run.Reason, "nothing to do") || run.ExitCode != 0 {
			t.Errorf("second run: %s, exit %d", run.Reason, run.ExitCode)
		}
		back := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, Failback: true, Commit: true, ID: "back"})
		r.expect(back, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), back, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(back, report.RunCommitted)
		r.golden("failback", back)
	})
}

func TestUnplannedThenReverse(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].down = true
		_, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned, ID: "no", By: "ann"})
		r.must(err)
		run := r.expect("no", report.RunRefused)
		if run.ExitCode != fault.ExitRefused || !strings.Contains(run.Hint, "--source-is-down") {
			t.Errorf("exit %d, hint %q", run.ExitCode, run.Hint)
		}
		if got := r.w.effects(); len(got) != 0 {
			t.Errorf("a refused run changed something: %v", got)
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, SourceIsDown: true})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunUncommitted)
		r.golden("unplanned", id)
		if _, err := r.engine.Reverse(t.Context(), runtime.ReverseRequest{Plan: "erp", By: "ann"}); !fault.Is(err, fault.Refused) {
			t.Errorf("reverse before commit: %v", err)
		}
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)

		r.w.hosts["par-1"].down = false // the old site comes back with its old record, and two machines run there
		r.w.hosts["par-1"].machines["app2"].power = recovery.PowerStopped
		rev, err := r.engine.Reverse(t.Context(), runtime.ReverseRequest{Plan: "erp", By: "ann", ID: "rev"})
		r.must(err)
		r.expect(rev, report.RunDone)
		r.golden("reverse", rev)
	})
}

func TestTestRunAndCleanup(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := r.w.summary()
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Point: "latest-app"})
		run := r.expect(id, report.RunUncommitted)
		if run.Machines[0].IP != "10.99.0.11" {
			t.Errorf("address in the test: %s", run.Machines[0].IP)
		}
		r.must(r.engine.Cleanup(t.Context(), id, "ann"))
		r.expect(id, report.RunDone)
		r.golden("test", id)
		if after := r.w.summary(); after != before {
			t.Errorf("the test changed the world:\n%s", after)
		}
		auto := r.start(runtime.Request{Plan: "erp", Type: recovery.Test, Cleanup: true, ID: "auto"})
		r.expect(auto, report.RunDone)
	})
}

func TestErrorStopsPlannedAndResumeGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		if run.ExitCode != fault.ExitStopped || len(run.Errors) != 1 {
			t.Errorf("exit %d, errors %v", run.ExitCode, failures(run))
		}
		if _, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"app1"}, Type: recovery.Planned, Failback: true, ID: "second"}); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), id) {
			t.Errorf("second run on the machine: %v", err)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "stop", By: "bob"}))
		r.expect(id, report.RunStopped)
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "business go/no-go", Word: "go", By: "bob"}))
		r.expect(id, report.RunUncommitted)
		r.golden("stopped-and-resumed", id)
	})
}

func TestErrorsDoNotStopUnplanned(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = -1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run := r.expect(id, report.RunPartial)
		if run.ExitCode != fault.ExitPartial {
			t.Errorf("exit %d", run.ExitCode)
		}
		r.golden("unplanned-partial", id)
	})
}

func TestSourceDiesAndRunGoesOnAsUnplanned(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.slow["par-1 stop db1"] = time.Second
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		for !strings.Contains(strings.Join(r.w.effects(), "\n"), "par-1 stop app2") {
			<-time.After(time.Millisecond)
		}
		r.w.mu.Lock()
		r.w.hosts["par-1"].down = true
		r.w.mu.Unlock()
		run := r.expect(id, report.RunStopped)
		if !strings.Contains(strings.Join(failures(run), ""), "stop db1") {
			t.Errorf("errors: %v", failures(run))
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{As: recovery.Unplanned, By: "ann"}))
		run = r.expect(id, report.RunWaiting) // db1: nobody knows whether it runs
		if len(run.Waits) != 1 || run.Waits[0].Answers[0] != runtime.SourceIsDown {
			t.Fatalf("waits: %+v", run.Waits)
		}
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: runtime.SourceIsDown, By: "bob", Text: "on the phone"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunUncommitted)
		r.golden("as-unplanned", id)
	})
}

// TestStoppedIsNotLocked: a source that stands still may be started by its
// agent the next moment, until it has given up the right to.
func TestStoppedIsNotLocked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, m := range r.w.hosts["par-1"].machines {
			m.power = recovery.PowerStopped
		}
		r.w.hosts["par-1"].machines["db1"].locked = true
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, NoShutdown: true})
		run := r.expect(id, report.RunWaiting)
		if len(run.Waits) != 2 {
			t.Fatalf("waits: %+v", run.Waits)
		}
		for _, q := range run.Waits {
			if !strings.Contains(q.Ask, "stopped on par-1 and not locked") || q.Answers[0] != runtime.SourceIsDown {
				t.Errorf("%s asks %q, answers %v", q.Step, q.Ask, q.Answers)
			}
		}
		r.w.mu.Lock()
		r.w.hosts["par-1"].machines["app1"].locked = true
		r.w.mu.Unlock()
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "right-to-run/app1", Word: "again", By: "bob"}))
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "right-to-run/app2", Word: runtime.SourceIsDown, By: "bob"}))
		r.expect(id, report.RunWaiting) // as the plan says
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		run = r.expect(id, report.RunUncommitted)
		if !slices.ContainsFunc(run.Statements, func(s report.Statement) bool { return s.What == runtime.SourceIsDown && s.By == "bob" }) {
			t.Errorf("statements: %+v", run.Statements)
		}
	})
}

// TestCommitNeedsDisks: a machine that was failed over and has no disks at its
// new site could run nowhere after a commit.
func TestCommitNeedsDisks(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 prepare app1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
		r.expect(id, report.RunPartial)
		if err := r.engine.Commit(t.Context(), id, "ann"); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "app1 was failed over and has no disks") {
			t.Errorf("commit: %v", err)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunUncommitted)
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
	})
}

// TestCancelLeavesWhatAnotherRunMoved: the old site, cut off, does not know that
// another runtime has failed the machine over meanwhile, and would start it again.
func TestCancelLeavesWhatAnotherRunMoved(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["par-1 stop db1"] = 1
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.w.mu.Lock()
		held := r.w.hosts["par-1"].machines["app1"]
		if held.power != recovery.PowerStopped || !held.locked {
			t.Fatalf("app1 is %s, locked %v", held.power, held.locked)
		}
		r.w.slow["par-1 unlock app2"] = time.Second // the cancel is under way
		r.w.slow["par-1 unlock app1"] = time.Second
		r.w.mu.Unlock()
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.w.mu.Lock()
		there := r.w.hosts["lyo-1"].machines["app1"]
		there.rec.Epoch, there.rec.Active, there.rec.Run, there.power = there.rec.Epoch+1, "lyon", "other", recovery.PowerRunning
		r.w.mu.Unlock()
		run := r.expect(id, report.RunCancelled)
		if text := strings.Join(failures(run), "\n"); !strings.Contains(text, "not given back to par-1: lyo-1 holds epoch 2 of run other") {
			t.Errorf("errors: %s", text)
		}
		if held.power == recovery.PowerRunning || !held.locked {
			t.Errorf("app1 is %s on par-1, locked %v", held.power, held.locked)
		}
	})
}

func TestCancelGivesBackWhatWasStopped(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := r.w.summary()
		r.w.faults["par-1 drain app2"] = 1 // the sync ahead
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunStopped)
		r.w.faults["par-1 stop db1"] = 1
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunStopped)
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.expect(id, report.RunCancelled)
		r.golden("cancelled", id)
		if strip(r.w.summary()) != strip(before) {
			t.Errorf("after the cancel:\n%s", r.w.summary())
		}
		if _, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, ID: "next"}); err != nil {
			t.Errorf("a run after the cancel: %v", err)
		}
		r.settle("next")
	})
}

// strip drops the number of points.
func strip(s string) string {
	var out []string
	for _, l := range strings.Split(s, "\n") {
		l, _, _ = strings.Cut(l, " points=")
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}
