package agent_test

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

func TestPlannedThereAndBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	if st := p.status("par-1"); st.Role != command.RoleSource || st.State != recovery.Protected || st.Power != recovery.PowerRunning {
		t.Errorf("source is %+v", st)
	}
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)

	st := p.points("par-1", 2) // the new site is protected before the commit
	if st.Role != command.RoleTarget || st.State != recovery.FailedOver || !st.Locked || st.Power != recovery.PowerStopped {
		t.Errorf("old site is %+v", st)
	}
	home := counted(t, p.disk)
	p.points("par-1", 1)
	if counted(t, p.disk) != home {
		t.Error("the old site's disk was written before the commit")
	}
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-1"))
	}
	p.until("par-1", "reverse logs applied", func(st command.MachineStatus) bool {
		return st.State == recovery.Protected && st.Applied > 0 && written(t, p.disk) > home
	})
	if st := p.status("lyo-1"); st.State != recovery.Protected || st.Role != command.RoleSource {
		t.Errorf("new site is %+v", st)
	}

	p.hand("erp-2", "lyo-1", "par-1", "paris", forward)
	p.points("lyo-1", 2)
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-2"))
	}
	p.points("lyo-1", 1)
	if st := p.status("par-1"); st.State != recovery.Protected || st.Locked || st.Power != recovery.PowerRunning {
		t.Errorf("home again is %+v", st)
	}
}

func TestUnplannedThenReverse(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	st := p.points("lyo-1", 2)
	p.a.end() // the site is lost: the agent, and the machine with it
	killMachines(t, p.promises)
	lost := counted(t, p.disk)

	p.auth = st.Authority
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "erp-1", Uncommitted: true}
	meta := p.meta("erp-1")
	meta.Fence = 5
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: meta, Expect: p.auth, Next: next})
	p.auth, p.fence = next, 5
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	res := call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: points[len(points)-1].ID})
	if got := counted(t, res.Paths["data"]); got == 0 || got > lost {
		t.Errorf("recovered disk counts %d, the lost one %d", got, lost)
	}
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-1")})
	if st := p.status("lyo-1"); st.State != recovery.FailedOver || st.Power != recovery.PowerRunning || st.LiveRun != "erp-1" {
		t.Errorf("new site is %+v", st)
	}
	call(p, command.Commit, "lyo-1", p.meta("erp-1"))
	if st := p.status("lyo-1"); st.State != recovery.Committed {
		t.Errorf("committed without reverse is %s", st.State)
	}

	p.a.start() // the old primary comes back and believes that it is to run
	old := p.until("par-1", "the old primary learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == 2 })
	want := "not started: host lyo-1 holds epoch 2 (active site lyon, run erp-1); this host had epoch 1"
	old = p.until("par-1", "the reason is shown", func(st command.MachineStatus) bool { return st.Reason == want })
	if old.Power != recovery.PowerStopped {
		t.Errorf("old primary is %+v", old)
	}
	if _, err := try(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("erp-x")}); !fault.Is(err, fault.Refused) {
		t.Errorf("start at the old primary: %v", err)
	}

	found := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("erp-2")})
	if !found.Point.Held || found.Bytes == 0 {
		t.Errorf("found %+v", found)
	}
	again := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("erp-2")})
	if again.Point.ID != found.Point.ID || again.Bytes != found.Bytes {
		t.Errorf("found again %+v, want %+v", again, found)
	}
	p.grant("erp-2", "lyon", false, back)
	if st := p.points("par-1", 2); st.Reason != "" {
		t.Errorf("a replica in order has the remark %q", st.Reason)
	}
	if st := p.status("lyo-1"); st.Role != command.RoleSource || st.State != recovery.Protected {
		t.Errorf("sender after the reverse: %+v", st)
	}
	if none := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("erp-2")}); !none.Point.ID.IsZero() {
		t.Errorf("a replica has something that only it has: %+v", none)
	}
	p.until("par-1", "reverse is applied", func(st command.MachineStatus) bool { return written(t, p.disk) > lost && st.Applied > found.Point.Seq })
	p.hand("erp-3", "lyo-1", "par-1", "paris", forward)
	p.points("lyo-1", 1)
}

// TestFoundAfterAFailback: what never left the old site is counted from the
// newest point that the other one has, not from the last failover.
func TestFoundAfterAFailback(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)
	p.points("par-1", 1)
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-1"))
	}
	p.until("par-1", "reverse logs applied", func(st command.MachineStatus) bool { return st.Applied > 0 })
	p.hand("erp-2", "lyo-1", "par-1", "paris", forward)
	for _, h := range []string{"par-1", "lyo-1"} {
		call(p, command.Commit, h, p.meta("erp-2"))
	}
	p.points("lyo-1", 3)
	p.a.end()
	killMachines(t, p.promises)
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	newest := points[len(points)-2] // the acknowledgement of the last one may have been lost

	next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: "lyon", Run: "erp-3"}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("erp-3"), Expect: p.auth, Next: next})
	p.auth = next
	p.a.start()
	p.until("par-1", "the old primary learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == next.Epoch })
	found := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("erp-4")})
	if found.Since.Before(newest.Instant) {
		t.Errorf("counted since %s, the other site has a point of %s", found.Since, newest.Instant)
	}
}

func TestDrillBesideReplication(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	point := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points[0]
	res := call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("drill"), Point: point.ID, Test: "drill-1"})
	start := call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("drill"), Test: "drill-1"})
	if start.PID == 0 || start.Power != recovery.PowerRunning {
		t.Errorf("test machine: %+v", start)
	}
	st := p.points("lyo-1", 3)
	if len(st.Tests) != 1 || st.Power != recovery.PowerStopped || st.State != recovery.Protected {
		t.Errorf("target during a drill: %+v", st)
	}
	p.until("lyo-1", "the drill writes", func(command.MachineStatus) bool { return written(t, res.Paths["data"]) > 0 })
	for range 2 { // idempotent
		call(p, command.Cleanup, "lyo-1", command.CleanupRequest{Meta: p.meta("drill"), Test: "drill-1"})
	}
	if _, err := os.Stat(res.Paths["data"]); !os.IsNotExist(err) {
		t.Errorf("the view is still there: %v", err)
	}
	if st := p.points("lyo-1", 1); len(st.Tests) != 0 {
		t.Errorf("target after a drill: %+v", st)
	}
	v := call(p, command.Verify, "lyo-1", command.VerifyRequest{Machine: "erp"})
	if len(v.Faults) != 0 || v.Points == 0 {
		t.Errorf("verify: %+v", v)
	}
}

func TestAgentRestartAdoptsAndGoesOn(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	pid := p.status("par-1").PID
	p.a.end()
	n := promised(t, p.promises)
	p.b.end()
	p.b.start()
	p.a.start()
	if st := p.status("par-1"); st.PID != pid || st.Power != recovery.PowerRunning {
		t.Errorf("machine after the restart: %+v", st)
	}
	st := p.points("lyo-1", 2)
	if st.State != recovery.Protected {
		t.Errorf("target after the restart: %+v", st)
	}
	if promised(t, p.promises) <= n {
		t.Error("the machine stood still while its agent was away")
	}
}

// roomFS says how much room there is.
type roomFS struct {
	vfs.OS
	free atomic.Int64
}

func (f *roomFS) Free(string) (int64, error) { return f.free.Load(), nil }

// TestFoundWithoutRoom: an old primary whose writes have no room as a point is
// not overwritten, until a person gives them up.
func TestFoundWithoutRoom(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end()
	killMachines(t, p.promises)
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "erp-1"}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("erp-1"), Expect: p.auth, Next: next})
	p.auth = next
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: points[len(points)-1].ID})
	call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-1")})
	disk := &roomFS{}
	p.a.fs = disk
	p.a.start()
	p.until("par-1", "the old primary learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == 2 })

	before := digest(t, p.disk)
	_, err := try(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("rev-1")})
	if !fault.Is(err, fault.NoSpace) || !strings.Contains(fault.Hint(err), "drrun reverse --discard-diverged erp") || !strings.Contains(fault.Hint(err), "drrun resume rev-1") {
		t.Errorf("found without room: %v (hint %s)", err, fault.Hint(err))
	}
	if n := call(p, command.Points, "par-1", command.PointsRequest{Machine: "erp"}).Points; len(n) > 0 || digest(t, p.disk) != before {
		t.Errorf("the refusal has changed something: %v", n)
	}
	found := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("rev-2"), Discard: true, By: "ann"})
	again := call(p, command.Found, "par-1", command.FoundRequest{Meta: p.meta("rev-2"), Discard: true, By: "ann"})
	if !found.Discarded || found.Bytes == 0 || !found.Point.ID.IsZero() || again.Bytes != found.Bytes || !again.Discarded {
		t.Errorf("discarded %+v, again %+v", found, again)
	}
	if digest(t, p.disk) != before {
		t.Error("the disk was changed before anything was sent back")
	}
	p.grant("rev-2", "lyon", false, back)
	for _, h := range []string{"lyo-1", "par-1"} { // the first point has no room yet
		st := p.until(h, "reseeding", func(st command.MachineStatus) bool { return st.State == recovery.Reseeding })
		if st.Tip != nil || st.TipAge != 0 {
			t.Errorf("%s shows point %s, %s old, as the newest", h, st.Tip.ID, st.TipAge)
		}
	}
	disk.free.Store(1 << 40)
	first := p.points("par-1", 1).Tip.Seq
	p.until("par-1", "reverse is applied", func(st command.MachineStatus) bool { return st.Applied >= first })
	for _, pt := range call(p, command.Points, "par-1", command.PointsRequest{Machine: "erp"}).Points {
		if pt.Diverged {
			t.Errorf("what was given up is a point: %+v", pt)
		}
	}
	if v := call(p, command.Verify, "par-1", command.VerifyRequest{Machine: "erp"}); len(v.Faults) > 0 || v.Points == 0 {
		t.Errorf("verify: %+v", v)
	}
	p.hand("erp-3", "lyo-1", "par-1", "paris", forward)
}
