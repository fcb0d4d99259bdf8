package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/lab"
)

// The points of internal/crash by the work that passes them, in the order in
// which it does.
var (
	sendingPoints = []string{
		"source.segment.spooled", "source.cut.scanned", "source.cut.journaled", "source.segment.acknowledged",
		"source.table.folded", "source.tip.answered", "source.tip.journaled",
	}
	receivingPoints = []string{
		"replica.segment.received", "replica.segment.checked", "replica.segment.durable", "replica.manifest.before",
		"replica.manifest.durable", "replica.table.folded", "replica.undo.durable", "replica.head.written", "replica.mark.stored",
		"replica.thin.merged", "replica.thin.recorded", "replica.thin.removed",
	}
	testingPoints = []string{"replica.test.copied", "replica.test.dropping"}
	// Of a planned failover, at the site that the machines leave and at the one
	// they go to.
	leavingPoints = []string{
		"agent.fence.stored", "agent.op.started", "agent.stop.stored", "agent.stop.done", "agent.lock.stored",
		"agent.op.done", "agent.op.stored", "replica.adopt.recorded", "replica.adopt.manifest", "replica.adopt.marked", "replica.hold.stored",
	}
	arrivingPoints = []string{
		"agent.epoch.stored", "replica.overlay.recorded", "replica.overlay.copied", "replica.overlay.switch", "replica.overlay.kept",
		"replica.overlay.ready", "agent.start.stored", "agent.start.done", "replica.commit.stored",
	}
	// Of a rollback: at the new site, at the old one whose disks are the
	// machine's first, and at one that had points before.
	keptPoints      = []string{"agent.rollback.kept"}
	reclaimedPoints = []string{"agent.rollback.recorded"}
	heldPoints      = []string{"replica.rollback.recorded"}
	foundPoints     = []string{"replica.found.read"}
	// Of a lease: at the source, and twice at the target.
	leasePoints   = []string{"agent.lease.obeyed", "agent.lease.stored", "agent.lease.closed"}
	runtimePoints = []string{"runtime.record.before", "runtime.record.after", "runtime.effect.done"}
)

// TestCrashPointsAreTried: each point of the tree is one at which a test kills.
func TestCrashPointsAreTried(t *testing.T) {
	t.Parallel()
	tried := slices.Concat(sendingPoints, receivingPoints, testingPoints, leavingPoints, arrivingPoints,
		keptPoints, reclaimedPoints, heldPoints, foundPoints, leasePoints, runtimePoints)
	for _, p := range crash.Points {
		if !slices.Contains(tried, p.Name) {
			t.Errorf("no test kills at %s", p.Name)
		}
	}
}

// crashBin is a folder of programs that die at crash points.
var crashBin = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "crash")
	for _, p := range []string{"cmd/drrun", "cmd/drrun-agent"} {
		if err := build(dir, p, "-tags", "crashtest"); err != nil {
			return "", err
		}
	}
	return dir, os.Symlink(filepath.Join(bin, "ledger"), filepath.Join(dir, "ledger"))
})

// victim is an agent that dies at one point after the other.
type victim struct {
	host string
	left []string // points still to die at, NAME or NAME:PASS
	died []string
}

// crashSite is a lab of programs that can die.
func crashSite(t *testing.T) *site {
	t.Helper()
	dir, err := crashBin()
	if err != nil {
		t.Fatal(err)
	}
	return newSite(t, lab.Options{Bin: dir, Every: "300ms"}, false)
}

// doom makes a host's agent die at each of the points in turn.
func (s *site) doom(host string, points ...string) *victim {
	s.t.Helper()
	v := &victim{host: host, left: points}
	s.victims = append(s.victims, v)
	s.Kill(host)
	s.revive(v)
	return v
}

// revive starts the agent of a victim, which dies at the next point of its list.
func (s *site) revive(v *victim) {
	s.t.Helper()
	env := []string{"DRRUN_CRASH_LOG=" + filepath.Join(s.Root, "passed")}
	if len(v.left) > 0 {
		env = append(env, "DRRUN_CRASH_AT="+v.left[0])
	}
	s.no(s.StartAgent(v.host, env...))
}

// tend starts the agents again that have died where they had to.
func (s *site) tend() {
	s.t.Helper()
	for _, v := range s.victims {
		if !s.Ended(v.host) {
			continue
		}
		if len(v.left) == 0 {
			s.t.Fatalf("the agent of %s ended by itself", v.host)
		}
		s.t.Logf("%s died at %s", v.host, v.left[0])
		v.died, v.left = append(v.died, v.left[0]), v.left[1:]
		s.Kill(v.host)
		s.revive(v)
	}
}

// spare lets the victims live from here on.
func (s *site) spare() {
	s.t.Helper()
	for _, v := range s.victims {
		if len(v.left) > 0 {
			v.left = nil
			s.Kill(v.host)
			s.revive(v)
		}
	}
}

// doomed counts the deaths to come.
func (s *site) doomed() (n int) {
	for _, v := range s.victims {
		n += len(v.left)
	}
	return n
}

// Drrun runs a command, and tends the victims meanwhile.
func (s *site) Drrun(ctx context.Context, args ...string) (string, error) {
	if len(s.victims) == 0 {
		return s.Lab.Drrun(ctx, args...)
	}
	type result struct {
		out string
		err error
	}
	ended := make(chan result, 1)
	go func() {
		out, err := s.Lab.Drrun(ctx, args...)
		ended <- result{out, err}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case r := <-ended:
			return r.out, r.err
		case <-tick.C:
			s.tend()
		}
	}
}

// untilDead lets the agents work until each has died at all its points.
func (s *site) untilDead(ctx context.Context, within time.Duration, meanwhile func()) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s.no(lab.Until(ctx, "the agents to die", func() (bool, string, error) {
		s.tend()
		meanwhile()
		return s.doomed() == 0, s.waiting(), nil
	}))
}

// waiting names the next points.
func (s *site) waiting() string {
	var all []string
	for _, v := range s.victims {
		if len(v.left) > 0 {
			all = append(all, v.host+" lives until "+v.left[0])
		}
	}
	return strings.Join(all, ", ")
}

// deaths fails the test for points at which no victim died.
func (s *site) deaths(points ...[]string) {
	s.t.Helper()
	for _, p := range slices.Concat(points...) {
		if !slices.ContainsFunc(s.victims, func(v *victim) bool { return slices.Contains(v.died, p) }) {
			s.t.Errorf("no agent died at %s: %s", p, s.waiting())
		}
	}
	s.spare()
}

// passes prints how often each point was passed.
func (s *site) passes() {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Root, "passed"))
	s.no(err)
	counts := map[string]int{}
	for name := range strings.Lines(string(text)) {
		counts[strings.TrimSpace(name)]++
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		s.t.Logf("passed %4d times: %s", counts[name], name)
	}
}

// more are seeded passes of points: later ones than the first.
func more(rnd *rand.Rand, n int, points []string) (all []string) {
	for range n {
		all = append(all, fmt.Sprintf("%s:%d", points[rnd.IntN(len(points))], 2+rnd.IntN(5)))
	}
	return all
}

// TestCrashReplication kills both agents at every durable step of replication
// under load, of thinning and of a test failover. Every point that was reported
// is there or was thinned by its policy, and verifies; source and replica end
// equal.
func TestCrashReplication(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	rnd, s := moments(t), crashSite(t)
	// The points of app2 are thinned while the test runs.
	s.edit("estate.lua", `  site "paris" {`, `  policy "short" { every = lab.every, rpo = "10m", keep = { "all for 2s", "5s for 1h" } },
  site "paris" {`)
	s.edit("estate.lua", `machine "app2" {`, `machine "app2" { policy = "short",`)
	s.protect(ctx, killPlan)
	stop, clients := s.load(ctx, 1)
	s.doom("par-1", append(slices.Clone(sendingPoints), more(rnd, kills(t)/2, sendingPoints)...)...)
	s.doom("lyo-1", append(slices.Clone(receivingPoints), more(rnd, kills(t)/2, receivingPoints[:9])...)...)
	seen, left := newest{}, 0
	s.untilDead(ctx, patience+time.Duration(10*kills(t))*time.Second, func() {
		if n := s.doomed(); n != left { // since the last look
			left = n
			s.notePoints(ctx)
			seen.note(s, ctx)
		}
	})
	for _, p := range testingPoints {
		v := s.victims[1]
		v.left = []string{p}
		s.Kill(v.host)
		s.revive(v)
		s.testFailover(ctx)
	}
	s.deaths(sendingPoints, receivingPoints, testingPoints)
	s.untilState(ctx, "protected", "paris")
	s.noneLost(ctx, "paris", clients, stop())
	s.rollBack(ctx, "par-1", "lyo-1", reclaimedPoints)
	s.untilSettled(ctx)
	s.onePower(ctx)
	s.equalDisks(ctx)
	for id, m := range s.reported {
		if m == "app2" {
			delete(s.reported, id) // thinned by its policy; newest looks after them
		}
	}
	s.verifyPoints(ctx)
	s.neverTogether()
	s.passes()
}

// newest is the highest number of a point that the target of each machine has
// reported: no crash takes that back, whatever is thinned.
type newest map[string]uint64

func (n newest) note(s *site, ctx context.Context) {
	s.t.Helper()
	out, err := s.Drrun(ctx, "status", "-o", "json")
	if err != nil {
		return // its agents are dying
	}
	var st struct {
		Machines []machine `json:"machines"`
	}
	s.no(json.Unmarshal([]byte(out), &st))
	for _, m := range st.Machines {
		for _, h := range m.Hosts { // while the target is dead, its source knows of fewer
			if h.Role != command.RoleTarget || h.TipSeq == 0 {
				continue
			}
			if h.TipSeq < n[m.Machine] {
				s.t.Errorf("%s had point %d on %s and has %d", m.Machine, n[m.Machine], h.Host, h.TipSeq)
			}
			n[m.Machine] = h.TipSeq
		}
	}
}

// testFailover makes a test failover and cleans it up, through the deaths of
// agents.
func (s *site) testFailover(ctx context.Context) {
	s.t.Helper()
	s.urge(ctx, "uncommitted", []string{"kill", "--test", "--yes"})
	s.urge(ctx, "done", []string{"cleanup", s.newestRun(ctx).ID})
}

// urge gives a command, and resumes the run that stops because an agent died,
// until the newest run has a status. While agents start, a command may be
// refused and is given again.
func (s *site) urge(ctx context.Context, status string, args []string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	before := s.newestRun(ctx)
	s.no(lab.Until(ctx, "a run that is "+status, func() (bool, string, error) {
		_, err := s.Drrun(ctx, args...)
		r := s.newestRun(ctx)
		for try := 0; r.Status == "stopped" && try < 5; try++ {
			_, err = s.Drrun(ctx, "resume", r.ID)
			r = s.newestRun(ctx)
		}
		return r.Status == status && r != before, fmt.Sprintf("%+v: %v", r, err), nil
	}))
}

// TestCrashFailover kills both agents and the runtime at every durable step of a
// planned failover, of its rollback, and of the way back after a disaster. Each
// run can be resumed to its end, no machine ever runs twice, and nothing
// acknowledged is lost.
func TestCrashFailover(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	rnd, s := moments(t), crashSite(t)
	s.protect(ctx, killPlan)
	stop, clients := s.load(ctx, 1)

	s.doom("par-1", leavingPoints...)
	s.doom("lyo-1", arrivingPoints...)
	s.untilState(ctx, "protected", "paris")
	args := []string{"kill", "--planned", "--yes", "--commit"}
	for _, p := range runtimePoints {
		s.runDies(ctx, fmt.Sprintf("%s:%d", p, 1+rnd.IntN(8)), args)
		if r := s.newestRun(ctx); r.ID != "" {
			args = []string{"resume", r.ID}
		}
	}
	s.finish(ctx, []string{"kill", "--planned", "--yes", "--commit"})
	s.untilState(ctx, "protected", "lyon")
	s.notePoints(ctx)
	s.deaths(leavingPoints, arrivingPoints)

	s.noneLost(ctx, "lyon", clients, stop())

	s.rollBack(ctx, "lyo-1", "par-1", heldPoints, "--failback")
	s.onePower(ctx)
	if t.Failed() {
		t.FailNow()
	}

	s.victims = nil
	s.untilSettled(ctx)
	s.notePoints(ctx)
	s.no(s.KillSite("lyo-1", "lyon"))
	s.must(s.Drrun(ctx, "kill", "--unplanned", "--failback", "--source-is-down", "--yes", "--commit"))
	s.doom("lyo-1", foundPoints...)
	s.urge(ctx, "done", []string{"reverse", "kill", "--yes"})
	s.untilState(ctx, "protected", "paris")
	s.deaths(foundPoints)
	s.untilSettled(ctx)
	s.onePower(ctx)
	s.neverTogether()
	s.verifyPoints(ctx)
	s.passes()
}

// rollBack makes a planned failover and takes it back, while the agents die: at
// home at the given points, at the other site at those of what is kept.
func (s *site) rollBack(ctx context.Context, home, other string, points []string, flags ...string) {
	s.t.Helper()
	s.must(s.Drrun(ctx, append([]string{"kill", "--planned", "--yes"}, flags...)...))
	r := s.newestRun(ctx)
	s.victims = nil
	s.doom(home, points...)
	s.doom(other, keptPoints...)
	s.urge(ctx, "rolled-back", []string{"rollback", r.ID, "--yes"})
	s.untilState(ctx, "protected", map[string]string{"par-1": "paris", "lyo-1": "lyon"}[home])
	s.deaths(keptPoints, points)
	s.notePoints(ctx)
}

// runDies starts a run that dies at a point of the runtime, and tends the
// agents until it has.
func (s *site) runDies(ctx context.Context, point string, args []string) {
	s.t.Helper()
	cmd := s.Command(ctx, args...)
	cmd.Env = append(cmd.Env, "DRRUN_CRASH_AT="+point, "DRRUN_CRASH_LOG="+filepath.Join(s.Root, "passed"))
	s.no(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			s.t.Logf("the run, to die at %s: %v", point, err)
			return
		case <-tick.C:
			s.tend()
		}
	}
}
