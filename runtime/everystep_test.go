package runtime_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// momentStore lets something happen when the n-th journal record is written.
type momentStore struct {
	store.Store
	mu     sync.Mutex
	count  int
	at     int
	happen func()
}

func (m *momentStore) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	rev, ok, err := m.Store.Txn(ctx, t)
	if len(t.Then) > 0 && strings.Contains(t.Then[0].Key, "/j/") {
		m.mu.Lock()
		m.count++
		now := m.count == m.at
		m.mu.Unlock()
		if now {
			m.happen()
		}
	}
	return rev, ok, err
}

// atRecord starts a planned run of the sample plan without its wait and lets
// something happen at record n of it. It returns when that has happened.
func atRecord(r *rig, n int, happen func()) *momentStore {
	r.close()
	m := &momentStore{Store: r.store, at: n, happen: happen}
	r.store = m
	r.open()
	r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
	r.start(planned)
	for n > 0 && m.seen() < n {
		<-time.After(time.Millisecond)
	}
	return m
}

func (m *momentStore) seen() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

func recordsOfAPlannedRun(t *testing.T) (n int) {
	bubble(t, func(_ *testing.T, r *rig) {
		m := atRecord(r, 0, nil)
		r.expect("r", report.RunUncommitted)
		n = m.seen()
	})
	if n < 70 {
		t.Fatalf("only %d records", n)
	}
	return n
}

// TestSourceDiesAtEveryRecord: the primary site dies at any moment of a planned
// failover. The run goes on as unplanned: the machines run at the other site,
// and from the final delta on nothing is lost.
func TestSourceDiesAtEveryRecord(t *testing.T) {
	for n := range recordsOfAPlannedRun(t) {
		t.Run(fmt.Sprint(n+1), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				drained := map[string]bool{}
				atRecord(r, n+1, func() {
					r.w.set(func() {
						h := r.w.hosts["par-1"]
						h.down = true
						for _, m := range h.machines {
							m.power = recovery.PowerStopped
						}
						for name := range h.machines {
							drained[name] = slices.Contains(r.w.trace, "par-1 final drain "+name)
						}
					})
				})
				<-time.After(5 * time.Second)
				err := r.engine.Resume(t.Context(), "r", runtime.ResumeOptions{As: recovery.Unplanned, SourceIsDown: true, By: "ann"})
				run := r.settle("r")
				switch {
				case run.Status == report.RunRefused: // before anything was done
					again := unplanned
					again.ID, again.SourceIsDown = "again", true
					r.start(again)
					run = r.settle("again")
				case err != nil && run.Status != report.RunUncommitted:
					t.Fatalf("the run is %s: %v (%s)", run.Status, err, fault.Hint(err))
				}
				if run.Status != report.RunUncommitted {
					t.Fatalf("the run is %s: %s", run.Status, run.Reason)
				}
				for name, m := range r.w.hosts["lyo-1"].machines {
					if m.power != recovery.PowerRunning || m.rec.Active != "lyon" {
						t.Errorf("%s on lyo-1 is %s, active %s", name, m.power, m.rec.Active)
					}
				}
				for _, m := range run.Machines {
					if drained[m.Name] && (m.Loss == nil || *m.Loss != 0) {
						t.Errorf("%s was drained and is said to have lost %v s", m.Name, m.Loss)
					}
				}
				for _, b := range r.w.broken {
					t.Errorf("contract broken: %s", b)
				}
			})
		})
	}
}

// TestCancelAtEveryRecord: a planned failover is cancelled at any moment. No
// machine is left between two states: each runs at one site, that may run it,
// and is not locked there.
func TestCancelAtEveryRecord(t *testing.T) {
	for n := range recordsOfAPlannedRun(t) {
		t.Run(fmt.Sprint(n+1), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				asked := make(chan error, 1)
				atRecord(r, n+1, func() { go func() { asked <- r.engine.Cancel(t.Context(), "r", "bob") }() })
				err := <-asked
				run := r.settle("r")
				if err != nil && (!fault.Is(err, fault.Refused) || run.Status != report.RunUncommitted) {
					t.Fatalf("the run is %s: %v", run.Status, err)
				}
				for name, m := range r.w.hosts["par-1"].machines {
					o := r.w.hosts["lyo-1"].machines[name]
					home := m.power == recovery.PowerRunning && o.power == recovery.PowerStopped && m.rec.Active == "paris" && !m.locked
					over := o.power == recovery.PowerRunning && m.power == recovery.PowerStopped && o.rec.Active == "lyon" && !o.locked
					if !home && !over {
						t.Errorf("%s: at home %s, locked %v, active %s; over there %s, locked %v, active %s\n%s: %s", name,
							m.power, m.locked, m.rec.Active, o.power, o.locked, o.rec.Active, run.Status, run.Reason)
					}
					if over && !run.Uncommitted {
						t.Errorf("%s is over there, and the run is %s", name, run.Status)
					}
				}
				for _, b := range r.w.broken {
					t.Errorf("contract broken: %s", b)
				}
			})
		})
	}
}

// TestRollbackAtEveryRecord: a run that is paused at any moment can be rolled
// back, once it rests.
func TestRollbackAtEveryRecord(t *testing.T) {
	for n := range recordsOfAPlannedRun(t) {
		t.Run(fmt.Sprint(n+1), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				asked := make(chan error, 1)
				atRecord(r, n+1, func() { go func() { asked <- r.engine.Pause(t.Context(), "r", "bob") }() })
				<-asked
				<-time.After(time.Minute)
				run := r.settle("r")
				if err := r.engine.Rollback(t.Context(), "r", "bob"); err != nil {
					if !fault.Is(err, fault.Refused) || len(run.Machines) > 0 && run.Machines[0].Stopped != (time.Time{}) {
						t.Fatalf("the run is %s: %v (%s)", run.Status, err, fault.Hint(err))
					}
					return // nothing was touched yet
				}
				run = r.expect("r", report.RunRolledBack)
				for name, m := range r.w.hosts["par-1"].machines {
					if m.power != recovery.PowerRunning || m.locked || m.rec.Active != "paris" || m.rec.Uncommitted {
						t.Errorf("%s at home is %s, locked %v, %+v: %s", name, m.power, m.locked, m.rec, run.Reason)
					}
				}
			})
		})
	}
}
