package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

var errCrash = errors.New("the process died")

// crashStore dies at the n-th journal record: before it is committed, or after.
type crashStore struct {
	store.Store
	mu    sync.Mutex
	left  int
	after bool
	dead  bool
	count int
	died  func(store.Op) // hears of the record that was not written
}

func (c *crashStore) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return 0, false, errCrash
	}
	if len(t.Then) == 0 || !strings.Contains(t.Then[0].Key, "/j/") {
		return c.Store.Txn(ctx, t)
	}
	c.count++
	c.left--
	if c.left == 0 && !c.after {
		c.dead = true
		if c.died != nil {
			c.died(t.Then[0])
		}
		return 0, false, errCrash
	}
	rev, ok, err := c.Store.Txn(ctx, t)
	if c.left == 0 {
		c.dead = true
		return 0, false, errCrash
	}
	return rev, ok, err
}

// unknowns counts the unknown outcomes that crashes have left.
var unknowns atomic.Int64

// proved reports whether a planned run is at its end, behind its read proof.
func proved(run *report.Run) bool {
	return run.Status == report.RunUncommitted && !slices.ContainsFunc(run.Steps, func(s report.Step) bool {
		return s.Status == report.StepRunning || s.Status == report.StepPending
	})
}

// operator finishes a run as a person would: resumes what stopped, answers
// what is asked, and for unknown outcomes goes and looks.
func (r *rig) operator(id string) *report.Run {
	r.t.Helper()
	for range 20 {
		run := r.settle(id)
		switch {
		case run.Status == report.RunUncommitted || run.Status.Ended():
			return run
		case run.Status == report.RunWaiting && run.ExitCode == fault.ExitUnknown:
			effect := map[string]string{"failover/before:tell the desk": "controller notify desk", "group:application/after:point DNS": "http.post ticket"}[run.Waits[0].Step]
			if strings.Contains(run.Waits[0].Ask, "during close ticket") {
				effect = "close ticket"
			}
			unknowns.Add(1)
			word := "again"
			if slices.Contains(r.w.effects(), effect) {
				word = "done"
			}
			r.must(r.engine.Answer(r.t.Context(), id, runtime.Answer{Word: word, By: "operator"}))
		case run.Status == report.RunWaiting:
			r.must(r.engine.Answer(r.t.Context(), id, runtime.Answer{Word: "go", By: "operator"}))
		default:
			r.must(r.engine.Resume(r.t.Context(), id, runtime.ResumeOptions{By: "operator"}))
		}
	}
	r.t.Fatal("the run does not end")
	return nil
}

// crashRun does a planned run whose process dies at record n, and lets the
// next process finish it. It returns the number of records up to the death.
func crashRun(t *testing.T, g *gaps, n int, after bool) (effects []string, summary string, records int) {
	r := newRig(t)
	defer func() { r.close() }()
	inner := r.store
	cs := &crashStore{Store: inner, left: n, after: after, died: func(op store.Op) { g.add(t, r.w, op.Key, op.Value) }}
	r.close()
	r.store = cs
	r.open()
	req := runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann", ID: "erp-1"}
	_, err := r.engine.Start(t.Context(), req)
	for err == nil && !cs.isDead() {
		run, err := r.engine.Show(t.Context(), "erp-1")
		r.must(err)
		if proved(run) {
			break
		}
		if run.Status == report.RunWaiting {
			if err := r.engine.Answer(t.Context(), "erp-1", runtime.Answer{Word: "go", By: "operator"}); err != nil && !cs.isDead() {
				t.Fatal(err)
			}
		}
		<-time.After(250 * time.Millisecond)
	}
	if cs.isDead() {
		r.close()
		r.store = inner
		r.open()
		if _, err := r.engine.Show(t.Context(), "erp-1"); fault.Is(err, fault.NotFound) {
			r.start(req)
		}
	}
	run := r.operator("erp-1")
	if run.Status != report.RunUncommitted || len(run.Errors) > 0 {
		t.Errorf("crash at record %d (after: %v): run is %s: %s; errors %v", n, after, run.Status, run.Reason, failures(run))
	}
	for _, b := range r.w.broken {
		t.Errorf("crash at record %d (after: %v): contract broken: %s", n, after, b)
	}
	effects = r.w.effects()
	slices.Sort(effects)
	return effects, r.w.summary(), cs.count
}

// TestCrashEverywhere kills the process before and after the commit of every
// journal record of a planned failover of three machines with a wait, programs
// and an action. The end must be the same, and no effect may happen twice.
// Before the commit of a result record is between an effect and its result.
func TestCrashEverywhere(t *testing.T) {
	t.Parallel()
	g := &gaps{seen: map[string]int{}}
	t.Cleanup(func() { // after all subtests
		if unknowns.Load() == 0 {
			t.Error("no crash left an unknown outcome: the test does not test that")
		}
		g.want(t, "claim", "grant", "drain", "stop", "prepare", "start", "exec", "proof", gapController, gapHost,
			gapOperation+"dns.update", gapOperation+"exec", gapOperation+"http.post")
	})
	var want []string
	var world string
	records := 0
	synctest.Test(t, func(t *testing.T) { want, world, records = crashRun(t, g, 0, false) })
	once(t, want)
	if records < 70 {
		t.Fatalf("only %d records", records)
	}
	for n := 1; n <= records; n++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-%v", n, after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					got, end, _ := crashRun(t, g, n, after)
					if !slices.Equal(got, want) {
						t.Errorf("effects differ:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
					if end != world {
						t.Errorf("the end differs:\n%s\nwant\n%s", end, world)
					}
				})
			})
		}
	}
}

func (c *crashStore) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}
