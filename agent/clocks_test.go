package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// cutAfter is a point at the target that was cut after now, and that ok.
func (p *pair) cutAfter(what string, ok func(recovery.Point) bool) recovery.Point {
	p.t.Helper()
	p.points("lyo-1", 1)
	st := p.until("lyo-1", what, func(st command.MachineStatus) bool { return st.Tip != nil && ok(*st.Tip) })
	return *st.Tip
}

// about reports whether a point says that its clock is ahead by d.
func about(d time.Duration, of string) func(recovery.Point) bool {
	return func(p recovery.Point) bool {
		return p.ClockError > 0 && p.ClockError < time.Second && (p.ClockOffset-d).Abs() <= p.ClockError && p.ClockOf == of
	}
}

// tell does what a runtime does whose clock shows what the test's does.
func (p *pair) tell(host string) {
	p.t.Helper()
	sent := time.Now()
	res := call(p, command.Clock, host, command.ClockRequest{})
	half := max(time.Since(sent)/2, time.Microsecond)
	call(p, command.Clock, host, command.ClockRequest{Now: time.Now().UTC(), Instance: res.Instance,
		Reading: &clock.Reading{Mono: res.Mono, Time: sent.Add(half), Error: half}})
}

// TestOffsetsOfInstants: a point says how far its host's clock is ahead of the
// controller's, as a runtime told, or as the target knows from one, or of the
// target's own clock where no runtime has ever been heard of; and setting the
// clock takes effect at the next cut.
func TestOffsetsOfInstants(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.a.clk.Jump(3 * time.Hour)
	p.protect()
	p.cutAfter("the target's clock", about(3*time.Hour, "lyo-1"))
	p.tell("lyo-1")
	p.a.end() // the source asks its target anew
	p.a.start()
	at := p.cutAfter("the controller's clock by the target", about(3*time.Hour, ""))
	if corrected, known := at.Corrected(); !known || time.Since(corrected).Abs() > time.Minute {
		t.Errorf("the point of %s was cut at %s", at.Instant, corrected)
	}
	p.tell("par-1")
	p.a.clk.Jump(-7 * time.Hour)
	p.cutAfter("the clock that was set", about(-4*time.Hour, ""))
	_, err := try(p, command.Clock, "par-1", command.ClockRequest{Instance: call(p, command.Clock, "par-1", command.ClockRequest{}).Instance,
		Reading: &clock.Reading{Mono: 1 << 62, Time: time.Now(), Error: 1}})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("a reading from the future: %v", err)
	}
}

// TestJumpsChangeNoAge: whatever the wall clocks of both hosts do, the age of
// the newest point stays what it is, the machine stays protected and goes on
// replicating; the target drops no points until somebody confirms its clock,
// and says so.
func TestJumpsChangeNoAge(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Policy.RPO = 40 * time.Second
	p.protect()
	fine := func(what string) {
		t.Helper()
		p.points("lyo-1", 2)
		for _, h := range []string{"par-1", "lyo-1"} {
			st := p.until(h, "protected: "+what, func(st command.MachineStatus) bool { // a source hears of the points after its target
				return st.State == recovery.Protected && st.Reason == ""
			})
			if st.TipAge < 0 || st.TipAge > 35*time.Second {
				t.Errorf("%s: the newest point of %s is %s old at %s", what, st.Machine, st.TipAge, h)
			}
		}
	}
	for _, d := range []time.Duration{5 * time.Hour, -11 * time.Hour} {
		p.a.clk.Jump(d)
		fine("the source's clock jumped by " + d.String())
	}
	for _, d := range []time.Duration{-9 * time.Hour, 15 * time.Hour} {
		p.b.clk.Jump(d)
		fine("the target's clock jumped by " + d.String())
		doubt := func(st command.MachineStatus) bool { return len(st.Notes) == 1 }
		st := p.until("lyo-1", "doubt", doubt)
		if !strings.Contains(st.Notes[0], "jumped") || !strings.Contains(st.Notes[0], "drrun-agent confirm-clock") || !strings.Contains(st.Notes[0], "lyo-1") {
			t.Errorf("notes %q", st.Notes)
		}
		if d < 0 {
			p.b.end()
			p.b.start() // it is durable
			p.until("lyo-1", "doubt after a restart", doubt)
			machines, err := agent.NewLocal(p.b.state).ConfirmClock(t.Context(), "ann")
			if err != nil || len(machines) != 1 || machines[0] != "erp" {
				t.Fatalf("confirmed for %q: %v", machines, err)
			}
		} else { // a runtime whose clock agrees
			call(p, command.Clock, "lyo-1", command.ClockRequest{Now: time.Now()})
			p.until("lyo-1", "doubt, of another clock", doubt)
			call(p, command.Clock, "lyo-1", command.ClockRequest{Now: p.b.clk.Now()})
		}
		if st := p.status("lyo-1"); len(st.Notes) != 0 {
			t.Errorf("confirmed, and notes %q", st.Notes)
		}
	}
	if machines, err := agent.NewLocal(p.b.state).ConfirmClock(t.Context(), "ann"); err != nil || len(machines) != 0 {
		t.Errorf("nothing to confirm: %q, %v", machines, err)
	}
}
