// Package cron reads when something is due: cron lines and words like "first
// sunday 03:00", in a time zone. It is the only door to the cron library.
//
// It starts nothing and keeps no time: it answers what comes next after an
// instant. A Schedule is read only and safe for concurrent use.
package cron

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a host without zone files must not make a plan invalid

	robfig "github.com/robfig/cron/v3"
)

// Schedule says when something is due.
type Schedule struct {
	next func(time.Time) time.Time
	loc  *time.Location
	text string
}

// String returns the line the schedule was read from.
func (s *Schedule) String() string { return s.text }

// Location is the time zone of the schedule.
func (s *Schedule) Location() *time.Location { return s.loc }

// horizon is how far ahead a schedule must be due once to be possible: every
// date of the calendar comes within eight years, 29 February over 2100 too.
const horizon = 8

// Next returns the first instant after t at which the schedule is due. An hour
// that a change of clocks skips is due at the first instant after it; one that
// comes twice is due once. The zero time: never.
func (s *Schedule) Next(t time.Time) (next time.Time) {
	defer func() {
		if recover() != nil { // the library panics on zones it cannot read
			next = time.Time{}
		}
	}()
	return s.next(t.In(s.loc))
}

// Preview returns the next n instants after t.
func (s *Schedule) Preview(t time.Time, n int) []time.Time {
	var out []time.Time
	for range n {
		if t = s.Next(t); t.IsZero() {
			break
		}
		out = append(out, t)
	}
	return out
}

// Parse reads a cron line of five fields (minute hour day month weekday), or
// @hourly, @daily, @weekly, @monthly, @yearly, @every 6h. tz is the name of a
// time zone, "" is UTC. Lines that are never due are refused.
func Parse(line, tz string) (s *Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("cannot read cron line %q: %v", line, r)
		}
	}()
	loc, err := zone(tz)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(line, "TZ=") || strings.HasPrefix(line, "CRON_TZ=") {
		return nil, fmt.Errorf("cannot read cron line %q: the time zone is said by tz", line)
	}
	if d, ok := strings.CutPrefix(line, "@every "); ok {
		if every, err := time.ParseDuration(strings.TrimSpace(d)); err != nil || every < time.Minute {
			return nil, fmt.Errorf("cannot read cron line %q: want @every and a duration of a minute or more", line)
		}
	}
	parser := robfig.NewParser(robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow | robfig.Descriptor)
	spec, err := parser.Parse(line)
	if err != nil {
		return nil, fmt.Errorf("cannot read cron line %q: %w", line, inField(line, err, func(l string) error { _, err := parser.Parse(l); return err }))
	}
	s = &Schedule{next: gap(spec), loc: loc, text: line}
	return s, s.possible()
}

// inField names the first field of a cron line that cannot be read: err is that
// of the whole line, and stays when no field is wrong by itself.
func inField(line string, err error, parse func(string) error) error {
	fields := strings.Fields(line)
	names := []string{"minute", "hour", "day", "month", "weekday"}
	if len(fields) != len(names) {
		return err
	}
	for i, name := range names {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = fields[i]
		fieldErr := parse(strings.Join(alone, " "))
		if fieldErr == nil {
			continue
		}
		var got, limit int
		if _, no := fmt.Sscanf(fieldErr.Error(), "end of range (%d) above maximum (%d)", &got, &limit); no == nil {
			return fmt.Errorf("%s: %d is above %d", name, got, limit)
		}
		if _, no := fmt.Sscanf(fieldErr.Error(), "beginning of range (%d) below minimum (%d)", &got, &limit); no == nil {
			return fmt.Errorf("%s: %d is below %d", name, got, limit)
		}
		return fmt.Errorf("%s: %w", name, fieldErr)
	}
	return err
}

func zone(tz string) (*time.Location, error) {
	if tz == "" {
		return time.UTC, nil
	}
	loc, err := time.LoadLocation(tz)
	if err != nil || tz == "Local" {
		return nil, fmt.Errorf("%q is no time zone (write Europe/Paris)", tz)
	}
	return loc, nil
}

// possible refuses a schedule that is not due within the horizon.
func (s *Schedule) possible() error {
	from := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	if n := s.Next(from); n.IsZero() || n.After(from.AddDate(horizon, 0, 0)) {
		return fmt.Errorf("%q is never due: there is no such day", s.text)
	}
	return nil
}

// gap makes a schedule due after a skipped hour: the library goes on to the
// next day then.
func gap(spec robfig.Schedule) func(time.Time) time.Time {
	cs, ok := spec.(*robfig.SpecSchedule)
	if !ok {
		return spec.Next // @every has no clock time
	}
	return func(t time.Time) time.Time {
		// Due times are found on a clock without changes, and then put into
		// the zone: a time that does not exist moves to the end of the gap.
		loc := t.Location()
		wall := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
		plain := *cs
		plain.Location = time.UTC
		for w := plain.Next(wall.Add(-3 * time.Hour)); !w.IsZero(); w = plain.Next(w) {
			if at := onClock(w, loc); at.After(t) {
				return at
			}
		}
		return time.Time{}
	}
}

// onClock is the first instant at which the clock of a zone shows at least
// what w shows.
func onClock(w time.Time, loc *time.Location) time.Time {
	at := time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), 0, loc)
	if at.Hour() == w.Hour() && at.Minute() == w.Minute() {
		// Of an hour that comes twice, the first.
		if before := at.Add(-time.Hour); before.Hour() == w.Hour() && before.Minute() == w.Minute() {
			return before
		}
		return at
	}
	_, off := at.Add(-3 * time.Hour).Zone() // of the clock before the gap
	at = time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), 0, time.FixedZone("", off)).In(loc)
	start, _ := at.ZoneBounds()
	if !start.IsZero() && at.Sub(start) < 3*time.Hour {
		return start.In(loc)
	}
	return at
}

var ordinals = map[string]int{"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}

var weekdays = map[string]time.Weekday{
	"sunday": time.Sunday, "monday": time.Monday, "tuesday": time.Tuesday, "wednesday": time.Wednesday,
	"thursday": time.Thursday, "friday": time.Friday, "saturday": time.Saturday,
}

// ParseOn reads what cron lines cannot say: "first sunday", "last friday
// 22:30". Without a time of day it is 03:00.
func ParseOn(text, tz string) (*Schedule, error) {
	loc, err := zone(tz)
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf(`cannot read %q: write "first sunday" or "last friday 22:30"`, text)
	words := strings.Fields(strings.ToLower(text))
	if len(words) != 2 && len(words) != 3 {
		return nil, bad
	}
	nth, day, ok := monthly(words[:2])
	hour, minute := 3, 0
	if len(words) == 3 {
		var okTime bool
		if hour, minute, okTime = timeOfDay(words[2]); !okTime {
			return nil, bad
		}
	}
	if !ok {
		return nil, bad
	}
	return &Schedule{loc: loc, text: text, next: func(t time.Time) time.Time {
		for month := 0; ; month++ {
			first := time.Date(t.Year(), t.Month()+time.Month(month), 1, 0, 0, 0, 0, time.UTC)
			d := nthDay(first, nth, day)
			at := onClock(time.Date(d.Year(), d.Month(), d.Day(), hour, minute, 0, 0, time.UTC), loc)
			if at.After(t) {
				return at
			}
		}
	}}, nil
}

// monthly reads the two words of a day of each month, "first sunday".
func monthly(words []string) (nth int, day time.Weekday, ok bool) {
	if len(words) != 2 {
		return 0, 0, false
	}
	nth, ok = ordinals[words[0]]
	day, isDay := weekdays[words[1]]
	return nth, day, ok && isDay
}

func nthDay(first time.Time, nth int, day time.Weekday) time.Time {
	if nth > 0 {
		return first.AddDate(0, 0, (int(day)-int(first.Weekday())+7)%7+7*(nth-1))
	}
	last := first.AddDate(0, 1, -1)
	return last.AddDate(0, 0, -((int(last.Weekday()) - int(day) + 7) % 7))
}

func timeOfDay(s string) (hour, minute int, ok bool) {
	h, m, found := strings.Cut(s, ":")
	hour, err1 := strconv.Atoi(h)
	minute, err2 := strconv.Atoi(m)
	ok = found && err1 == nil && err2 == nil && len(h) == 2 && len(m) == 2 && hour >= 0 && hour < 24 && minute >= 0 && minute < 60
	return hour, minute, ok
}
