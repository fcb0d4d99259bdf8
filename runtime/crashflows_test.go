package runtime_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// flow is a story of several runs that can be told again from any point: what
// has happened is looked up, not remembered.
type flow struct {
	r  *rig
	cs *crashStore
}

// run brings a run to one of the statuses, as a person at the command line
// would; false: the process died.
func (f *flow) run(id string, start func() error, want ...report.RunStatus) bool {
	r := f.r
	r.t.Helper()
	for range 1000 {
		run, err := r.engine.Show(r.t.Context(), id)
		switch {
		case fault.Is(err, fault.NotFound):
			err = start()
		case err != nil:
			r.t.Fatal(err)
		case slices.Contains(want, run.Status):
			return true
		case run.Status == report.RunStopped || run.Status == report.RunPaused:
			err = r.engine.Resume(r.t.Context(), id, runtime.ResumeOptions{By: "ann"})
		}
		if f.cs.isDead() {
			return false
		}
		if err != nil {
			r.t.Fatalf("run %s: %v", id, err)
		}
		<-time.After(250 * time.Millisecond)
	}
	r.t.Fatalf("run %s does not end", id)
	return false
}

func (f *flow) start(id string, req runtime.Request) func() error {
	return func() error {
		req.ID, req.By, req.Machines = id, "ann", []string{"db1"}
		_, err := f.r.engine.Start(f.r.t.Context(), req)
		return err
	}
}

// ask repeats a command that a death may have swallowed.
func (f *flow) ask(err error) bool {
	f.r.t.Helper()
	if err != nil && !f.cs.isDead() {
		f.r.t.Fatal(err)
	}
	return err == nil
}

// The stories, each of one machine.
var flows = map[string]func(f *flow) bool{
	"over and back": func(f *flow) bool {
		reverse := func() error {
			_, err := f.r.engine.Reverse(f.r.t.Context(), runtime.ReverseRequest{Machines: []string{"db1"}, By: "ann", ID: "rev"})
			return err
		}
		return f.run("over", f.start("over", runtime.Request{Type: recovery.Unplanned, Commit: true}), report.RunCommitted) &&
			f.run("rev", reverse, report.RunDone) &&
			f.run("back", f.start("back", runtime.Request{Type: recovery.Planned, Failback: true, Commit: true}), report.RunCommitted)
	},
	"test": func(f *flow) bool {
		return f.run("test", f.start("test", runtime.Request{Type: recovery.Test, Cleanup: true}), report.RunDone)
	},
	"commit": func(f *flow) bool {
		f.r.w.set(func() { f.r.w.faults["par-1 drain db1"] = -1 })
		if !f.run("run", f.start("run", runtime.Request{Type: recovery.Unplanned}), report.RunUncommitted, report.RunCommitted) { // the drain is only tried
			return false
		}
		return f.ask(f.commit("run")) && f.run("run", nil, report.RunCommitted)
	},
	"rollback": func(f *flow) bool {
		rollback := func() error { return f.r.engine.Rollback(f.r.t.Context(), "run", "ann") }
		return f.run("run", f.start("run", runtime.Request{Type: recovery.Planned}), report.RunUncommitted, report.RunRolledBack) &&
			f.turn("run", rollback, "rollback") && f.run("run", nil, report.RunRolledBack) &&
			f.run("again", f.start("again", runtime.Request{Type: recovery.Planned}), report.RunUncommitted)
	},
	"change point": func(f *flow) bool {
		change := func() error {
			return f.r.engine.ChangePoint(f.r.t.Context(), "run", testPoint("db1", 1, began).ID.String(), "ann")
		}
		return f.run("run", f.start("run", runtime.Request{Type: recovery.Unplanned}), report.RunUncommitted, report.RunPartial) &&
			f.turn("run", change, "change-point") && f.run("run", nil, report.RunUncommitted)
	},
	"give back": func(f *flow) bool {
		f.r.w.set(func() { f.r.w.faults["lyo-1 grant db1"] = -1 })
		if !f.run("run", f.start("run", runtime.Request{Type: recovery.Unplanned}), report.RunPartial, report.RunCancelled) {
			return false
		}
		run, err := f.r.engine.Show(f.r.t.Context(), "run")
		if err != nil || run.Status == report.RunCancelled {
			return f.ask(err)
		}
		return f.ask(f.r.engine.Cancel(f.r.t.Context(), "run", "ann")) && f.run("run", nil, report.RunCancelled)
	},
}

// turn asks for a rollback or a change of the point until it has begun.
func (f *flow) turn(id string, do func() error, begun string) bool {
	run, err := f.r.engine.Show(f.r.t.Context(), id)
	if err == nil && run.Section != begun {
		err = do()
	}
	return f.ask(err)
}

func (f *flow) commit(id string) error {
	run, err := f.r.engine.Show(f.r.t.Context(), id)
	if err != nil || run.Status != report.RunUncommitted {
		return err
	}
	return f.r.engine.Commit(f.r.t.Context(), id, "ann")
}

// tell tells a story whose process dies at record n.
func tell(t *testing.T, g *gaps, story func(*flow) bool, n int, after bool) (effects []string, world string, records int) {
	r := newRig(t)
	defer func() { r.close() }()
	r.close()
	inner := r.store
	cs := &crashStore{Store: inner, left: n, after: after, died: func(op store.Op) { g.add(t, r.w, op.Key, op.Value) }}
	r.store = cs
	r.open()
	f := &flow{r: r, cs: cs}
	if !story(f) {
		r.close()
		r.store = inner
		r.open()
		f.cs = &crashStore{Store: store.NewMemory()} // it does not die again
		if !story(f) {
			t.Fatal("the story does not end")
		}
	}
	for _, b := range r.w.broken {
		t.Errorf("contract broken: %s", b)
	}
	effects = r.w.effects()
	slices.Sort(effects)
	return effects, r.w.summary(), cs.count
}

// TestCrashInEveryFlow kills the process before and after every record of a
// commit, a reverse, a failback, a test with its cleanup and a cancel. No effect
// happens twice and the end is the same.
func TestCrashInEveryFlow(t *testing.T) {
	t.Parallel()
	g := &gaps{seen: map[string]int{}}
	t.Cleanup(func() { // after all subtests
		g.want(t, "grant", "drain", "stop", "unlock", "prepare", "start", "proof", "commit", "cleanup", "found")
	})
	for name, story := range flows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want []string
			var world string
			records := 0
			synctest.Test(t, func(t *testing.T) { want, world, records = tell(t, g, story, 0, false) })
			if records < 15 {
				t.Fatalf("only %d records", records)
			}
			for n := 1; n <= records; n++ {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d-%v", n, after), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							got, end, _ := tell(t, g, story, n, after)
							if !slices.Equal(got, want) || end != world {
								t.Errorf("effects:\n%s\nwant\n%s\nthe end:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), end, world)
							}
						})
					})
				}
			}
		})
	}
}
