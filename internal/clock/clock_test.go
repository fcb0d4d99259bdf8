package clock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/clock"
)

func TestSkewedJumpsAndItsMonoDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clock.NewSkewed(clock.Real{})
		wall, mono := c.Now(), clock.Mono(c)
		c.Jump(-5 * time.Hour)
		<-time.After(time.Minute)
		if got := c.Now().Sub(wall); got != time.Minute-5*time.Hour {
			t.Errorf("the wall clock went on by %s", got)
		}
		if got := clock.Mono(c) - mono; got != time.Minute {
			t.Errorf("the monotonic clock went on by %s", got)
		}
	})
}

// TestMonoOfAPlainClock: a clock without a monotonic side is its own.
func TestMonoOfAPlainClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := clock.Func(func() time.Time { return now })
	before := clock.Mono(c)
	now = now.Add(time.Hour)
	if got := clock.Mono(c) - before; got != time.Hour {
		t.Errorf("went on by %s", got)
	}
}

func TestOtherKeepsTheBestReading(t *testing.T) {
	t.Parallel()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var o clock.Other
	if _, _, ok := o.At(0); ok {
		t.Fatal("nothing was read")
	}
	// The truth: the other clock shows t0 at 0. What is asked slowly, and
	// answered at one end of the way, is off by half of it.
	truth := func(mono time.Duration) time.Time { return t0.Add(mono) }
	o.Add(clock.Halve(0, 400*time.Millisecond, truth(400*time.Millisecond)), 400*time.Millisecond)
	o.Add(clock.Halve(time.Second, time.Second+20*time.Millisecond, truth(time.Second)), time.Second+20*time.Millisecond)
	o.Add(clock.Halve(2*time.Second, 2*time.Second+300*time.Millisecond, truth(2*time.Second)), 2*time.Second+300*time.Millisecond)
	mono := 3 * time.Second
	r, age, ok := o.At(mono)
	if !ok || age != mono-time.Second-10*time.Millisecond {
		t.Errorf("the reading is %s old: not the best one", age)
	}
	if off := r.Time.Sub(truth(mono)).Abs(); off > r.Error || r.Error > 12*time.Millisecond {
		t.Errorf("off by %s, said to be right within %s", off, r.Error)
	}
	// An old reading gives way to a worse one once it has drifted further.
	mono = 2 * time.Hour
	o.Add(clock.Halve(mono-time.Second, mono, truth(mono)), mono)
	if r, age, _ = o.At(mono); age > time.Second || r.Error > time.Second {
		t.Errorf("after two hours the reading is %s old and right within %s", age, r.Error)
	}
	// The other clock is set: what contradicts the old reading is believed.
	mono += time.Second
	o.Add(clock.Halve(mono-2*time.Second, mono, truth(mono).Add(time.Hour)), mono)
	if r, _, _ = o.At(mono); r.Time.Sub(truth(mono)) < 59*time.Minute {
		t.Errorf("still believes %s", r.Time)
	}
}
