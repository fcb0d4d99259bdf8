package agent_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// drill starts a test of a point and returns its disk.
func (p *pair) drill(test string, point ident.PointID, ttl time.Duration) string {
	p.t.Helper()
	meta := command.Meta{Machine: "erp", Run: test}
	res := call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: meta, Point: point, Test: test, TTL: ttl})
	st := call(p, command.Start, "lyo-1", command.StartRequest{Meta: meta, Test: test})
	if st.Power != recovery.PowerRunning {
		p.t.Errorf("test %s is %s", test, st.Power)
	}
	return res.Paths["data"]
}

// stands returns what a host says of its tests, by id.
func stands(st command.MachineStatus) map[string]command.TestInfo {
	m := map[string]command.TestInfo{}
	for _, i := range st.TestsInfo {
		m[i.ID] = i
	}
	return m
}

// TestDrillsOfOneMachine: several stand at once, of one point and of others; one
// that ends leaves the others running and their point in its place. Those with a
// time to live end by themselves, also where that comes while no agent runs.
func TestDrillsOfOneMachine(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Policy.Keep = []recovery.Keep{{Last: 1}} // what is not pinned goes
	p.protect()
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	point := points[len(points)-1].ID
	disks := map[string]string{}
	disks["brief"] = p.drill("brief", point, 20*time.Minute)
	disks["long"] = p.drill("long", point, 10*time.Hour)
	p.b.clk.Jump(21 * time.Minute)
	newer := p.points("lyo-1", 1).Tip.ID
	disks["other"] = p.drill("other", newer, 0)
	gone := func(id string) {
		t.Helper()
		st := p.until("lyo-1", "test "+id+" ends", func(st command.MachineStatus) bool { _, ok := stands(st)[id]; return !ok })
		if _, err := os.Stat(disks[id]); !errors.Is(err, fs.ErrNotExist) || slices.Contains(st.Tests, id) {
			t.Errorf("the view of test %s: %v, tests %v", id, err, st.Tests)
		}
	}
	gone("brief")
	p.points("lyo-1", 3)
	st := stands(p.status("lyo-1"))
	if i := st["long"]; i.Power != recovery.PowerRunning || i.Point != point || i.Run != "long" || time.Until(i.Deadline) < 9*time.Hour {
		t.Errorf("test that goes on: %+v", i)
	}
	if i := st["other"]; i.Power != recovery.PowerRunning || i.Point != newer || !i.Deadline.IsZero() {
		t.Errorf("test of another point: %+v", i)
	}
	here := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	for _, id := range []ident.PointID{point, newer} {
		if !slices.ContainsFunc(here, func(pt recovery.Point) bool { return pt.ID == id }) {
			t.Errorf("the point %s under a test is gone", id.Short())
		}
	}
	call(p, command.Cleanup, "lyo-1", command.CleanupRequest{Meta: command.Meta{Machine: "erp"}, Test: "other"})
	gone("other")

	disks["late"] = p.drill("late", point, 20*time.Minute)
	p.b.end()
	p.b.clk.Jump(21 * time.Minute) // its time ends while nobody is there to end it
	p.b.start()
	p.status("lyo-1")
	gone("late")
	n := written(t, disks["long"])
	p.until("lyo-1", "the other test goes on", func(st command.MachineStatus) bool {
		return written(t, disks["long"]) > n && stands(st)["long"].Power == recovery.PowerRunning
	})
	call(p, command.Cleanup, "lyo-1", command.CleanupRequest{Meta: command.Meta{Machine: "erp"}, Test: "long"})
	gone("long")
	p.until("lyo-1", "the point goes when no test stands on it", func(command.MachineStatus) bool {
		here := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
		return !slices.ContainsFunc(here, func(pt recovery.Point) bool { return pt.ID == point })
	})
}
