package cron

import (
	"strings"
	"testing"
	"time"
)

func TestParseDays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-12-24": "2026-12-24", "2026-12-20 to 2027-01-05": "2026-12-20 to 2027-01-05",
		"2026-02-30": "cannot read", "christmas": "cannot read", "2027-01-05 to 2026-12-20": "end before they begin", "": "cannot read", "2026-12-24 to": "cannot read",
		"first sunday": "first sunday", " Last  FRIDAY ": "last friday", "fifth sunday": "cannot read", "first day": "cannot read", "sunday": "cannot read",
		"first sunday 03:00": `whole days, so write "first sunday"`,
	} {
		d, err := ParseDays(text)
		got := d.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Days are those of the calendar of a zone, also where a change of clocks makes
// one of them an hour shorter or longer.
func TestDaysHas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ days, from, to string }{ // the first instant, and the first after it
		{"2026-12-24", "2026-12-24 00:00", "2026-12-25 00:00"},
		{"2026-12-20 to 2027-01-05", "2026-12-20 00:00", "2027-01-06 00:00"},
		{"first sunday", "2026-12-06 00:00", "2026-12-07 00:00"},
		{"first sunday", "2026-11-01 00:00", "2026-11-02 00:00"},
		{"last friday", "2026-07-31 00:00", "2026-08-01 00:00"},
		{"last sunday", "2026-03-29 00:00", "2026-03-30 00:00"}, // 23 hours
		{"last sunday", "2026-10-25 00:00", "2026-10-26 00:00"}, // 25 hours
	} {
		d, err := ParseDays(c.days)
		if err != nil {
			t.Fatal(err)
		}
		from, to := at(t, c.from, paris), at(t, c.to, paris)
		for instant, want := range map[time.Time]bool{from.Add(-time.Minute): false, from: true, to.Add(-time.Minute): true, to: false} {
			if got := d.Has(instant); got != want {
				t.Errorf("%s has %s: %v, want %v", c.days, instant, got, want)
			}
		}
	}
}
