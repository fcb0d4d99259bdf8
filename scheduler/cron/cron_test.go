package cron

import (
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, s, tz string) time.Time {
	t.Helper()
	loc, err := zone(tz)
	if err != nil {
		t.Fatal(err)
	}
	got, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const paris = "Europe/Paris"

func TestNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, tz, after, want string }{
		{"0 3 * * SUN", "", "2026-11-24 10:00", "2026-11-29 03:00 UTC"},
		{"0 3 * * SUN", paris, "2026-11-24 10:00", "2026-11-29 03:00 CET"},
		{"*/15 * * * *", "", "2026-11-24 10:07", "2026-11-24 10:15 UTC"},
		{"0 0 29 2 *", "", "2026-11-24 10:00", "2028-02-29 00:00 UTC"},
		{"@daily", "", "2026-11-24 10:00", "2026-11-25 00:00 UTC"},
		{"@every 6h", "", "2026-11-24 10:00", "2026-11-24 16:00 UTC"},
		// 29 March 2026, 02:00 to 03:00 does not exist in Paris: due at 03:00.
		{"30 2 * * *", paris, "2026-03-28 10:00", "2026-03-29 03:00 CEST"},
		{"30 2 * * *", paris, "2026-03-29 03:00", "2026-03-30 02:30 CEST"},
		// 25 October 2026, 02:00 to 03:00 comes twice: due in the first only.
		{"30 2 * * *", paris, "2026-10-24 10:00", "2026-10-25 02:30 CEST"},
		{"0 3 * * *", paris, "2026-10-25 02:30", "2026-10-25 03:00 CET"},
	} {
		s, err := Parse(c.line, c.tz)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if got := s.Next(at(t, c.after, c.tz)).Format("2006-01-02 15:04 MST"); got != c.want {
			t.Errorf("%s in %q after %s is %s, want %s", c.line, c.tz, c.after, got, c.want)
		}
	}
}

func TestRepeatedHourIsDueOnce(t *testing.T) {
	t.Parallel()
	s, err := Parse("30 2 * * *", paris)
	if err != nil {
		t.Fatal(err)
	}
	got := s.Preview(at(t, "2026-10-24 10:00", paris), 2)
	if len(got) != 2 || got[1].Format("2006-01-02 15:04 MST") != "2026-10-26 02:30 CET" {
		t.Errorf("got %v", got)
	}
}

func TestOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, after, want string }{
		{"first sunday", "2026-11-24 10:00", "2026-12-06 03:00 CET"},
		{"first sunday", "2026-12-06 02:59", "2026-12-06 03:00 CET"},
		{"first sunday", "2026-12-06 03:00", "2027-01-03 03:00 CET"},
		{"last friday 22:30", "2026-11-24 10:00", "2026-11-27 22:30 CET"},
		{"last sunday 02:30", "2026-03-01 10:00", "2026-03-29 03:00 CEST"},
		{"Second Tuesday 00:00", "2026-12-31 10:00", "2027-01-12 00:00 CET"},
		{"fourth saturday", "2026-02-01 00:00", "2026-02-28 03:00 CET"},
	} {
		s, err := ParseOn(c.text, paris)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := s.Next(at(t, c.after, paris)).Format("2006-01-02 15:04 MST"); got != c.want {
			t.Errorf("%s after %s is %s, want %s", c.text, c.after, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"0 0 31 2 *": "never due", "0 0 30 2 *": "never due", "TZ=": "said by tz", "TZ=Mars 0 0 * * *": "said by tz", "CRON_TZ=UTC 0 0 * * *": "said by tz",
		"@reboot": "cannot read", "0 0 L * *": "cannot read", "0 0 * * SUN#1": "cannot read", "0 0 0 * * *": "cannot read", "": "cannot read",
		"60 * * * *": "minute: 60 is above 59", "0 25 * * *": "hour: 25 is above 23", "0 0 0 * *": "day: 0 is below 1", "0 0 * * MOO": "weekday: ", "@every 0s": "a minute or more", "@every x": "a minute or more", "* * * *": "cannot read",
	} {
		if s, err := Parse(line, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want %q", line, s, err, want)
		}
	}
	for _, text := range []string{"", "sunday", "fifth sunday", "first day", "first sunday 24:00", "first sunday 3:00", "first sunday at 03:00"} {
		if _, err := ParseOn(text, ""); err == nil {
			t.Errorf("%q is not refused", text)
		}
	}
	for _, tz := range []string{"Mars/Phobos", "Local", "../etc/passwd"} {
		if _, err := Parse("@daily", tz); err == nil {
			t.Errorf("zone %q is not refused", tz)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 3 * * SUN", "TZ=", "@every 6h", "0 0 31 2 *", "first sunday 03:00", "*/7 1-5 * JAN-MAR 1,2"} {
		f.Add(s, "Europe/Paris")
		f.Add(s, "")
	}
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, line, tz string) {
		for _, parse := range []func(string, string) (*Schedule, error){Parse, ParseOn} {
			s, err := parse(line, tz)
			if err != nil {
				continue
			}
			last := now
			for _, next := range s.Preview(now, 3) {
				if !next.After(last) {
					t.Errorf("%q in %q: %v is not after %v", line, tz, next, last)
				}
				last = next
			}
		}
	})
}
