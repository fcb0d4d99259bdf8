package e2e_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// withLease gives the machines of the example a lease.
func (s *site) withLease() {
	s.t.Helper()
	s.edit("estate.lua", `every = lab.every, rpo`, `every = lab.every, lease = "10s", rpo`)
}

// untilLeased waits until every machine has its lease.
func (s *site) untilLeased(ctx context.Context, look func()) {
	s.t.Helper()
	s.no(lab.Until(ctx, "leases", func() (bool, string, error) {
		look()
		var st estate.Status
		out, err := s.Drrun(ctx, "status", "-o", "json")
		if err != nil {
			return false, err.Error(), nil // its agents are being killed
		}
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return false, "", err
		}
		ok := len(st.Machines) == len(lab.Machines)
		for _, m := range st.Machines {
			ok = ok && m.Lease != nil && m.Lease.Granted && m.Lease.Length == 10 && m.Lease.Target == "lyo-1"
		}
		return ok, out, nil
	}))
}

// waitedOut fails the test unless the run came to its end and asked nobody.
func (s *site) waitedOut(ctx context.Context, id string) {
	s.t.Helper()
	r := s.show(ctx, id)
	if r.Status != report.RunUncommitted || len(r.Statements) > 0 {
		s.t.Errorf("the run is %s: %s; statements %+v", r.Status, r.Reason, r.Statements)
	}
	for _, m := range lab.Machines {
		noted := false
		for _, n := range r.Notes {
			noted = noted || n.Step == "right-to-run/"+m && strings.Contains(n.Text, "renews no more")
		}
		if !noted {
			s.t.Errorf("the journal does not say that the lease of %s was waited for: %+v", m, r.Notes)
		}
	}
	s.serving("lyon")
	lives := s.neverTogether()
	sites := map[string]int{}
	for _, l := range lives {
		sites[l.Site]++
	}
	// On a busy host a lease may end before its time, and the machine comes back.
	if sites["paris"] < len(lab.Machines) || sites["lyon"] != len(lab.Machines) {
		s.t.Errorf("lives: %v", lives)
	}
}

// TestLeaseIsWaitedOut: the source's machines run on while nobody hears of it: cut
// off from the target and from the runtime, or under an agent that is dead. They
// are stopped when their leases end; an unplanned run waits for that, asks nobody,
// and no machine runs at two sites.
func TestLeaseIsWaitedOut(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*site){
		"cut off":    func(s *site) { s.Link("par-1").Cut(both); s.Link("lyo-1").Part() },
		"dead agent": func(s *site) { s.Kill("par-1") },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 4*time.Minute)
			s := newSite(t, lab.Options{Every: "500ms", Small: true, Links: true}, false)
			s.withLease()
			s.protect(ctx, killPlan)
			s.untilLeased(ctx, func() {})
			lose(s)
			f := s.follow(ctx, "kill", "--unplanned", "--yes")
			if code := f.wait(t); code != 0 {
				t.Fatalf("the run ended with %d\n%s", code, &f.diag)
			}
			s.waitedOut(ctx, f.run)
			if name == "cut off" {
				s.Link("par-1").Heal()
				s.Link("lyo-1").Heal()
				s.untilHost(ctx, "par-1", "it knows", knows)
				s.serving("lyon")
				s.neverTogether()
			}
		})
	}
}

// TestCrashLease kills the agents between the durable steps of a lease: the
// source's word, the target's record of it, and the end of its renewals.
func TestCrashLease(t *testing.T) {
	t.Parallel()
	ctx := within(t, 5*time.Minute)
	dir, err := crashBin()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, lab.Options{Bin: dir, Every: "500ms", Small: true}, false)
	s.protect(ctx, killPlan)
	source, target := s.doom("par-1", leasePoints[:1]...), s.doom("lyo-1", leasePoints[1:]...)
	s.withLease()
	s.must(s.Drrun(ctx, "apply", "estate.lua", "--yes"))
	s.untilLeased(ctx, s.tend)
	s.no(s.KillSite("par-1", "paris"))
	f := s.follow(ctx, "kill", "--unplanned", "--yes")
	ended := make(chan int, 1)
	go func() { ended <- f.wait(t) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for code := -1; code < 0; {
		select {
		case code = <-ended:
			if code != 0 {
				t.Fatalf("the run ended with %d\n%s", code, &f.diag)
			}
		case <-tick.C:
			s.tend()
		}
	}
	if got := len(source.died) + len(target.died); got != len(leasePoints) {
		t.Errorf("died at %v and %v, want %v", source.died, target.died, leasePoints)
	}
	s.waitedOut(ctx, f.run)
}
