package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// TestOverlayOfAnOvertakenRun: a run prepared its overlay and another one, with a
// later claim and epoch, took the machine from it. That one gets disks of its
// own point; what stood there is kept.
func TestOverlayOfAnOvertakenRun(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	st := p.points("lyo-1", 2)
	p.a.end()
	killMachines(t, p.promises)

	p.auth = st.Authority
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	take := func(run string, point recovery.Point) command.PrepareResult {
		t.Helper()
		p.fence++
		next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: "lyon", Run: run, Uncommitted: true}
		call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta(run), Expect: p.auth, Next: next})
		p.auth = next
		return call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta(run), Point: point.ID})
	}
	take("one", points[0])
	if _, err := try(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("other"), Point: points[0].ID}); err == nil {
		t.Error("a run that does not have the machine changed its point")
	}
	take("two", points[len(points)-1])
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("two")})
	now := p.status("lyo-1")
	if now.LiveRun != "two" || now.LivePoint != points[len(points)-1].ID || now.Power != recovery.PowerRunning {
		t.Errorf("the machine is %+v", now)
	}
	here := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	if !slices.ContainsFunc(here, func(pt recovery.Point) bool { return slices.Contains(pt.Labels, replica.PointChanged) }) {
		t.Error("what stood there is not kept")
	}
}

// TestSiteThatIsBackBeforeTheStart: a person said that the old site is down, and
// it is back, with its machine, when the new one is to start it: only after the
// old site has learnt of it and stopped the machine.
func TestSiteThatIsBackBeforeTheStart(t *testing.T) {
	t.Parallel()
	for range 5 {
		// On a busy host a cycle may fail, be tried again, and tell the old site
		// of the record before the start does.
		if siteIsBack(t) > 0 {
			return
		}
	}
	t.Error("the old site was never asked")
}

// siteIsBack returns how often the start was refused until the old site had
// stopped the machine.
func siteIsBack(t *testing.T) (refused int) {
	p := newPair(t)
	p.protect()
	p.as.Policy.Every = time.Hour // no cycle tells the old site of it
	p.as.Revision++
	for _, h := range []string{"par-1", "lyo-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
	// A cycle that is still under way is refused by the new record, and the old
	// site learns of it by that.
	p.until("par-1", "no cycle under way", func(st command.MachineStatus) bool { return st.Progress == nil })
	st := p.status("lyo-1")
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	p.fence++
	next := recovery.Authority{Epoch: st.Authority.Epoch + 1, Active: "lyon", Run: "erp-1", Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("erp-1"), Expect: st.Authority, Next: next})
	p.auth = next
	call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: points[len(points)-1].ID})
	for {
		meta := p.meta("erp-1")
		_, err := try(p, command.Start, "lyo-1", command.StartRequest{Meta: meta})
		if old := p.status("par-1"); err == nil && old.Power != recovery.PowerStopped {
			t.Fatalf("started at lyo-1 while par-1 says that the machine is %s", old.Power)
		}
		if err == nil {
			break
		}
		if !fault.Is(err, fault.Interrupted) {
			t.Fatal(err)
		}
		refused++
	}
	return refused
}
