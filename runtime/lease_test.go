package runtime_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// fakeLease is what lyo-1 has on record of a machine on par-1.
type fakeLease struct {
	epoch  ident.Epoch
	last   time.Time // it was renewed
	length time.Duration
	closed string
}

const fakeBound = 5 * time.Second // over the length, until a run may count on it

func (f *fakeLease) ends() time.Time { return f.last.Add(f.length + fakeBound) }

func (f *fakeLease) status() *command.LeaseStatus {
	if f == nil {
		return nil
	}
	return &command.LeaseStatus{Source: "par-1", Target: "lyo-1", Epoch: f.epoch, Length: f.length, Granted: f.closed == "", Closed: f.closed,
		Age: time.Since(f.last), Left: max(0, time.Until(f.ends()))}
}

func (w *world) doLease(host string, m *fakeMachine, req command.LeaseRequest) (json.RawMessage, error) {
	if m.lease == nil || m.rec.Epoch != m.lease.epoch {
		return mustJSON(command.LeaseResult{}), nil
	}
	closed := req.Run
	if req.Open {
		closed = ""
	}
	if m.lease.closed != closed {
		w.happened("%s lease of %s for %q", host, req.Machine, closed)
	}
	m.lease.closed = closed
	return mustJSON(command.LeaseResult{Lease: m.lease.status()}), nil
}

// leased cuts par-1 off: lyo-1 has renewed the leases of its machines some time
// ago, and par-1 goes on running them until they end.
func (r *rig) leased(ago, length time.Duration) {
	r.lua.plan.Items = r.lua.plan.Items[:1] // the group of db1 alone
	r.w.hosts["par-1"].down = true
	for _, m := range r.w.hosts["lyo-1"].machines {
		m.lease = &fakeLease{epoch: m.rec.Epoch, last: time.Now().Add(-ago), length: length}
	}
}

// afterTheLease fails the test unless db1 was started at lyon after its lease had
// ended, and not long after.
func (r *rig) afterTheLease(ends time.Time) {
	r.t.Helper()
	if late := time.Since(ends); late < 0 || late > 5*time.Second {
		r.t.Errorf("started %s after the end of the lease", late)
	}
}

// TestUnplannedWaitsForTheLease: a source that does not answer and has given its
// word is waited out; nobody is asked.
func TestUnplannedWaitsForTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.leased(10*time.Second, 10*time.Minute)
		ends := r.w.hosts["lyo-1"].machines["db1"].lease.ends()
		x, err := r.engine.Explain(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned, DryRun: true})
		r.must(err)
		if x.Refused != nil || !strings.Contains(x.Text, "par-1 does not answer; by its lease of 10m") {
			t.Errorf("a dry run says: %v\n%s", x.Refused, x.Text)
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		<-time.After(2 * time.Minute)
		run, err := r.engine.Show(t.Context(), id)
		r.must(err)
		i := slices.IndexFunc(run.Steps, func(s report.Step) bool { return s.ID == "right-to-run/db1" })
		if p := run.Steps[i].Progress; p == nil || !strings.Contains(p.Phase, "waits for the end of the lease of db1 on par-1, at 00:09:5") {
			t.Errorf("while it waits: %+v", run.Steps[i])
		}
		if !slices.ContainsFunc(run.Notes, func(n report.Note) bool { return strings.Contains(n.Text, "which lyo-1 renews no more") }) {
			t.Errorf("the journal: %+v", run.Notes)
		}
		for !slices.Contains(r.w.effects(), "lyo-1 start db1") && time.Now().Before(ends.Add(time.Minute)) {
			<-time.After(100 * time.Millisecond)
		}
		r.afterTheLease(ends)
		run = r.expect(id, report.RunUncommitted)
		if len(run.Statements) != 0 || run.ExitCode != fault.ExitOK {
			t.Errorf("exit %d, statements %+v", run.ExitCode, run.Statements)
		}
	})
}

// TestNoLeaseOnRecord: without one, or with one of another record or host, it is
// asked as ever.
func TestNoLeaseOnRecord(t *testing.T) {
	for name, spoil := range map[string]func(*fakeMachine){
		"none":             func(m *fakeMachine) { m.lease = nil },
		"an earlier epoch": func(m *fakeMachine) { m.lease.epoch-- },
		"no length":        func(m *fakeMachine) { m.lease.length = 0 },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.leased(time.Hour, time.Minute)
				for _, m := range r.w.hosts["lyo-1"].machines {
					spoil(m)
				}
				id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
				run := r.expect(id, report.RunRefused)
				if !strings.Contains(run.Reason, "nobody knows whether db1 still runs there") {
					t.Errorf("reason: %s", run.Reason)
				}
				if slices.Contains(r.w.effects(), "lyo-1 start db1") {
					t.Error("it was started")
				}
			})
		})
	}
}

// TestLeaseWaitSurvivesTheRuntime: the host counts, not the process that waits;
// a target that was started anew counts again.
func TestLeaseWaitSurvivesTheRuntime(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.leased(0, 10*time.Minute)
		lease := r.w.hosts["lyo-1"].machines["db1"].lease
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		<-time.After(3 * time.Minute)
		r.leave()
		<-time.After(3 * time.Minute)
		r.open()
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		<-time.After(time.Minute)
		r.w.set(func() { lease.last = time.Now() }) // the target's agent was started anew
		ends := lease.ends()
		r.expect(id, report.RunUncommitted)
		r.afterTheLease(ends)
	})
}

// TestLeaseWaitEnds: by the source's answer, by a person's word, and by a cancel,
// which lets the lease go on.
func TestLeaseWaitEnds(t *testing.T) {
	waits := func(t *testing.T, r *rig) string {
		t.Helper()
		r.leased(0, time.Hour)
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		for r.closedFor() != id {
			<-time.After(time.Second)
		}
		return id
	}
	t.Run("stopped", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := waits(t, r)
			r.w.set(func() {
				db1 := r.w.hosts["par-1"].machines["db1"]
				r.w.hosts["par-1"].down, db1.power = false, recovery.PowerStopped
			})
			<-time.After(10 * time.Minute)
			if slices.Contains(r.w.effects(), "lyo-1 start db1") {
				t.Error("it was started while the source might start it again")
			}
			r.w.set(func() { r.w.hosts["par-1"].machines["db1"].locked = true })
			r.expect(id, report.RunUncommitted)
			if took := time.Since(began); took > 12*time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := waits(t, r)
			r.must(r.engine.Cancel(t.Context(), id, "ann"))
			r.expect(id, report.RunCancelled)
			if by := r.closedFor(); by != "" {
				t.Errorf("the lease is ended for %q", by)
			}
			if slices.Contains(r.w.effects(), "lyo-1 start db1") {
				t.Error("it was started")
			}
		})
	})
	t.Run("stated", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := waits(t, r)
			r.must(r.engine.Pause(t.Context(), id, "ann"))
			r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{SourceIsDown: true, By: "bob"}))
			r.expect(id, report.RunUncommitted)
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	})
	t.Run("not kept", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := waits(t, r)
			r.w.set(func() { r.w.hosts["par-1"].down = false }) // and runs db1 on
			run := r.expect(id, report.RunWaiting)
			if !strings.Contains(run.Waits[0].Ask, "known to run on par-1 although its lease has ended") {
				t.Errorf("asks: %s", run.Waits[0].Ask)
			}
			if by := r.closedFor(); by != "" || slices.Contains(r.w.effects(), "lyo-1 start db1") {
				t.Errorf("the lease is ended for %q; %v", by, r.w.effects())
			}
		})
	})
}

// closedFor is the run for which lyo-1 renews the lease of db1 no more.
func (r *rig) closedFor() (run string) {
	r.w.set(func() { run = r.w.hosts["lyo-1"].machines["db1"].lease.closed })
	return run
}

// TestTargetDiesInTheLeaseWait: without the host that counts nothing is taken for
// granted.
func TestTargetDiesInTheLeaseWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.leased(0, 2*time.Minute)
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned})
		<-time.After(30 * time.Second)
		r.w.set(func() { r.w.hosts["lyo-1"].down = true })
		run := r.expect(id, report.RunWaiting)
		if len(run.Waits) != 1 || run.Waits[0].Step != "right-to-run/db1" {
			t.Fatalf("waits: %+v", run.Waits)
		}
		r.w.set(func() { r.w.hosts["lyo-1"].down = false })
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "again", By: "ann"}))
		r.expect(id, report.RunUncommitted)
	})
}
