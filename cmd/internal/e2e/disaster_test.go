package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/runtime/report"
)

// moment is when the primary site dies in a planned failover.
type moment struct {
	step  string
	ended bool // at the step's end, not its begin
	rest  bool // in the tests of every day
}

// The steps of a planned failover of the example, in their order.
var deaths = []moment{
	{"claim", true, false}, {"drain-ahead/app2", false, false}, {"drain-ahead/db1", true, true},
	{"shutdown/app1/stop", false, false}, {"shutdown/app2/stop", true, true}, {"shutdown/db1/stop", true, true},
	{"shutdown/db1/drain", false, false}, {"shutdown/app1/drain", true, false}, {"shutdown/db1/drain", true, true},
	{"epoch/db1/lyo-1", false, false}, {"epoch/app1/lyo-1", true, true}, {"epoch/db1/par-1", true, false}, {"points", true, false},
	{"prepare/db1", false, false}, {"prepare/app2", true, false}, {"group:databases/db1/start", true, true},
	{"group:application/app1/start", false, false}, {"group:application/app2/ready", true, false}, {"running", false, false},
}

// TestPrimaryDiesInPlannedFailover kills the whole primary site with SIGKILL,
// its agent and its machines, at every step of a planned failover under load,
// and lets the run go on as unplanned. Every machine ends up at the new site and
// ran nowhere twice; from its final delta on it has lost nothing; before, all
// that it lost is younger than its point, and the run says how much that is.
func TestPrimaryDiesInPlannedFailover(t *testing.T) {
	t.Parallel()
	for _, m := range deaths {
		if !m.rest && !long() {
			continue
		}
		name := strings.ReplaceAll(m.step, "/", "_") + map[bool]string{false: "-begins", true: "-ended"}[m.ended]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m.die(t)
		})
	}
}

func (m moment) die(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	s := newSite(t, lab.Options{Every: "1s", Small: true}, true)
	s.protect(ctx, killPlan)
	stop, clients := s.load(ctx, 1)
	s.untilWritten(ctx, clients, 20)

	f := s.follow(ctx, "kill", "--planned", "--yes")
	if !f.until(at(m.step, m.ended)) {
		t.Fatalf("the run ended (%d) before %s\n%s", f.wait(t), m.step, &f.diag)
	}
	s.no(s.KillSite("par-1", "paris"))
	died := time.Now()
	lists := stop()
	f.kill(t) // the command only watches: the controller has the run
	before := s.show(ctx, f.run)

	code, said := s.exit(ctx, "resume", f.run, "--as", "unplanned", "--source-is-down")
	r := s.show(ctx, f.run)
	if r.Status != report.RunUncommitted {
		t.Fatalf("killed at %s: resume ended with %d, the run is %s: %s\n%s", m.step, code, r.Status, r.Reason, said)
	}
	s.serving("lyon")
	s.neverTogether()
	for _, c := range clients {
		s.loss(ctx, c, lists[c.Machine], &before, &r, died)
	}
}

// loss compares what a machine lost at lyon by the client's own list with what
// the run says.
func (s *site) loss(ctx context.Context, c *lab.Client, acked []lab.Entry, before, r *report.Run, died time.Time) {
	s.t.Helper()
	here := slices.DeleteFunc(slices.Clone(acked), func(e lab.Entry) bool { return e.URL != s.URL("paris", c.Machine) })
	lost, err := c.Lost(ctx, s.URL("lyon", c.Machine), here)
	s.no(err)
	i := slices.IndexFunc(r.Machines, func(m report.Machine) bool { return m.Name == c.Machine })
	m := r.Machines[i]
	if m.Loss == nil || m.Point == nil {
		s.t.Fatalf("the run says nothing of the loss of %s: %+v", c.Machine, m)
	}
	drained := slices.ContainsFunc(before.Steps, func(st report.Step) bool {
		return st.ID == "shutdown/"+c.Machine+"/drain" && st.Status == report.StepDone
	})
	s.t.Logf("%s: %d acknowledged, %d lost, the run says %.3f s (drained: %v)", c.Machine, len(here), len(lost), *m.Loss, drained)
	switch {
	case drained && (len(lost) > 0 || *m.Loss > 0):
		s.t.Errorf("%s lost %d of %d acknowledged entries after its final delta; the run says %.3f s", c.Machine, len(lost), len(here), *m.Loss)
	case len(lost) == 0:
		return
	}
	oldest := slices.MinFunc(lost, func(a, b lab.Entry) int { return a.At.Compare(b.At) })
	newest := slices.MaxFunc(lost, func(a, b lab.Entry) int { return a.At.Compare(b.At) })
	if oldest.At.Before(m.Point.Instant) {
		s.t.Errorf("%s lost entry %d, acknowledged %s, although its point is of %s", c.Machine, oldest.ID, oldest.At, m.Point.Instant)
	}
	if real := newest.At.Sub(m.Point.Instant); newest.At.Before(died) && *m.Loss < real.Seconds()-0.1 {
		s.t.Errorf("%s lost what was acknowledged in %v after its point, the run says %.3f s", c.Machine, real, *m.Loss)
	}
}

// untilWritten waits until every client has n more acknowledgements.
func (s *site) untilWritten(ctx context.Context, clients []*lab.Client, n int) {
	s.t.Helper()
	first := map[string]int{}
	for _, c := range clients {
		first[c.Machine] = len(c.Acknowledged())
	}
	s.no(lab.Until(ctx, fmt.Sprintf("%d writes of every client", n), func() (bool, string, error) {
		fewest := n
		for _, c := range clients {
			fewest = min(fewest, len(c.Acknowledged())-first[c.Machine])
		}
		return fewest >= n, fmt.Sprint(fewest), nil
	}))
}
