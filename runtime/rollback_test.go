package runtime_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// attended starts a planned run of the sample plan without its wait.
func (r *rig) attended(typ recovery.Type) string {
	r.t.Helper()
	r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
	return r.start(runtime.Request{Plan: "erp", Type: typ, By: "ann"})
}

func TestRollbackOfAPlannedFailover(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.attended(recovery.Planned)
		r.expect(id, report.RunUncommitted)
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		run := r.expect(id, report.RunRolledBack)
		r.golden("rolled-back", id)
		if run.ExitCode != fault.ExitOK || run.Uncommitted || len(run.Allowed) > 0 {
			t.Errorf("rolled back, the run has exit %d, uncommitted %v, allowed %v", run.ExitCode, run.Uncommitted, run.Allowed)
		}
		if err := r.engine.Commit(t.Context(), id, "ann"); !fault.Is(err, fault.Refused) {
			t.Errorf("commit after the rollback: %v", err)
		}
		again := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann", ID: "again"})
		r.expect(again, report.RunUncommitted)
	})
}

// TestRollbackFromEveryStep: a planned run that an error stopped, wherever it
// stands, can be rolled back; every machine runs at its old site then, and only
// there.
func TestRollbackFromEveryStep(t *testing.T) {
	for _, broken := range []string{"par-1 stop app1", "par-1 stop db1", "par-1 drain db1", "lyo-1 grant db1", "par-1 grant app1", "lyo-1 prepare app2",
		"lyo-1 start db1", "lyo-1 start app2", "lyo-1 check app1", "lyo-1 proof app1"} {
		t.Run(broken, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
				id, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, By: "ann", ID: "erp-1"})
				r.must(err)
				for strings.HasPrefix(broken, "par-1 drain") && r.w.count("par-1 stop db1") == 0 { // the final one, not the sync ahead
					<-time.After(time.Millisecond)
				}
				r.w.set(func() { r.w.faults[broken] = -1 })
				run := r.expect(id, report.RunStopped)
				if !strings.Contains(strings.Join(run.Allowed, " "), report.OpRollback) {
					t.Fatalf("stopped at %s: allowed %v", broken, run.Allowed)
				}
				r.w.set(func() { r.w.faults[broken] = 0 })
				r.must(r.engine.Rollback(t.Context(), id, "ann"))
				run = r.expect(id, report.RunRolledBack)
				for name, m := range r.w.hosts["par-1"].machines {
					if m.power != recovery.PowerRunning || m.locked || m.rec.Active != "paris" || m.rec.Uncommitted {
						t.Errorf("stopped at %s and rolled back, %s on par-1 is %s, locked %v, %+v\n%s", broken, name, m.power, m.locked, m.rec, run.Reason)
					}
					if o := r.w.hosts["lyo-1"].machines[name]; o.power != recovery.PowerStopped || o.rec.Active != "paris" || !o.rec.Same(m.rec) {
						t.Errorf("stopped at %s and rolled back, %s on lyo-1 is %s, %+v", broken, name, o.power, o.rec)
					}
				}
			})
		})
	}
}

func TestRollbackNeedsBothEnds(t *testing.T) {
	for _, host := range []string{"par-1", "lyo-1"} {
		t.Run(host, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				id := r.attended(recovery.Planned)
				r.expect(id, report.RunUncommitted)
				before := r.w.summary()
				r.w.set(func() { r.w.hosts[host].down = true })
				err := r.engine.Rollback(t.Context(), id, "ann")
				if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), host) || !strings.Contains(err.Error(), "nothing was changed") || fault.Hint(err) == "" {
					t.Errorf("rollback while %s is down: %v (%s)", host, err, fault.Hint(err))
				}
				r.expect(id, report.RunUncommitted)
				if got := r.w.summary(); got != before {
					t.Errorf("a refused rollback changed\n%s\nto\n%s", before, got)
				}
			})
		})
	}
}

// TestRollbackThatFailsIsResumed: the start at the old site fails, then not.
func TestRollbackThatFailsIsResumed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.attended(recovery.Planned)
		r.expect(id, report.RunUncommitted)
		r.w.set(func() { r.w.faults["par-1 start app1"] = 1; r.w.faults["lyo-1 stop db1"] = 1 })
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		for range 2 {
			run := r.expect(id, report.RunStopped)
			if got := strings.Join(run.Allowed, " "); got != report.OpResume {
				t.Fatalf("allowed in a rollback that stopped: %s", got)
			}
			r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		}
		r.expect(id, report.RunRolledBack)
	})
}

// TestProofFindsWhatTheTrackerMissed: the sums of the tables are equal, the
// disks are not. There is no commit, and a person cannot wave it through.
func TestProofFindsWhatTheTrackerMissed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.hosts["par-1"].machines["app1"].missed = true
		id := r.attended(recovery.Planned)
		run := r.expect(id, report.RunStopped)
		want := "disk root differs in 1 of 3 ranges of 4.0 MiB (bytes 4194304 to 8388608)"
		if !strings.Contains(run.Reason, want) || !strings.Contains(run.Hint, "drrun rollback "+id) {
			t.Errorf("the proof says %q (%s), want %q", run.Reason, run.Hint, want)
		}
		if run.ExitCode != fault.ExitStopped {
			t.Errorf("exit %d", run.ExitCode)
		}
		if err := r.engine.Commit(t.Context(), id, "ann"); !fault.Is(err, fault.Refused) || !strings.Contains(fault.Hint(err), report.OpRollback) {
			t.Errorf("commit: %v (%s)", err, fault.Hint(err))
		}
		if err := r.engine.Answer(t.Context(), id, runtime.Answer{Step: "proof/app1", Word: "go", By: "ann"}); err == nil {
			t.Error("disks that differ were waved through")
		}
		for _, m := range run.Machines {
			if proved := m.Name != "app1"; m.Proof == nil || m.Proof.Proved != proved {
				t.Errorf("%s: %+v", m.Name, m.Proof)
			}
		}
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunRolledBack)
	})
}

// TestProofFromTheCache: what was not read from the medium is said.
func TestProofFromTheCache(t *testing.T) {
	for source, want := range map[string]string{
		"dropped": "par-1 read root through the page cache: which was emptied before",
		"cache":   "lyo-1 read root through the page cache: its file system can do nothing else",
		"older":   "through the page cache: its agent is an older one",
		"medium":  "",
	} {
		t.Run(source, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.w.source = source
				run := r.expect(r.attended(recovery.Planned), report.RunUncommitted)
				if want != "" {
					noted(t, run, want)
				} else if slices.ContainsFunc(run.Notes, func(n report.Note) bool { return strings.Contains(n.Text, "page cache") }) {
					t.Errorf("notes %+v", run.Notes)
				}
			})
		})
	}
}

// TestProofThatCannotBeRead: a host that is gone proves nothing; a person may
// go on, and the record says so.
func TestProofThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["par-1 proof app1"] = -1
		id := r.attended(recovery.Planned)
		r.expect(id, report.RunStopped)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Step: "proof/app1", Word: "go", By: "ann", Text: "the array is in repair"}))
		r.expect(id, report.RunPartial)
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		run := r.expect(id, report.RunCommitted)
		noted(t, run, "not proved by reading: app1: not proved: ")
	})
}

func noted(t *testing.T, run *report.Run, want string) {
	t.Helper()
	var all []string
	for _, n := range run.Notes {
		if strings.Contains(n.Text, want) {
			return
		}
		all = append(all, n.Text)
	}
	t.Errorf("no note says %q:\n%s", want, strings.Join(all, "\n"))
}

func TestNoProofIsOnRecord(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned, NoProof: true, Commit: true, By: "ann"})
		run := r.expect(id, report.RunCommitted)
		noted(t, run, "not proved by reading: db1: not proved: --no-proof")
		if len(run.Statements) != 1 || run.Statements[0].What != "no-proof" || run.Statements[0].By != "ann" {
			t.Errorf("statements %+v", run.Statements)
		}
		if n := r.w.count("par-1 proof db1"); n != 0 {
			t.Errorf("read %d times", n)
		}
	})
}

func TestWindowThatRollsBack(t *testing.T) {
	window := plans.CommitPolicy{Mode: "window", Within: time.Hour, OnTimeout: "rollback"}
	t.Run("in time", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			r.lua.plan.Commit = window
			id := r.attended(recovery.Planned)
			run := r.expect(id, report.RunUncommitted)
			if !strings.Contains(run.Reason, "rolled back at") {
				t.Errorf("reason: %s", run.Reason)
			}
			<-time.After(time.Hour)
			r.expect(id, report.RunRolledBack)
		})
	})
	t.Run("source gone", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) { // the source does not answer: a person decides
			r.lua.plan.Commit = window
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.w.set(func() { r.w.hosts["par-1"].down = true })
			<-time.After(2 * time.Hour)
			run := r.expect(id, report.RunUncommitted)
			noted(t, run, "the commit window ended, not rolled back: ")
			if !strings.Contains(run.Reason, "a person decides") {
				t.Errorf("reason: %s", run.Reason)
			}
		})
	})
	t.Run("unlocked", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) { // somebody took the lock off
			r.lua.plan.Commit = window
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.w.set(func() { r.w.hosts["par-1"].machines["app1"].locked = false })
			<-time.After(2 * time.Hour)
			noted(t, r.expect(id, report.RunUncommitted), "app1 is not locked on par-1 any more")
		})
	})
	t.Run("nobody there", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) { // it came due while no runtime ran
			r.lua.plan.Commit = window
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.close()
			<-time.After(2 * time.Hour)
			r.restart()
			<-time.After(2 * time.Hour)
			if run := r.expect(id, report.RunUncommitted); !strings.Contains(run.Reason, "while no runtime looked after the run: a person decides") {
				t.Errorf("reason: %s", run.Reason)
			}
		})
	})
	t.Run("unplanned", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) { // an unplanned failover is not rolled back by a timer
			r.lua.plan.Commit = window
			id := r.attended(recovery.Unplanned)
			r.expect(id, report.RunUncommitted)
			<-time.After(2 * time.Hour)
			r.expect(id, report.RunUncommitted)
		})
	})
}

// TestNoRoomToGoBack: what a rollback or a change of the point has to write has
// no room: it is refused before any machine is stopped. An agent that cannot say
// it holds nothing up.
func TestNoRoomToGoBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.attended(recovery.Unplanned)
		r.expect(id, report.RunUncommitted)
		before := len(r.w.effects())
		for host, back := range map[string]func() error{
			"lyo-1": func() error { return r.engine.ChangePoint(t.Context(), id, "latest-processed", "ann") },
			"par-1": func() error { return r.engine.Rollback(t.Context(), id, "ann") },
		} {
			r.w.set(func() { r.w.back = map[string]int64{host: 50} }) // each has room, not all of them
			err := back()
			if want := host + " needs 150 B to "; !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was changed") ||
				!strings.Contains(fault.Hint(err), "make room in the store of "+host) {
				t.Errorf("no room on %s: %v (%s)", host, err, fault.Hint(err))
			}
			r.expect(id, report.RunUncommitted)
		}
		if n := len(r.w.effects()); n != before {
			t.Errorf("changed: %v", r.w.effects()[before:])
		}
		r.w.set(func() { r.w.back = map[string]int64{"lyo-1": 33, "par-1": -1} })
		r.must(r.engine.ChangePoint(t.Context(), id, "latest-processed", "ann"))
		r.expect(id, report.RunUncommitted)
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunRolledBack)
	})
}

func TestChangePoint(t *testing.T) {
	t.Run("moves", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Unplanned)
			r.expect(id, report.RunUncommitted)
			err := r.engine.ChangePoint(t.Context(), id, "1999-01-01T00:00:00Z", "ann")
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("a point that is not there: %v", err)
			}
			old := began.Add(-30 * time.Second).Format(time.RFC3339)
			for range 2 {
				r.must(r.engine.ChangePoint(t.Context(), id, old, "ann"))
				run := r.expect(id, report.RunUncommitted)
				for _, m := range run.Machines {
					if m.Point == nil || m.Point.Seq != 1 || m.Epoch != 2 {
						t.Errorf("%s is at %+v, epoch %d", m.Name, m.Point, m.Epoch)
					}
				}
			}
			r.golden("point-changed", id)
			r.must(r.engine.Commit(t.Context(), id, "ann"))
			r.expect(id, report.RunCommitted)
		})
	})
	t.Run("planned", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			if err := r.engine.ChangePoint(t.Context(), id, "latest", "ann"); !fault.Is(err, fault.Refused) || !strings.Contains(fault.Hint(err), "commit, rollback") {
				t.Errorf("of a planned failover: %v (%s)", err, fault.Hint(err))
			}
		})
	})
}

// TestChangePointThatFails: the machine can be put on yet another point, or
// rolled back. Nobody starts it meanwhile: its disks are being replaced.
func TestChangePointThatFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.attended(recovery.Unplanned)
		r.expect(id, report.RunUncommitted)
		r.w.set(func() { r.w.faults["lyo-1 prepare db1"] = 1 })
		r.must(r.engine.ChangePoint(t.Context(), id, "latest-processed", "ann"))
		run := r.expect(id, report.RunStopped)
		if got := strings.Join(run.Allowed, " "); got != "resume rollback change-point" {
			t.Errorf("allowed %s", got)
		}
		for name, m := range r.w.hosts["lyo-1"].machines {
			if m.power != recovery.PowerStopped || !m.locked {
				t.Errorf("%s is %s, locked %v", name, m.power, m.locked)
			}
		}
		r.must(r.engine.ChangePoint(t.Context(), id, "latest-processed", "ann"))
		r.expect(id, report.RunUncommitted)
		for name, m := range r.w.hosts["lyo-1"].machines {
			if m.power != recovery.PowerRunning || m.locked {
				t.Errorf("after the change %s is %s, locked %v", name, m.power, m.locked)
			}
		}
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunRolledBack)
	})
}

// TestNewSiteDiesBeforeTheCommit: what it sent back is applied at the old site,
// which takes the machines on; the run before is over.
func TestNewSiteDiesBeforeTheCommit(t *testing.T) {
	t.Run("taken on", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.w.set(func() {
				r.w.hosts["lyo-1"].down = true
				for name := range r.w.hosts["lyo-1"].machines { // sent back since
					m := r.w.hosts["par-1"].machines[name]
					m.points = append(m.points, testPoint(name, len(m.points)+1, time.Now()))
				}
			})
			back := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, SourceIsDown: true, By: "ann", ID: "back"})
			run := r.expect(back, report.RunUncommitted)
			r.golden("new-site-died", back)
			if got := strings.Join(run.Allowed, " "); got != "commit change-point" {
				t.Errorf("allowed %s", got)
			}
			if run := r.expect(id, report.RunSuperseded); run.Uncommitted || len(run.Allowed) > 0 {
				t.Errorf("the run before is %+v", run)
			}
			r.must(r.engine.Commit(t.Context(), back, "ann"))
			r.expect(back, report.RunCommitted)
		})
	})
	t.Run("refused", func(t *testing.T) { // the run before keeps its machines
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.w.set(func() { r.w.hosts["lyo-1"].down = true })
			back := r.start(runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, By: "ann", ID: "back"})
			r.expect(back, report.RunRefused) // nobody said that the site is down
			r.w.set(func() { r.w.hosts["lyo-1"].down = false })
			if _, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, Failback: true, ID: "other"}); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), id) {
				t.Errorf("a run of the same machines: %v", err)
			}
			r.must(r.engine.Rollback(t.Context(), id, "ann"))
			r.expect(id, report.RunRolledBack)
		})
	})
	t.Run("back before it is taken on", func(t *testing.T) { // what was not moved is the run before's
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			r.w.set(func() {
				r.w.hosts["lyo-1"].down = true
				r.w.slow["par-1 claim app2"] = 2 * time.Second
			})
			_, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, SourceIsDown: true, By: "ann", ID: "back"})
			r.must(err)
			<-time.After(time.Second)
			r.w.set(func() {
				r.w.hosts["lyo-1"].down = false
				m := r.w.hosts["lyo-1"].machines["app1"] // the others run there again
				m.power, m.locked = recovery.PowerStopped, true
			})
			r.expect("back", report.RunWaiting)
			r.expect(id, report.RunSuperseded)
			for _, m := range []string{"db1", "app2"} {
				r.must(r.engine.Answer(t.Context(), "back", runtime.Answer{Step: "right-to-run/" + m, Word: "go", By: "ann"}))
			}
			r.expect("back", report.RunPartial)
			r.must(r.engine.Commit(t.Context(), "back", "ann"))
			r.expect("back", report.RunCommitted)
			if run := r.expect(id, report.RunUncommitted); !strings.Contains(notes(run), "has not moved db1, app2") {
				t.Errorf("its notes: %s", notes(run))
			}
			r.must(r.engine.Commit(t.Context(), id, "ann"))
			r.expect(id, report.RunCommitted)
			for name, host := range map[string]string{"app1": "par-1", "app2": "lyo-1", "db1": "lyo-1"} {
				if h := r.w.hosts[host]; h.machines[name].rec.Uncommitted || h.machines[name].rec.Active != h.site {
					t.Errorf("%s on %s: %+v", name, host, h.machines[name].rec)
				}
			}
		})
	})
	t.Run("it answers", func(t *testing.T) { // then it can be rolled back
		bubble(t, func(t *testing.T, r *rig) {
			id := r.attended(recovery.Planned)
			r.expect(id, report.RunUncommitted)
			_, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Unplanned, Failback: true, SourceIsDown: true, ID: "back"})
			if !fault.Is(err, fault.Refused) || !strings.Contains(fault.Hint(err), "commit, rollback") {
				t.Errorf("%v (%s)", err, fault.Hint(err))
			}
		})
	})
}

// TestTimeOfATest: a test is cleaned up when its time is over, wherever it
// stands: at its end, at a question, stopped by an error, and after a restart.
func TestTimeOfATest(t *testing.T) {
	hour := runtime.Request{Plan: "erp", Type: recovery.Test, TTL: time.Hour, By: "ann", ID: "t"}
	cases := map[string]func(r *rig){
		"stands": func(*rig) {},
		"asks":   func(r *rig) { r.lua.plan.Items[1].Wait.Skip = nil },
		"failed": func(r *rig) { r.w.faults["lyo-1 start app1"] = -1 },
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				before := strip(r.w.summary())
				prepare(r)
				id := r.start(hour)
				if run := r.settle(id); run.Status.Ended() {
					t.Fatalf("the test is %s", run.Status)
				}
				if n := r.w.count("lyo-1 ends test of db1 in 1h0m0s"); n != 1 {
					t.Errorf("the agent was told %d times when it ends: %v", n, r.w.effects())
				}
				<-time.After(30 * time.Minute)
				if run := r.settle(id); run.Status.Ended() {
					t.Fatalf("before its time the test is %s", run.Status)
				}
				if name == "stands" {
					r.close()
					r.restart()
				}
				<-time.After(31 * time.Minute)
				run := r.settle(id)
				if !run.Status.Ended() || strip(r.w.summary()) != before {
					t.Errorf("after its time the test is %s:\n%s", run.Status, r.w.summary())
				}
			})
		})
	}
}

// TestMachineThatIsTakenOnLater: an unplanned run gives a machine up, and a
// later resume takes it on: from the newest point of then. What runs already
// stays at its point.
func TestMachineThatIsTakenOnLater(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 grant app1"], r.w.faults["par-1 drain app1"], r.w.faults["par-1 drain db1"] = -1, -1, -1
		id := r.attended(recovery.Unplanned)
		r.expect(id, report.RunPartial)
		r.w.set(func() {
			r.w.faults["lyo-1 grant app1"] = 0
			m := r.w.hosts["lyo-1"].machines["app1"]
			m.points = []recovery.Point{testPoint("app1", 7, time.Now())} // the others are thinned
			r.w.hosts["lyo-1"].machines["db1"].points = append(r.w.hosts["lyo-1"].machines["db1"].points, testPoint("db1", 7, time.Now()))
		})
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		run := r.expect(id, report.RunUncommitted)
		for _, m := range run.Machines {
			if newest := m.Name == "app1"; m.Point == nil || (m.Point.Seq == 7) != newest {
				t.Errorf("%s is at %+v", m.Name, m.Point)
			}
		}
	})
}

// TestStoppedRunThatIsOver: a rollback had stopped half way when another run
// moved the machines on: what it would give back is refused. It can be ended.
func TestStoppedRunThatIsOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.faults["lyo-1 grant db1"] = -1
		id := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Planned, ID: "r"})
		r.expect(id, report.RunStopped)
		r.w.set(func() { r.w.faults["par-1 unlock db1"] = -1 })
		r.must(r.engine.Rollback(t.Context(), id, "ann"))
		r.expect(id, report.RunStopped)
		r.w.set(func() {
			for _, h := range r.w.hosts {
				for _, m := range h.machines {
					m.rec, m.fence = recovery.Authority{Epoch: 5, Active: "lyon", Run: "other-1"}, 99
				}
			}
		})
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		r.expect(id, report.RunSuperseded)
	})
}

// TestRunThatIsOverForAllItsMachines can only be ended.
func TestRunThatIsOverForAllItsMachines(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.attended(recovery.Unplanned)
		r.expect(id, report.RunUncommitted)
		r.w.set(func() {
			for _, h := range r.w.hosts {
				for _, m := range h.machines {
					m.rec = recovery.Authority{Epoch: 5, Active: "lyon", Run: "other-1"}
				}
			}
		})
		r.must(r.engine.Cancel(t.Context(), id, "ann"))
		if run := r.expect(id, report.RunSuperseded); !strings.Contains(run.Reason, "other-1") {
			t.Errorf("reason: %s", run.Reason)
		}
		if _, err := r.engine.Start(t.Context(), runtime.Request{Plan: "erp", Type: recovery.Planned, Failback: true, ID: "next"}); fault.Is(err, fault.Refused) && strings.Contains(err.Error(), id) {
			t.Errorf("the machines still belong to the run: %v", err)
		}
	})
}
