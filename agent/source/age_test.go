package source

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
)

// TestAgeOfTheTip: it is what passed since the cut, whatever the wall clock
// does; a process that did not cut the tip takes the target's word over what
// wall clocks let it guess.
func TestAgeOfTheTip(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, mib, 1)
	r.image(1, mib, 2)
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		clk := clock.NewSkewed(clock.Real{})
		r.cfg.Clock, r.cfg.Tracker = clk, nil
		age := func() time.Duration {
			var st command.MachineStatus
			r.m.Report(&st)
			return st.TipAge
		}
		pass := func(d time.Duration) { <-time.After(d) }
		r.open()
		r.cycle()
		clk.Jump(5 * time.Hour)
		pass(time.Minute)
		if got := age(); got < time.Minute || got > time.Minute+time.Second {
			t.Errorf("a minute and a jump after the cut the tip is %s old", got)
		}
		if err := r.m.Close(); err != nil {
			t.Fatal(err)
		}
		r.open() // another process: the wall clock is all it has
		if got := age(); got < 5*time.Hour {
			t.Errorf("guessed %s", got)
		}
		r.m.view.learnAge(r.target.tip(), 90*time.Second, clk)
		if got := age(); got != 90*time.Second {
			t.Errorf("the target says 90 s, the tip is %s old", got)
		}
		pass(time.Minute)
		r.m.view.learnAge(r.target.tip(), time.Second, clk) // known by now
		if got := age(); got != 150*time.Second {
			t.Errorf("another minute later the tip is %s old", got)
		}
		r.guest.onThaw = func() { clk.Jump(-3 * time.Hour) } // between the cut and its acknowledgement
		r.cycle()
		if got := age(); got < 0 || got > time.Second {
			t.Errorf("a new tip is %s old", got)
		}
	})
}
