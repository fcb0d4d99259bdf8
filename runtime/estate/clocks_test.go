package estate_test

import (
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
)

// fakeClock is an agent's clock, an hour and a half ahead of the world's, whose
// answers take their time: all of it on the way back.
type fakeClock struct {
	w     *world
	takes []time.Duration // of the answers, in turn; none: at once
	told  *clock.Reading
	asked int
}

const fakeAhead = 90 * time.Minute

func (c *fakeClock) answer(in command.ClockRequest, out *command.ClockResult) error {
	if c.w == nil {
		return nil // an agent that does not know the verb, near enough
	}
	*out = command.ClockResult{Now: c.w.now.Add(fakeAhead), Mono: c.w.now.Sub(time.Unix(0, 0)), Instance: "i1"}
	if len(c.takes) > 0 {
		c.w.now = c.w.now.Add(c.takes[c.asked%len(c.takes)])
	}
	c.asked++
	if in.Instance == "i1" {
		c.told = in.Reading
	}
	return nil
}

// TestClocksOfHosts: a host is told what the controller's clock showed at the
// answer that came quickest, right within half of what that took, and not again
// at once.
func TestClocksOfHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	w.agents.down["lyo-1"] = true // one host at a time moves the clock
	c := &w.agents.clock
	c.w, c.takes = w, []time.Duration{400 * time.Millisecond, 20 * time.Millisecond, 300 * time.Millisecond, 100 * time.Millisecond}
	if _, err := w.Status(t.Context(), "db1"); err != nil {
		t.Fatal(err)
	}
	if c.told == nil {
		t.Fatal("the host was not told the time")
	}
	truth := time.Unix(0, 0).Add(c.told.Mono)
	if off := c.told.Time.Sub(truth).Abs(); off > c.told.Error || c.told.Error != 10*time.Millisecond {
		t.Errorf("told %s at %s: off by %s, said to be right within %s", c.told.Time, truth, off, c.told.Error)
	}
	asked := c.asked
	if _, err := w.Status(t.Context(), "db1"); err != nil || c.asked != asked {
		t.Errorf("asked again at once: %d questions, then %d (%v)", asked, c.asked, err)
	}
}
