package agent_test

import (
	"os"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// lose takes the machine's home away: the agent, and the machine with it.
func (p *pair) lose() {
	p.t.Helper()
	p.a.end()
	killMachines(p.t, p.promises)
}

// unplanned fails over to lyon, to the point given.
func (p *pair) unplanned(run string, point recovery.Point) {
	p.t.Helper()
	next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: "lyon", Run: run, Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta(run), Expect: p.auth, Next: next})
	p.auth = next
	call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta(run), Point: point.ID})
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta(run)})
}

// bytesOf reads a point of a host through a view.
func (p *pair) bytesOf(host string, id ident.PointID) [32]byte {
	p.t.Helper()
	test := "bytes-" + id.Short()
	res := call(p, command.Prepare, host, command.PrepareRequest{Meta: command.Meta{Machine: "erp"}, Point: id, Test: test})
	d := digest(p.t, res.Paths["data"])
	call(p, command.Cleanup, host, command.CleanupRequest{Meta: command.Meta{Machine: "erp"}, Test: test})
	return d
}

// TestChangePoint: to an older and to a newer point, and back, the disks are
// that point, and what ran before is kept; an agent that ends in the middle
// leaves nothing that could be started.
func TestChangePoint(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.addCold()
	p.protect()
	p.points("lyo-1", 4)
	p.lose()
	all := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	oldest, middle, newest := all[0], all[len(all)/2], all[len(all)-1]
	want := map[ident.PointID][32]byte{}
	for _, pt := range []recovery.Point{oldest, middle, newest} {
		want[pt.ID] = p.bytesOf("lyo-1", pt.ID)
	}
	p.unplanned("erp-1", middle)
	for i, to := range []recovery.Point{oldest, newest, middle} {
		p.promisesMore("lyo-1", 20)
		if _, err := try(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: to.ID}); !fault.Is(err, fault.Refused) {
			t.Errorf("change of the point under a machine that runs: %v", err)
		}
		call(p, command.Stop, "lyo-1", command.StopRequest{Meta: p.meta("erp-1")})
		ran := counted(t, p.lyon())
		if _, err := try(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: ident.NewPointID()}); !fault.Is(err, fault.NotFound) {
			t.Errorf("change to a point that is not there: %v", err)
		}
		if st := p.status("lyo-1"); st.LiveRun != "erp-1" {
			t.Errorf("a change that is refused changes: %+v", st)
		}
		call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: to.ID})
		if digest(t, p.lyon()) != want[to.ID] {
			t.Errorf("change %d: the disk is not point %d", i, to.Seq)
		}
		if st := p.status("lyo-1"); st.LivePoint != to.ID || st.State != recovery.FailingOver {
			t.Errorf("after the change: %+v", st)
		}
		if n := p.look("lyo-1", p.kept("lyo-1", replica.PointChanged, "erp-1")); n != ran {
			t.Errorf("the point kept counts %d, the machine had written %d", n, ran)
		}
		p.b.end()
		p.b.start()
		p.status("lyo-1")
		call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-1")})
	}
	call(p, command.Commit, "lyo-1", p.meta("erp-1"))
	if v := call(p, command.Verify, "lyo-1", command.VerifyRequest{Machine: "erp"}); len(v.Faults) > 0 || v.Points != len(all)+3 {
		t.Errorf("verify: %+v, there were %d points", v, len(all))
	}
	call(p, command.Stop, "lyo-1", command.StopRequest{Meta: p.meta("erp-1")})
	if _, err := try(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: oldest.ID}); !fault.Is(err, fault.Refused) {
		t.Errorf("change of the point after the commit: %v", err)
	}
}

// TestNewSiteDiesUncommitted: what it had sent back is stored at the old site,
// which starts on it; its own disks stay under that.
func TestNewSiteDiesUncommitted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.addCold()
	p.protect()
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)
	home := digest(t, p.disk)
	p.promisesMore("lyo-1", 300)
	p.points("par-1", 2)
	p.b.end()
	killMachines(t, p.promises)

	points := call(p, command.Points, "par-1", command.PointsRequest{Machine: "erp"}).Points
	newest := points[len(points)-1]
	want := p.bytesOf("par-1", newest.ID)
	if want == home || digest(t, p.disk) != home {
		t.Error("reverse logs were applied before the commit")
	}
	next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: "paris", Run: "erp-2", Uncommitted: true}
	p.fence++
	call(p, command.Grant, "par-1", command.GrantRequest{Meta: p.meta("erp-2"), Expect: p.auth, Next: next})
	p.auth = next
	if _, err := try(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-2")}); !fault.Is(err, fault.Refused) {
		t.Errorf("start with nothing prepared: %v", err)
	}
	p.a.end() // and the agent restarts in the middle
	p.a.start()
	p.status("par-1")
	res := call(p, command.Prepare, "par-1", command.PrepareRequest{Meta: p.meta("erp-2"), Point: newest.ID})
	if res.Paths["data"] != p.disk || digest(t, p.disk) != want {
		t.Error("the disk prepared is not the newest point that was sent back")
	}
	if digest(t, p.disk+".base") != home {
		t.Error("the old site's own disk is not kept under it")
	}
	call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-2")})
	p.promisesMore("par-1", 10)
	call(p, command.Commit, "par-1", p.meta("erp-2"))
	if st := p.status("par-1"); st.State != recovery.Committed || st.Power != recovery.PowerRunning {
		t.Errorf("old site after the commit: %+v", st)
	}

	p.b.start() // the new site comes back: what it alone wrote is kept before it is overwritten
	p.until("lyo-1", "the new site learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == next.Epoch })
	wrote := counted(t, p.lyon())
	found := call(p, command.Found, "lyo-1", command.FoundRequest{Meta: p.meta("erp-3")})
	if n := p.look("lyo-1", p.kept("lyo-1", replica.AsFound, "erp-3")); n != wrote || found.Point.ID.IsZero() {
		t.Errorf("as found counts %d, the new site had written %d", n, wrote)
	}
	p.grant("erp-3", "paris", false, forward)
	p.points("lyo-1", 2)
	if v := call(p, command.Verify, "par-1", command.VerifyRequest{Machine: "erp"}); len(v.Faults) > 0 {
		t.Errorf("verify: %+v", v)
	}
	if _, err := os.Stat(p.disk + ".base"); err != nil {
		t.Errorf("the base: %v", err)
	}
	p.hand("erp-4", "par-1", "lyo-1", "lyon", back)
	p.points("par-1", 1)
}
