package agent_test

import (
	"strings"
	"testing"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// claimed claims the machine at a host for a run, with a number above all before.
func (p *pair) claimed(host, run string, change func(*command.ClaimRequest)) {
	p.t.Helper()
	p.fence++
	in := command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: run, Fence: p.fence}}
	if change != nil {
		change(&in)
	}
	call(p, command.Claim, host, in)
}

func takesOver(in *command.ClaimRequest) { in.Takeover = true }

// confirmed asks lyo-1 as the agent of par-1 does; it returns the run that takes
// the machine over.
func (p *pair) confirmed() (takeover string) {
	p.t.Helper()
	var out command.ConfirmResult
	must(p.t, clientOf(p.t, p.a.id, p.b.listen).Call(p.t.Context(), "lyo-1", command.Confirm.Name, command.ConfirmRequest{Machine: "erp", Authority: p.auth}, &out))
	if !out.Authority.Same(p.auth) {
		p.t.Errorf("lyo-1 holds %+v", out.Authority)
	}
	return out.Takeover
}

// TestTakeoverEnds: a host that a run takes a machine over to confirms its record
// no more, also when it was started anew, until the run lets go, another run
// claims it, or a newer record is granted.
func TestTakeoverEnds(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	for _, c := range []struct {
		what, want string
		do         func()
	}{
		{"without a claim", "", func() {}},
		{"a claim", "", func() { p.claimed("lyo-1", "run-1", nil) }},
		{"a claim for a takeover", "run-1", func() { p.claimed("lyo-1", "run-1", takesOver) }},
		{"a restart", "run-1", func() { p.b.end(); p.b.start() }},
		{"another claim of the run", "run-1", func() { p.claimed("lyo-1", "run-1", nil) }},
		{"an older claim of another run", "run-1", func() {
			in := command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: "run-0", Fence: p.fence - 1}, LetGo: true}
			if _, err := try(p, command.Claim, "lyo-1", in); !fault.Is(err, fault.Conflict) {
				t.Errorf("an older claim: %v", err)
			}
		}},
		{"a test, which claims nothing", "run-1", func() {
			call(p, command.Claim, "lyo-1", command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: "test-1"}, LetGo: true})
		}},
		{"let go", "", func() { p.claimed("lyo-1", "run-1", func(in *command.ClaimRequest) { in.LetGo = true }) }},
		{"taken again", "run-1", func() { p.claimed("lyo-1", "run-1", takesOver) }},
		{"another run", "", func() { p.claimed("lyo-1", "run-2", nil) }},
		{"another run's takeover", "run-2", func() { p.claimed("lyo-1", "run-2", takesOver) }},
		{"a command of another run", "", func() {
			p.fence++
			m := p.meta("run-3")
			call(p, command.Unlock, "lyo-1", m)
		}},
		{"taken once more", "run-4", func() { p.claimed("lyo-1", "run-4", takesOver) }},
		{"granted", "", func() { p.grant("run-4", "lyon", true) }},
		{"where it is active", "", func() { p.claimed("lyo-1", "run-4", takesOver) }},
	} {
		if c.do(); p.confirmed() != c.want {
			t.Errorf("%s: the takeover is not that of %q", c.what, c.want)
		}
	}
}

// TestSourceIsBackInATakeover: the source host loses its power and has it again
// while a run takes its machine over: it does not start it, whatever its policy
// says of silent peers, but a person may; when the run lets go it starts. A machine
// that runs is left alone.
func TestSourceIsBackInATakeover(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Policy.StartAlone = "allow"
	p.protect()
	p.claimed("lyo-1", "run-1", takesOver)
	p.a.end()
	p.a.start()
	if st := p.points("par-1", 2); st.Power != recovery.PowerRunning || st.Reason != "" {
		t.Errorf("it ran on, and is %s: %s", st.Power, st.Reason)
	}
	cut := func() {
		p.a.end()
		killMachines(t, p.promises)
		p.a.start()
		p.until("par-1", "it waits for the run", func(st command.MachineStatus) bool {
			return st.Power == recovery.PowerStopped && strings.Contains(st.Reason, "lyo-1: run run-1 takes the machine over from this host")
		})
	}
	cut()
	res, err := agent.NewLocal(p.a.state).Permit(t.Context(), "erp", "ann")
	if err != nil || res.Power != recovery.PowerRunning {
		t.Fatalf("permit: %+v, %v", res, err)
	}
	cut()
	p.claimed("lyo-1", "run-1", func(in *command.ClaimRequest) { in.LetGo = true })
	p.until("par-1", "it runs again", func(st command.MachineStatus) bool { return st.Power == recovery.PowerRunning && st.Reason == "" })
}
