package agent

import (
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
)

// TestWhoseClock: the controller's word comes first while it is fresh, then
// what the peer has heard of the controller, then the peer's own clock; older
// words of the controller are better than none.
func TestWhoseClock(t *testing.T) {
	t.Parallel()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var c clocks
	at := func(mono time.Duration) clock.Offset { return c.offset("lyo-1", t0.Add(mono), mono) }
	behind := func(d time.Duration) clock.Reading { return clock.Reading{Time: t0.Add(-d), Error: time.Millisecond} }
	if got := at(0); got != (clock.Offset{}) {
		t.Errorf("nothing is known, and it says %+v", got)
	}
	peer := c.peer("lyo-1")
	for _, step := range []struct {
		learn func()
		mono  time.Duration
		ahead time.Duration
		age   time.Duration
		of    string
	}{
		{func() { peer.own.Add(behind(3*time.Second), 0) }, time.Minute, 3 * time.Second, time.Minute, "lyo-1"},
		{func() { peer.controller.Add(behind(2*time.Second), 0); peer.told = 10 * time.Minute }, time.Minute, 2 * time.Second, 11 * time.Minute, ""},
		{func() { c.controller.Add(behind(time.Second), 0) }, time.Minute, time.Second, time.Minute, ""},
		{func() {}, 2 * time.Hour, time.Second, 2 * time.Hour, ""},
		{func() {
			peer.own.Add(clock.Reading{Mono: 2 * time.Hour, Time: t0.Add(2*time.Hour - 3*time.Second), Error: 1}, 2*time.Hour)
		},
			2*time.Hour + time.Minute, 3 * time.Second, time.Minute, "lyo-1"},
	} {
		step.learn()
		got := at(step.mono)
		if got.Ahead != step.ahead || got.Age != step.age || got.Of != step.of || got.Error < time.Millisecond/1000 {
			t.Errorf("after %s: %+v, want %s, %s old, of %q", step.mono, got, step.ahead, step.age, step.of)
		}
	}
}
