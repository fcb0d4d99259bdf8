package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/control"
)

// TestNoControllerFor100Cycles: no drrun runs for 100 cycles of every machine.
// Points keep coming within the RPO, the retention thins them, and a point that
// a person holds stays.
func TestNoControllerFor100Cycles(t *testing.T) {
	t.Parallel()
	const cycles, keep = 100, 10
	ctx := within(t, 3*time.Minute)
	s := newSite(t, lab.Options{Every: "100ms", Small: true}, true)
	s.edit("estate.lua", `keep = { "all for 1h", "1m for 1d" }`, fmt.Sprintf(`keep = { "last %d" }`, keep))
	s.protect(ctx, "")
	var held control.HoldResult
	out := s.must(s.Drrun(ctx, "points", "app1", "--hold", "--point", "latest", "--label", "before the upgrade", "-o", "json"))
	s.no(json.Unmarshal([]byte(out), &held))
	point := held.Hosts["lyo-1"]
	s.Kill("controller")

	began, at := s.told(ctx, "lyo-1"), time.Now()
	// Looked at twice a second: each look is a process, which the cycles pay for.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not yet %d cycles of every machine: %+v", cycles, s.told(t.Context(), "lyo-1"))
		}
		done = true
		for name, m := range s.told(ctx, "lyo-1") {
			if m.TipAge >= 10*time.Second || m.State != recovery.Protected {
				t.Fatalf("%s is %s (%s), its newest point %v old; the RPO is 10s", name, m.State, m.Reason, m.TipAge)
			}
			done = done && m.Tip.Seq >= began[name].Tip.Seq+cycles
		}
	}
	t.Logf("%d cycles of %d machines took %v", cycles, len(lab.Machines), time.Since(at))
	for name, m := range s.told(ctx, "par-1") {
		if m.State != recovery.Protected || m.Power != recovery.PowerRunning {
			t.Errorf("%s is %s and %s (%s) at its source", name, m.State, m.Power, m.Reason)
		}
	}
	for name, m := range s.told(ctx, "lyo-1") {
		// What came since the last look at the retention is there as well.
		if m.Points < keep || m.Points > keep+cycles/4 {
			t.Errorf("%s has %d points of %d that were made; the retention keeps %d", name, m.Points, m.Tip.Seq, keep)
		}
	}
	s.startController(ctx)
	s.untilState(ctx, "protected", "paris")
	for _, m := range lab.Machines {
		s.must(s.Drrun(ctx, "points", m, "--verify"))
	}
	var points control.PointsResult
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "points", "app1", "-o", "json"))), &points))
	first := points.Hosts[0].Points[0]
	if first.ID != point.ID || !first.Held || !slices.Equal(first.Labels, []string{"before the upgrade"}) || first.Seq+cycles/2 > points.Hosts[0].Points[1].Seq {
		t.Errorf("the oldest points are %+v; want the held one %s, long before the next", points.Hosts[0].Points[:2], point.ID)
	}
}

// told is what an agent says of its machines, asked on its host.
func (s *site) told(ctx context.Context, host string) map[string]command.MachineStatus {
	s.t.Helper()
	out, err := s.Agent(ctx, host, "status", "-o", "json")
	s.no(err)
	var st command.AgentStatus
	s.no(json.Unmarshal([]byte(out), &st))
	all := map[string]command.MachineStatus{}
	for _, m := range st.Machines {
		if m.Tip == nil {
			s.t.Fatalf("%s has no point at %s", m.Machine, host)
		}
		all[m.Machine] = m
	}
	if len(all) != len(lab.Machines) {
		s.t.Fatalf("%s knows of %d machines", host, len(all))
	}
	return all
}
