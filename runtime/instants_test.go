package runtime

import (
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// TestBothInstantsAreShown where a time was asked for, or the clocks differ.
func TestBothInstantsAreShown(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	ahead := recovery.Point{Instant: at, ClockOffset: 2 * time.Hour, ClockError: 3 * time.Millisecond}
	near := recovery.Point{Instant: at, ClockOffset: time.Millisecond, ClockError: 3 * time.Millisecond, ClockOf: "lyo-1"}
	for _, c := range []struct {
		p              recovery.Point
		selector, want string
	}{
		{ahead, "latest", "2026-01-31T12:00:00Z, 2026-01-31T10:00:00Z by the controller's clock (±3ms)"},
		{near, "latest", "2026-01-31T12:00:00Z"},
		{near, "2026-01-31 13:00", "2026-01-31T12:00:00Z, 2026-01-31T11:59:59Z by the clock of lyo-1 (±3ms)"},
		{recovery.Point{Instant: at}, "2026-01-31 13:00", "2026-01-31T12:00:00Z, how far its clock was off is not known"},
	} {
		if got := instant(&c.p, c.selector); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if p, err := recovery.Select([]recovery.Point{ahead}, "2026-01-31 11:00", false); err != nil || p.Instant != at {
		t.Errorf("a point cut at 10:00 by the controller's clock is no point of 11:00: %v", err)
	}
	if _, err := recovery.Select([]recovery.Point{ahead}, "2026-01-31 09:59", false); err == nil {
		t.Error("a point cut at 10:00 by the controller's clock is one of 09:59")
	}
}
