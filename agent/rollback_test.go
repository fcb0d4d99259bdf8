package agent_test

import (
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/recovery"
)

// coldBlocks are blocks that the machine never writes: what is sent of them again
// is a full copy.
const coldBlocks = 4 * diskBlocks

// addCold appends cold blocks to the disk, which do not compress.
func (p *pair) addCold() {
	p.t.Helper()
	rng := rand.NewChaCha8([32]byte{7})
	b := make([]byte, coldBlocks*blockSize)
	_, _ = rng.Read(b) // it never fails
	f, err := os.OpenFile(p.disk, os.O_WRONLY|os.O_APPEND, 0)
	must(p.t, err)
	_, err = f.Write(b)
	must(p.t, err)
	must(p.t, f.Close())
}

func digest(t *testing.T, file string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return sha256.Sum256(b)
}

// restarting is a protected pair whose agents are started anew between every two
// steps: what a rollback needs has to be durable.
func restarting(t *testing.T) *pair {
	p := newPair(t)
	p.between = p.restart
	p.addCold()
	p.protect()
	return p
}

// lyon is where the machine's disk lies at the second site.
func (p *pair) lyon() string { return filepath.Join(p.as.Hosts[1].Store, "erp", "data", "head.img") }

// promises waits until the machine has promised n more than now.
func (p *pair) promisesMore(host string, n uint64) {
	p.t.Helper()
	from := promised(p.t, p.promises)
	p.until(host, "the machine writes", func(command.MachineStatus) bool { return promised(p.t, p.promises) >= from+n })
}

// kept returns the newest point of a label at a host, and fails if it is not one
// that thinning leaves alone and that says whose it is.
func (p *pair) kept(host, label, run string) recovery.Point {
	p.t.Helper()
	points := call(p, command.Points, host, command.PointsRequest{Machine: "erp"}).Points
	for _, pt := range slices.Backward(points) {
		if !slices.Contains(pt.Labels, label) {
			continue
		}
		if !pt.Held || !pt.Diverged || pt.Machine != "erp" || run != "" && !slices.Contains(pt.Labels, "run "+run) {
			p.t.Errorf("the point kept is %+v", pt)
		}
		v := call(p, command.Verify, host, command.VerifyRequest{Machine: "erp", Point: pt.ID})
		if len(v.Faults) > 0 || v.Points != 1 {
			p.t.Errorf("the point kept does not verify: %+v", v)
		}
		return pt
	}
	p.t.Fatalf("host %s has no point %q: %+v", host, label, points)
	return recovery.Point{}
}

// look opens a point as a view, counts on it, and closes it.
func (p *pair) look(host string, pt recovery.Point) uint64 {
	p.t.Helper()
	test := "look-" + pt.ID.Short()
	res := call(p, command.Prepare, host, command.PrepareRequest{Meta: command.Meta{Machine: "erp"}, Point: pt.ID, Test: test})
	n := counted(p.t, res.Paths["data"])
	call(p, command.Cleanup, host, command.CleanupRequest{Meta: command.Meta{Machine: "erp"}, Test: test})
	return n
}

// forward waits until the machine is protected again, and fails if that took a
// full copy: the first point that lies on the one kept is small.
func (p *pair) forward(kept recovery.Point) {
	p.t.Helper()
	p.points("lyo-1", 2)
	// A cycle may have met an agent that was just restarting: that passes.
	p.until("lyo-1", "the target is one again", func(st command.MachineStatus) bool {
		return st.Role == command.RoleTarget && st.State == recovery.Protected && st.LiveRun == ""
	})
	p.until("par-1", "the source runs again", func(st command.MachineStatus) bool {
		return st.Role == command.RoleSource && st.State == recovery.Protected && st.Power == recovery.PowerRunning && !st.Locked
	})
	for _, pt := range call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points {
		if pt.Seq == kept.Seq+1 && pt.Disks[0].Bytes > 2*diskBlocks*blockSize {
			p.t.Errorf("%d bytes were sent after the rollback, the disk has %d", pt.Disks[0].Bytes, pt.Disks[0].Size)
		}
	}
}

// TestRollbackOfAPlannedRun: the old disks are those of the shutdown, and what
// the new site wrote is kept.
func TestRollbackOfAPlannedRun(t *testing.T) {
	t.Parallel()
	p := restarting(t)
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)
	home := digest(t, p.disk)
	p.promisesMore("lyo-1", 1000)
	p.points("par-1", 2)
	call(p, command.Stop, "lyo-1", command.StopRequest{Meta: p.meta("erp-1")})
	wrote := counted(t, p.lyon())
	p.step()
	p.grant("erp-1-back", "paris", false, forward)
	call(p, command.Unlock, "par-1", p.meta("erp-1-back"))
	p.step()
	if digest(t, p.disk) != home {
		t.Error("the old disk is not that of the shutdown")
	}
	if logs, err := filepath.Glob(filepath.Join(p.as.Hosts[0].Store, "erp", "data", "*", "*")); err != nil || len(logs) > 0 {
		t.Errorf("of the reverse logs stays %v, %v", logs, err)
	}
	call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-1-back")})
	p.step()
	p.until("lyo-1", "the overlay is dropped", func(st command.MachineStatus) bool { return st.Role == command.RoleTarget && st.LiveRun == "" })
	kept := p.kept("lyo-1", replica.RolledBack, "erp-1")
	if n := p.look("lyo-1", kept); n != wrote {
		t.Errorf("the point kept counts %d, the new site had written %d", n, wrote)
	}
	p.forward(kept)
	p.hand("erp-2", "par-1", "lyo-1", "lyon", back) // and it can be done again
	p.points("par-1", 1)
}

// TestStatusWhileTheDirectionTurns: a host that is to be the target again, and
// has not turned its disks yet, does not report as received what it sent.
func TestStatusWhileTheDirectionTurns(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)
	p.points("par-1", 1)
	call(p, command.Stop, "lyo-1", command.StopRequest{Meta: p.meta("erp-1")})
	release, err := p.b.ag.HoldRole(t.Context(), "erp")
	must(t, err)
	granted := make(chan struct{})
	go func() {
		defer close(granted)
		p.grant("erp-1-back", "paris", false, forward)
	}()
	st := p.until("lyo-1", "it is told", func(st command.MachineStatus) bool { return st.Role == command.RoleTarget })
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	if st.Tip == nil || !slices.ContainsFunc(points, func(pt recovery.Point) bool { return pt.ID == st.Tip.ID }) {
		t.Errorf("its newest point is %+v, it has %+v", st.Tip, points)
	}
	release()
	<-granted
}

// TestRollbackOfAFailback: the old site has points that are older than its own
// disks; they stay, and what was sent back goes.
func TestRollbackOfAFailback(t *testing.T) {
	t.Parallel()
	p := restarting(t)
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-1"))
	}
	p.until("par-1", "reverse logs applied", func(st command.MachineStatus) bool { return st.State == recovery.Protected && st.Applied > 0 })
	p.hand("erp-2", "lyo-1", "par-1", "paris", forward)
	was := digest(t, p.lyon())
	older := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	p.promisesMore("par-1", 100)
	st := p.points("lyo-1", 2)
	call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("erp-2")})
	wrote := counted(t, p.disk)
	p.step()
	p.grant("erp-2-back", "lyon", false, back)
	call(p, command.Unlock, "lyo-1", p.meta("erp-2-back"))
	p.step()
	p.until("lyo-1", "the disks are its own", func(st command.MachineStatus) bool { return st.LiveRun != "" && st.Reason == "" })
	if digest(t, p.lyon()) != was {
		t.Error("the old disk is not that of the shutdown")
	}
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	if points[0].ID != older[0].ID || points[len(points)-1].Seq != st.Applied {
		t.Errorf("of %d points %d stay, the newest is %d, applied was %d", len(older), len(points), points[len(points)-1].Seq, st.Applied)
	}
	if logs, err := filepath.Glob(filepath.Join(p.as.Hosts[1].Store, "erp", "data", "logs", "*")); err != nil || len(logs) > 0 {
		t.Errorf("of the reverse logs stays %v, %v", logs, err)
	}
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-2-back")})
	p.step()
	p.points("par-1", 2)
	if n := p.look("par-1", p.kept("par-1", replica.RolledBack, "erp-2")); n != wrote {
		t.Errorf("the point kept counts %d, the new site had written %d", n, wrote)
	}
	if v := call(p, command.Verify, "lyo-1", command.VerifyRequest{Machine: "erp"}); len(v.Faults) > 0 {
		t.Errorf("verify: %+v", v)
	}
	p.hand("erp-3", "lyo-1", "par-1", "paris", forward)
	p.points("lyo-1", 1)
	if v := call(p, command.Verify, "lyo-1", command.VerifyRequest{Machine: "erp"}); len(v.Faults) > 0 {
		t.Errorf("verify at the end: %+v", v)
	}
}

// TestRollbackBeforeTheFirstStart: nothing was prepared yet, or what was
// prepared has never run.
func TestRollbackBeforeTheFirstStart(t *testing.T) {
	t.Parallel()
	for _, prepared := range []bool{false, true} {
		t.Run(map[bool]string{false: "nothing prepared", true: "never started"}[prepared], func(t *testing.T) {
			t.Parallel()
			p := restarting(t)
			call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("erp-1"), Lock: true})
			final := call(p, command.Drain, "par-1", command.DrainRequest{Meta: p.meta("erp-1"), Final: true}).Point
			home := digest(t, p.disk)
			p.grant("erp-1", "lyon", true, back)
			if prepared {
				call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: final.ID})
				p.step()
			}
			p.grant("erp-1-back", "paris", false, forward)
			call(p, command.Unlock, "par-1", p.meta("erp-1-back"))
			if digest(t, p.disk) != home {
				t.Error("the old disk is not that of the shutdown")
			}
			call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-1-back")})
			p.between = nil
			p.forward(final)
			p.hand("erp-2", "par-1", "lyo-1", "lyon", back)
			p.points("par-1", 1)
		})
	}
}

// TestRollbackOfAnUnplannedRun: the old primary was cut off or down; its disks
// were never touched, it runs on them again and replicates.
func TestRollbackOfAnUnplannedRun(t *testing.T) {
	t.Parallel()
	p := restarting(t)
	p.points("lyo-1", 1)
	p.a.end()
	killMachines(t, p.promises)
	home, lost := digest(t, p.disk), counted(t, p.disk)
	between := p.between // one of the agents is down
	p.between = nil
	next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: "lyon", Run: "erp-1", Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("erp-1"), Expect: p.auth, Next: next})
	p.auth = next
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: points[len(points)-1].ID})
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-1")})
	p.promisesMore("lyo-1", 100)
	p.a.start()
	p.between = between
	p.until("par-1", "the old primary learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == next.Epoch })
	p.step()
	call(p, command.Stop, "lyo-1", command.StopRequest{Meta: p.meta("erp-1")})
	wrote := counted(t, p.lyon())
	p.step()
	p.grant("erp-1-back", "paris", false, forward)
	call(p, command.Unlock, "par-1", p.meta("erp-1-back"))
	p.step()
	if digest(t, p.disk) != home {
		t.Error("the old primary's disk was touched")
	}
	call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-1-back")})
	p.step()
	p.until("lyo-1", "the overlay is dropped", func(st command.MachineStatus) bool { return st.Role == command.RoleTarget && st.LiveRun == "" })
	kept := p.kept("lyo-1", replica.RolledBack, "erp-1")
	if n := p.look("lyo-1", kept); n != wrote {
		t.Errorf("the point kept counts %d, the new site had written %d", n, wrote)
	}
	p.forward(kept)
	if n := written(t, p.disk); n < lost {
		t.Errorf("the old primary counts %d, it had %d", n, lost)
	}
	p.hand("erp-2", "par-1", "lyo-1", "lyon", back)
	p.points("par-1", 1)
}
