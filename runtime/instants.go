package runtime

import (
	"fmt"
	"time"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
)

// instant shows when a point was cut: on its source's clock, and where a time
// was asked for, or the clocks show different seconds, on the controller's.
func instant(p *recovery.Point, selector string) string {
	s := p.Instant.UTC().Format(time.RFC3339)
	_, timed := recovery.ParseInstant(selector)
	at, known := p.Corrected()
	switch {
	case !known && timed:
		return s + ", how far its clock was off is not known"
	case !known || !timed && p.ClockOffset.Abs() < time.Second:
		return s
	}
	whose := "the controller's clock"
	if p.ClockOf != "" {
		whose = "the clock of " + p.ClockOf
	}
	return fmt.Sprintf("%s, %s by %s (±%s)", s, at.UTC().Format(time.RFC3339), whose, quantity.FormatDuration(p.ClockError))
}
