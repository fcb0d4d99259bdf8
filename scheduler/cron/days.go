package cron

import (
	"fmt"
	"strings"
	"time"
)

// Days is a range of calendar days, both ends included.
type Days struct{ From, To string } // as 2026-12-24

// ParseDays reads "2026-12-24" or "2026-12-20 to 2027-01-05".
func ParseDays(text string) (Days, error) {
	from, to, isRange := strings.Cut(text, " to ")
	if !isRange {
		to = from
	}
	d := Days{strings.TrimSpace(from), strings.TrimSpace(to)}
	for _, day := range []string{d.From, d.To} {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return Days{}, fmt.Errorf(`cannot read days %q: write "2026-12-24" or "2026-12-20 to 2027-01-05"`, text)
		}
	}
	if d.To < d.From {
		return Days{}, fmt.Errorf("days %q end before they begin", text)
	}
	return d, nil
}

// String returns what ParseDays reads.
func (d Days) String() string {
	if d.From == d.To {
		return d.From
	}
	return d.From + " to " + d.To
}
