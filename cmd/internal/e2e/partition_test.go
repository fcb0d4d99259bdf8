package e2e_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/runtime/report"
)

// gatePlan is killPlan with a question at each border of its phases, which the
// agent at lyon puts to GATE; one that is cut off cannot bring the answer.
const gatePlan = `
local function gate(name)
  return check(name) { http = "http://GATE/" .. name, expect = 200, every = "200ms", within = "3s" }
end

return plan "kill" {
  from = "paris", to = "lyon",
  shutdown = { force_after = "20s", after = gate "drained" },
  failover = { before = gate "allowed", after = gate "prepared" },
  group "databases" { machine "db1", after = gate "serving" },
  group "application" { machines { tag = "erp-app" } },
}`

// partition is one cut of the network in a planned failover.
type partition struct {
	name  string
	hosts []string // cut off from everybody
	ways  lab.Way
	gate  string // the cut is while this question is put
	step  string // or while this step is on its way, until a person pauses the run
	heals bool   // the network comes back in time: nobody has to do anything
	rest  bool   // in the tests of every day
}

const both = lab.In | lab.Out

var partitions = []partition{
	{name: "target drained", hosts: []string{"lyo-1"}, ways: both, gate: "drained", rest: true},
	{name: "target allowed", hosts: []string{"lyo-1"}, ways: both, gate: "allowed"},
	{name: "all prepared", hosts: []string{"par-1", "lyo-1"}, ways: both, gate: "prepared"},
	{name: "answers lost serving", hosts: []string{"lyo-1"}, ways: lab.Out, gate: "serving", rest: true},
	{name: "source drain-ahead", hosts: []string{"par-1"}, ways: both, step: "drain-ahead/db1"},
	{name: "source stop", hosts: []string{"par-1"}, ways: lab.Out, step: "shutdown/app1/stop", heals: true, rest: true},
	{name: "target drain", hosts: []string{"lyo-1"}, ways: both, step: "shutdown/db1/drain"},
	{name: "all epoch", hosts: []string{"par-1", "lyo-1"}, ways: both, step: "epoch/db1/lyo-1", rest: true},
	{name: "target hears nothing", hosts: []string{"lyo-1"}, ways: lab.In, step: "epoch/app1/lyo-1"},
	{name: "source epoch", hosts: []string{"par-1"}, ways: both, step: "epoch/app1/par-1"},
	{name: "target prepare", hosts: []string{"lyo-1"}, ways: lab.Out, step: "prepare/db1"},
	{name: "target start", hosts: []string{"lyo-1"}, ways: lab.Out, step: "group:databases/db1/start"},
	{name: "all start", hosts: []string{"par-1", "lyo-1"}, ways: both, step: "group:application/app2/start", heals: true},
}

// TestPartitionInPlannedFailover cuts the network of real programs in the middle
// of a planned failover under load: of one site or of both, of both ways or one.
// The run stops, by itself or paused, no machine runs at two sites, and healed it
// goes on to its end: every acknowledged write is at the new site.
func TestPartitionInPlannedFailover(t *testing.T) {
	t.Parallel()
	for _, p := range partitions {
		if !p.rest && !long() {
			continue
		}
		t.Run(strings.ReplaceAll(p.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			p.happen(t)
		})
	}
}

func (p partition) happen(t *testing.T) {
	ctx := within(t, 10*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true, Links: true}, false)
	var armed atomic.Bool
	gates := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+p.gate) && armed.CompareAndSwap(true, false) {
			p.cut(s)
		}
	}))
	defer gates.Close()
	s.protect(ctx, strings.ReplaceAll(gatePlan, "GATE", gates.Listener.Addr().String()))
	stop, clients := s.load(ctx, 1)
	s.untilWritten(ctx, clients, 20)

	armed.Store(p.gate != "")
	f := s.follow(ctx, "kill", "--planned", "--yes")
	switch {
	case p.gate != "":
		p.stopsAt(s, f)
	case p.heals:
		p.waits(s, f)
		p.heal(s)
		if code := f.wait(t); code != 0 {
			t.Fatalf("healed, the run ended with %d\n%s", code, &f.diag)
		}
	default:
		p.waits(s, f)
		p.leave(ctx, s, f)
	}
	if !p.heals {
		p.heal(s)
		s.must(s.Drrun(ctx, "resume", f.run))
	}
	if r := s.show(ctx, f.run); r.Status != report.RunUncommitted {
		t.Errorf("the run is %s: %s", r.Status, r.Reason)
	}
	s.serving("lyon")
	s.must(s.Drrun(ctx, "commit", f.run))
	s.untilState(ctx, "protected", "lyon")
	lists := stop()
	s.noneLost(ctx, "lyon", clients, lists)
	s.onePower(ctx)
	starts := map[string]int{}
	for _, l := range s.neverTogether() {
		if l.Site == "lyon" {
			starts[l.Machine]++
		}
	}
	for _, m := range lab.Machines {
		if starts[m] != 1 {
			t.Errorf("%s was started %d times at lyon", m, starts[m])
		}
	}
}

func (p partition) cut(s *site) {
	for _, h := range p.hosts {
		s.Link(h).Cut(p.ways)
	}
}

// heal brings the network back, and fails the test if nothing met the cut.
func (p partition) heal(s *site) {
	s.t.Helper()
	for _, h := range p.hosts {
		in, out := s.Link(h).Lost()
		if in+out == 0 {
			s.t.Errorf("nothing to or from %s was lost: the test shows nothing", h)
		}
		s.Link(h).Heal()
	}
}

// stopsAt waits for the end of a run whose question got no answer in time.
func (p partition) stopsAt(s *site, f *following) {
	s.t.Helper()
	code := f.wait(s.t)
	ctx := within(s.t, patience)
	if said := s.must(s.Drrun(ctx, "show", f.run)); code != 4 || !strings.Contains(said, "drrun resume "+f.run) {
		s.t.Fatalf("the run ended with %d, want 4 and how to go on:\n%s", code, said)
	}
	r := s.show(ctx, f.run)
	if r.Status != report.RunStopped {
		s.t.Errorf("cut off, the run is %s: %s", r.Status, r.Reason)
	}
	s.neverTogether()
	for _, m := range lab.Machines {
		if lab.Listening(s.IP("paris", m) + ":" + s.Port) {
			s.t.Errorf("%s answers at paris, where it was stopped", m)
		}
	}
}

// waits cuts the network when the step has begun, and returns when the run says
// that it waits for a host.
func (p partition) waits(s *site, f *following) {
	s.t.Helper()
	if !f.until(at(p.step, false)) {
		s.t.Fatalf("the run ended before %s\n%s", p.step, &f.diag)
	}
	p.cut(s)
	if !f.until(func(ev report.Event) bool {
		return ev.Step != nil && ev.Step.Progress != nil && strings.Contains(ev.Step.Progress.Phase, "waits for")
	}) {
		s.t.Fatalf("the run ended with %d while %v were cut off\n%s", f.wait(s.t), p.hosts, &f.diag)
	}
}

// leave interrupts the run once, as a person does who sees that it waits in vain:
// it pauses and waits no longer for the host that is silent.
func (p partition) leave(ctx context.Context, s *site, f *following) {
	s.t.Helper()
	s.no(f.cmd.Process.Signal(syscall.SIGINT))
	code := f.wait(s.t)
	r := s.show(ctx, f.run)
	s.t.Logf("left while cut off: exit %d, the run is %s: %s", code, r.Status, r.Reason)
	if code != fault.ExitInterrupted || r.Status.Ended() || r.Status == report.RunUncommitted {
		s.t.Errorf("the run ended with %d and is %s: %s\n%s", code, r.Status, r.Reason, &f.diag)
	}
	s.neverTogether()
}
