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

// silent starts a run in which a host does a step and no answer arrives, and
// returns when the run waits for that host.
func silent(t *testing.T, r *rig, typ recovery.Type, key string) string {
	t.Helper()
	r.w.set(func() { r.w.lost[key] = -1 })
	id := r.attended(typ)
	for range 10_000 {
		run, err := r.engine.Show(t.Context(), id)
		r.must(err)
		if slices.ContainsFunc(run.Steps, func(s report.Step) bool {
			return s.Progress != nil && strings.Contains(s.Progress.Phase, "waits for")
		}) {
			return id
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("the run waits for nobody")
	return ""
}

// TestPauseLeavesASilentHost: a person who pauses waits for no host that is
// silent. What it was asked for is not known, and not done twice on resume.
func TestPauseLeavesASilentHost(t *testing.T) {
	for _, c := range []struct {
		typ recovery.Type
		key string
	}{
		{recovery.Planned, "lyo-1 start db1"}, {recovery.Planned, "par-1 stop app1"}, {recovery.Planned, "lyo-1 grant db1"},
		{recovery.Planned, "lyo-1 prepare app2"}, {recovery.Unplanned, "lyo-1 start app1"}, {recovery.Unplanned, "lyo-1 prepare db1"},
	} {
		t.Run(string(c.typ)+" "+c.key, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				id := silent(t, r, c.typ, c.key)
				asked := time.Now()
				r.must(r.engine.Pause(t.Context(), id, "ann"))
				run := r.expect(id, report.RunPaused)
				if waited := time.Since(asked); waited > 10*time.Second {
					t.Errorf("paused after %v", waited)
				}
				noted(t, run, "left without an answer, it may have been done")
				if len(run.Errors) > 0 {
					t.Errorf("an unknown outcome is called %+v", run.Errors)
				}
				r.w.set(func() { r.w.lost[c.key] = 0 })
				r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
				r.expect(id, report.RunUncommitted)
				what, n := strings.Replace(c.key, "grant", "epoch 2 of", 1), 0
				for _, e := range r.w.effects() {
					if strings.HasPrefix(e, what) {
						n++
					}
				}
				if n != 1 {
					t.Errorf("%s happened %d times:\n%s", what, n, strings.Join(r.w.effects(), "\n"))
				}
			})
		})
	}
}

// TestCancelLeavesASilentHost: the run is taken back from where it may be.
func TestCancelLeavesASilentHost(t *testing.T) {
	for _, key := range []string{"lyo-1 start db1", "par-1 stop app1", "lyo-1 grant db1", "lyo-1 prepare app2"} {
		t.Run(key, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				id := silent(t, r, recovery.Planned, key)
				asked := time.Now()
				r.must(r.engine.Cancel(t.Context(), id, "ann"))
				<-time.After(6 * time.Second)
				r.w.set(func() { r.w.lost[key] = 0 })
				run := r.settle(id)
				if waited := time.Since(asked); waited > 20*time.Second || run.Status != report.RunCancelled && run.Status != report.RunPartial {
					t.Errorf("after %v the run is %s: %s; %v", waited, run.Status, run.Reason, failures(run))
				}
				r.w.set(func() {
					for _, m := range []string{"db1", "app1", "app2"} {
						here, there := r.w.hosts["par-1"].machines[m].power, r.w.hosts["lyo-1"].machines[m].power
						if (here == recovery.PowerRunning) == (there == recovery.PowerRunning) {
							t.Errorf("%s is %s at paris and %s at lyon", m, here, there)
						}
					}
				})
			})
		})
	}
}

// TestCancelWaitsForASilentHost: what a cancel takes back waits for a host that
// stays silent, as any step does; it does not ask it without a pause.
func TestCancelWaitsForASilentHost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const key = "lyo-1 start db1"
		id := silent(t, r, recovery.Planned, key)
		r.w.set(func() { r.w.hosts["lyo-1"].down = true })
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		<-time.After(10 * time.Second)
		var before int
		r.w.set(func() { before = r.w.asked })
		<-time.After(time.Minute)
		r.w.set(func() {
			if n := r.w.asked - before; n > 500 {
				t.Errorf("%d calls in a minute", n)
			}
			r.w.hosts["lyo-1"].down, r.w.lost[key] = false, 0
		})
		r.settle(id)
	})
}
