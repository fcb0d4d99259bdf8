package cron

import (
	"fmt"
	"strings"
	"time"
)

// Days are calendar days: a range, both ends included, or one day of each
// month, as "first sunday".
type Days struct {
	From, To string // as 2026-12-24
	// Monthly is the day of each month in the words of ParseOn, without a time
	// of day; From and To are empty then.
	Monthly string
}

// ParseDays reads "2026-12-24", "2026-12-20 to 2027-01-05" or "first sunday".
func ParseDays(text string) (Days, error) {
	if words := strings.Fields(strings.ToLower(text)); len(words) == 2 || len(words) == 3 {
		if _, _, ok := monthly(words[:2]); ok && len(words) == 3 {
			return Days{}, fmt.Errorf(`cannot read days %q: they are whole days, so write %q`, text, strings.Join(words[:2], " "))
		} else if ok {
			return Days{Monthly: strings.Join(words, " ")}, nil
		}
	}
	from, to, isRange := strings.Cut(text, " to ")
	if !isRange {
		to = from
	}
	d := Days{From: strings.TrimSpace(from), To: strings.TrimSpace(to)}
	for _, day := range []string{d.From, d.To} {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return Days{}, fmt.Errorf(`cannot read days %q: write "2026-12-24", "2026-12-20 to 2027-01-05" or "first sunday"`, text)
		}
	}
	if d.To < d.From {
		return Days{}, fmt.Errorf("days %q end before they begin", text)
	}
	return d, nil
}

// Has reports whether the day of t, in the zone of t, is one of them.
func (d Days) Has(t time.Time) bool {
	nth, weekday, ok := monthly(strings.Fields(d.Monthly))
	if !ok {
		day := t.Format(time.DateOnly)
		return d.From <= day && day <= d.To
	}
	first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	return nthDay(first, nth, weekday).Day() == t.Day()
}

// String returns what ParseDays reads.
func (d Days) String() string {
	switch {
	case d.Monthly != "":
		return d.Monthly
	case d.From == d.To:
		return d.From
	}
	return d.From + " to " + d.To
}
