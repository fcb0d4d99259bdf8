package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/recovery"
)

// untilHost waits until an agent says of every machine what is meant, asked on
// its own host: no controller is needed for that.
func (s *site) untilHost(ctx context.Context, host, what string, meant func(command.MachineStatus) bool) {
	s.t.Helper()
	s.no(lab.Until(ctx, what+" on "+host, func() (bool, string, error) {
		out, err := s.Agent(ctx, host, "status", "-o", "json")
		if err != nil {
			return false, err.Error(), nil // it is being started
		}
		var st command.AgentStatus
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return false, "", err
		}
		ok := len(st.Machines) == len(lab.Machines)
		for _, m := range st.Machines {
			ok = ok && meant(m)
		}
		return ok, out, nil
	}))
}

// knows means a stopped machine whose host says that lyon may run it.
func knows(m command.MachineStatus) bool {
	return m.Power == recovery.PowerStopped && m.Authority.Epoch == 2 && m.Authority.Active == "lyon"
}

// refusedPermit runs drrun-agent permit and returns what it said when it refused.
func (s *site) refusedPermit(ctx context.Context, host, machine string) string {
	s.t.Helper()
	out, err := s.Agent(ctx, host, "permit", machine)
	if err == nil {
		s.t.Fatalf("permit of %s is not refused: %s", machine, out)
	}
	return err.Error()
}

// TestOldPrimaryComesBack lets the primary site die and come back after an
// unplanned failover: first cut off from everybody, where it starts nothing and
// says what it waits for, then with its peer in reach, which tells it why.
func TestOldPrimaryComesBack(t *testing.T) {
	t.Parallel()
	ctx := within(t, 5*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, true)
	s.protect(ctx, killPlan)
	s.no(s.KillSite("par-1", "paris"))
	s.must(s.Drrun(ctx, "kill", "--unplanned", "--source-is-down", "--yes"))
	newest := map[string]uint64{}
	for _, m := range s.status(ctx) {
		newest[m.Machine] = m.Newest.Seq
	}

	s.Kill("controller")
	s.Kill("lyo-1") // its machines run on
	s.no(s.StartAgent("par-1"))
	s.untilHost(ctx, "par-1", "what it waits for", func(m command.MachineStatus) bool {
		return m.Power == recovery.PowerStopped && strings.Contains(m.Reason, "no peer confirms epoch 1") &&
			strings.Contains(m.Reason, "drrun-agent permit "+m.Machine)
	})
	s.serving("lyon")

	s.no(s.StartAgent("lyo-1"))
	s.startController(ctx)
	s.untilHost(ctx, "par-1", "why it may not start", func(m command.MachineStatus) bool {
		return knows(m) && strings.Contains(m.Reason, "epoch 2 (active site lyon")
	})
	if said := s.refusedPermit(ctx, "par-1", "db1"); !strings.Contains(said, "epoch 2 (active site lyon") {
		t.Errorf("permit says: %s", said)
	}
	for _, m := range s.status(ctx) {
		if m.Newest.Seq != newest[m.Machine] || m.Active != "lyon" {
			t.Errorf("%s: active %s, its newest point went from %d to %d", m.Machine, m.Active, newest[m.Machine], m.Newest.Seq)
		}
	}
	s.serving("lyon")
	for _, l := range s.neverTogether() {
		if l.Site == "paris" && l.Epoch != "1" || l.Site == "lyon" && l.Epoch != "2" {
			t.Errorf("a life of an epoch that is not its site's: %s", l)
		}
	}
}

// waitFirst is a plan that asks a person before it starts anything.
var waitFirst = strings.Replace(killPlan, `group "databases"`, `wait "really" { ask = "Is it down?", within = "1h", on_timeout = "stop" },
  group "databases"`, 1)

// TestOldPrimaryStillRuns: only the agent of the primary site has died. Back, it
// learns that the machines which run beside it belong to the other site, and
// stops them; then they start there.
func TestOldPrimaryStillRuns(t *testing.T) {
	t.Parallel()
	ctx := within(t, 5*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, true)
	s.protect(ctx, waitFirst)
	s.Kill("par-1")
	s.serving("paris")
	f := s.follow(ctx, "kill", "--unplanned", "--source-is-down", "--yes")
	if code := f.wait(t); code != 5 {
		t.Fatalf("the run does not wait: exit %d\n%s", code, &f.diag)
	}
	s.serving("paris") // nothing can stop them yet

	s.no(s.StartAgent("par-1"))
	s.untilHost(ctx, "par-1", "the stop of machines that another site may run", func(m command.MachineStatus) bool {
		return knows(m) && strings.Contains(m.Reason, "epoch 2 (active site lyon")
	})
	for _, m := range lab.Machines {
		if lab.Listening(s.IP("paris", m) + ":" + s.Port) {
			t.Errorf("%s still answers at paris", m)
		}
	}
	s.must(s.Drrun(ctx, "answer", f.run, "go"))
	s.must(s.Drrun(ctx, "watch", f.run))
	s.serving("lyon")
	for _, l := range s.neverTogether() {
		if l.Site == "paris" && !l.Stopped {
			t.Errorf("it was not stopped in order: %s", l)
		}
	}
}

// TestStartAlone: both sites lose their power and one host comes back alone. Of
// its machines one waits for a person, one never starts alone, one does. What a
// person permitted is recorded, and counts for this start of the agent only.
func TestStartAlone(t *testing.T) {
	t.Parallel()
	ctx := within(t, 5*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, false)
	s.edit("estate.lua", `policy "gold" {`, `policy "never" { every = lab.every, start_alone = "never" },
  policy "allow" { every = lab.every, start_alone = "allow" },
  policy "gold" {`)
	s.edit("estate.lua", `machine "app1" {`, `machine "app1" { policy = "never",`)
	s.edit("estate.lua", `machine "app2" {`, `machine "app2" { policy = "allow",`)
	s.protect(ctx, killPlan)

	dark := func() {
		s.no(s.KillSite("par-1", "paris"))
		s.Kill("lyo-1")
		s.no(s.StartAgent("par-1"))
	}
	alone := func() {
		s.untilHost(ctx, "par-1", "what each machine does alone", func(m command.MachineStatus) bool {
			waits := m.Power == recovery.PowerStopped && strings.Contains(m.Reason, "no peer confirms epoch 1")
			hint := strings.Contains(m.Reason, "drrun-agent permit")
			return m.Machine == "db1" && waits && hint || m.Machine == "app1" && waits && !hint || m.Machine == "app2" && m.Power == recovery.PowerRunning
		})
	}
	dark()
	alone()
	if said := s.refusedPermit(ctx, "par-1", "app1"); !strings.Contains(said, "never lets it start without its peer") {
		t.Errorf("permit of app1 says: %s", said)
	}
	before := time.Now()
	if _, err := s.Agent(ctx, "par-1", "permit", "db1"); err != nil {
		t.Fatal(err)
	}
	if !lab.Listening(s.IP("paris", "db1") + ":" + s.Port) {
		t.Error("db1 was permitted and does not serve")
	}
	s.permitted("db1", before)

	dark() // what was permitted counted for that time
	alone()
	s.no(s.StartAgent("lyo-1"))
	s.untilHost(ctx, "par-1", "all machines with the peer's word", func(m command.MachineStatus) bool { return m.Power == recovery.PowerRunning })
	s.neverTogether()
}

// permitted looks at the agent's record of who permitted a start, and when.
func (s *site) permitted(machine string, since time.Time) {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.AgentState("par-1"), "machines", machine, "machine.json"))
	s.no(err)
	var rec struct {
		Permits []struct {
			By    string    `json:"by"`
			At    time.Time `json:"at"`
			Epoch uint64    `json:"epoch"`
		} `json:"permits"`
	}
	s.no(json.Unmarshal(b, &rec))
	if len(rec.Permits) != 1 || rec.Permits[0].By == "" || rec.Permits[0].At.Before(since) || rec.Permits[0].Epoch != 1 {
		s.t.Errorf("permits of %s: %s", machine, fmt.Sprintf("%+v", rec.Permits))
	}
}
