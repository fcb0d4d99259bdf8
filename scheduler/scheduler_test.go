package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/scheduler/cron"
)

func schedule(t *testing.T, line, tz string) *cron.Schedule {
	t.Helper()
	s, err := cron.Parse(line, tz)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// world is a controller's state folder: what stays when its process dies.
type world struct {
	jobs   []Job
	states map[string]State
	runs   map[string]time.Time // id → when it ends
	starts []string             // ids, in order
	clock  clock.Clock
	length time.Duration
	refuse error
	// dies, asked at each step that keeps something, ends the process there.
	dies func() bool
	kill context.CancelFunc
}

func (w *world) died(ctx context.Context) bool {
	if w.dies != nil && w.dies() {
		w.kill()
	}
	return ctx.Err() != nil
}

var errDied = errors.New("the process died")

func (w *world) Load(_ context.Context, job string) (State, error) { return w.states[job], nil }

func (w *world) Save(ctx context.Context, job string, s State) error {
	if w.died(ctx) {
		return errDied
	}
	s.Fired, s.Events = slices.Clone(s.Fired), slices.Clone(s.Events)
	w.states[job] = s
	return nil
}

func (w *world) Jobs(context.Context) ([]Job, []Broken, error) { return w.jobs, nil, nil }

func (w *world) Busy(_ context.Context, job string) (string, error) {
	for id, ends := range w.runs {
		if strings.HasPrefix(id, job+"-drill-") && ends.After(w.clock.Now()) {
			return id, nil
		}
	}
	return "", nil
}

func (w *world) Exists(_ context.Context, id string) (bool, error) {
	_, ok := w.runs[id]
	return ok, nil
}

func (w *world) Start(ctx context.Context, job, id string) error {
	if w.refuse != nil {
		return w.refuse
	}
	if w.died(ctx) {
		return errDied
	}
	if _, ok := w.runs[id]; ok {
		w.starts = append(w.starts, id)
		return fmt.Errorf("%s was started twice", id)
	}
	w.runs[id] = w.clock.Now().Add(w.length)
	w.starts = append(w.starts, id)
	if w.died(ctx) {
		return errDied
	}
	return nil
}

func newWorld(jobs ...Job) *world {
	return &world{jobs: jobs, states: map[string]State{}, runs: map[string]time.Time{}, clock: clock.Real{}, length: 20 * time.Minute}
}

// live runs a loop until the instant, or until it dies before; in a bubble.
func (w *world) live(until time.Time) {
	ctx, cancel := context.WithCancel(context.Background())
	w.kill = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(w, w, w.clock, slog.New(slog.DiscardHandler)).Run(ctx)
	}()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
	cancel()
	<-done
}

// TestYearOfDailyDrills has two plans that are drilled each night, in zones
// that both change their clocks, for a year: each fires once a night, at the
// instant that the zone says, whether the controller lives through the year or
// dies at seeded moments: also between the start of a run and its record.
func TestYearOfDailyDrills(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				paris := Job{Name: "paris", Schedule: schedule(t, "30 2 * * *", "Europe/Paris"), Missed: Once}
				york := Job{Name: "york", Schedule: schedule(t, "30 1 * * *", "America/New_York"), Missed: Once}
				w := newWorld(paris, york)
				from := time.Now()
				end := from.AddDate(1, 0, 0)
				rnd := rand.New(rand.NewPCG(seed, 1))
				if seed > 0 {
					w.dies = func() bool { return rnd.IntN(8) == 0 }
				}
				for at := from; at.Before(end); {
					next := end
					if seed > 0 { // down for less than a day, so that nothing is to be left out
						next = at.Add(time.Duration(rnd.Int64N(int64(9 * 24 * time.Hour))))
					}
					if next.After(end) {
						next = end
					}
					w.live(next)
					if seed > 0 {
						<-time.After(time.Duration(rnd.Int64N(int64(3 * time.Hour))))
					}
					at = time.Now()
				}
				w.dies = nil
				w.live(time.Now().Add(time.Minute)) // whoever comes last does what was missed
				want := map[string]int{}
				for _, j := range w.jobs {
					for due := j.Schedule.Next(from); !due.After(time.Now()); due = j.Schedule.Next(due) {
						want[j.ID(due)]++
					}
				}
				got := map[string]int{}
				for _, id := range w.starts {
					got[id]++
				}
				if !maps.Equal(got, want) {
					t.Fatalf("%d runs were started, want %d; not started: %v; not due: %v", len(w.starts), len(want), missing(want, got), missing(got, want))
				}
				if len(want) < 730 {
					t.Fatalf("only %d were due", len(want))
				}
			})
		})
	}
}

func missing(of, in map[string]int) (out []string) {
	for id, n := range of {
		if in[id] != n {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// TestClockThatJumps sets the wall clock back and forward around due instants:
// nothing is started twice, and what came due in time that never was is skipped.
func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wall := clock.NewSkewed(clock.Real{})
		w := newWorld(Job{Name: "erp", Schedule: schedule(t, "0 3 * * *", "UTC")})
		w.clock = wall
		ended := make(chan struct{})
		go func() { defer close(ended); w.live(time.Now().AddDate(0, 0, 10)) }()
		live := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		check := func(what string, want ...string) {
			t.Helper()
			if !slices.Equal(w.starts, want) {
				t.Fatalf("%s: started %v, want %v", what, w.starts, want)
			}
		}
		live(4 * time.Hour) // synctest begins at 2000-01-01 00:00
		check("first night", "erp-drill-20000101-0300")
		wall.Jump(-90 * time.Minute)
		live(2 * time.Hour) // it is 03:00 again
		check("clock set back over it", "erp-drill-20000101-0300")
		wall.Jump(90 * time.Minute)
		live(22 * time.Hour)
		check("second night", "erp-drill-20000101-0300", "erp-drill-20000102-0300")
		wall.Jump(300 * 24 * time.Hour)
		live(time.Hour)
		check("a jump of 300 days", "erp-drill-20000101-0300", "erp-drill-20000102-0300")
		if e := w.states["erp"].Events; e[len(e)-1].What != Skipped || e[len(e)-1].Also != 299 {
			t.Fatalf("the jump is kept as %+v", e[len(e)-1])
		}
		wall.Jump(-300 * 24 * time.Hour)
		live(24 * time.Hour)
		check("clock mended: the third night", "erp-drill-20000101-0300", "erp-drill-20000102-0300", "erp-drill-20000103-0300")
		w.kill()
		<-ended
	})
}

// TestStartThatFails: a drill that cannot be started is on record as failed,
// and the next is started in time.
func TestStartThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Job{Name: "erp", Schedule: schedule(t, "0 3 * * *", "UTC")})
		w.refuse = errors.New("plan erp does not load: erp.lua:3: no machine db9")
		w.live(time.Now().Add(4 * time.Hour))
		e := w.states["erp"].Events
		if len(e) != 1 || e[0].What != Failed || !strings.Contains(e[0].Why, "no machine db9") || e[0].Run != "" {
			t.Fatalf("events: %+v", e)
		}
		w.refuse = nil
		w.live(time.Now().Add(24 * time.Hour))
		if !slices.Equal(w.starts, []string{"erp-drill-20000102-0300"}) {
			t.Fatalf("started %v", w.starts)
		}
	})
}

// TestDecide is the table of the rules: what is due, what was missed, what
// overlaps.
func TestDecide(t *testing.T) {
	t.Parallel()
	const seen = "2026-11-24 10:00:00"
	for _, c := range []struct {
		name    string
		job     Job
		state   State
		now     string
		busy    string
		want    []string // "what due [why]"
		wake    string
		decided string
	}{
		{name: "not due", now: "2026-11-24 12:00:00", wake: "2026-11-25 03:00:00"},
		{name: "due", now: "2026-11-25 03:00:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "late within the grace", now: "2026-11-25 03:02:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "missed", now: "2026-11-25 03:02:01", want: []string{"skipped 25 03:00 missed by 2m1s"}, wake: "2026-11-26 03:00:00"},
		{name: "missed, once", job: Job{Missed: Once}, now: "2026-11-25 13:00:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "three missed, once", job: Job{Missed: Once}, now: "2026-11-27 13:00:00", want: []string{"started 27 03:00 +2"}, wake: "2026-11-28 03:00:00"},
		{name: "three missed, skip", now: "2026-11-27 13:00:00", want: []string{"skipped 27 03:00 +2 missed by 10h0m0s"}, wake: "2026-11-28 03:00:00"},
		{name: "missed and due", job: Job{Missed: Once}, now: "2026-11-27 03:00:00", want: []string{"skipped 26 03:00 +1 missed, and the next is due", "started 27 03:00"}, wake: "2026-11-28 03:00:00"},
		{name: "missed behind its deadline", job: Job{Missed: Once, Deadline: time.Hour}, now: "2026-11-25 04:00:01", want: []string{"skipped 25 03:00 missed by 1h0m1s, more than its deadline"}, wake: "2026-11-26 03:00:00"},
		{name: "missed within its deadline", job: Job{Missed: Once, Deadline: time.Hour}, now: "2026-11-25 04:00:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "overlap", now: "2026-11-25 03:00:00", busy: "erp-drill-x", want: []string{"skipped 25 03:00 erp-drill-x has not ended"}, wake: "2026-11-26 03:00:00"},
		{name: "overlap with itself", now: "2026-11-25 03:00:00", busy: "erp-drill-20261125-0300", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "queued", job: Job{Overlap: Queue, Deadline: time.Hour}, now: "2026-11-25 03:00:00", busy: "erp-drill-x", want: []string{"queued 25 03:00 erp-drill-x has not ended"}, wake: "2026-11-25 04:00:01"},
		{name: "queue moves", job: Job{Overlap: Queue}, state: State{Queued: instant(t, "2026-11-25 03:00:00"), Decided: instant(t, "2026-11-25 03:00:00")}, now: "2026-11-25 09:00:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "queue is given up", job: Job{Overlap: Queue, Deadline: time.Hour}, state: State{Queued: instant(t, "2026-11-25 03:00:00"), Decided: instant(t, "2026-11-25 03:00:00")}, now: "2026-11-25 09:00:00", want: []string{"skipped 25 03:00 it could not start for 1h0m0s"}, wake: "2026-11-26 03:00:00"},
		{name: "one queue place", job: Job{Overlap: Queue}, state: State{Queued: instant(t, "2026-11-25 03:00:00"), Decided: instant(t, "2026-11-25 03:00:00")}, now: "2026-11-26 03:00:00", busy: "erp-drill-x",
			want: []string{"skipped 25 03:00 a later one takes its place", "queued 26 03:00 erp-drill-x has not ended"}, wake: "2026-11-27 03:00:00"},
		{name: "paused", state: State{Paused: &Pause{By: "ann", Text: "storage moves"}}, now: "2026-11-25 03:00:00", want: []string{"skipped 25 03:00 paused by ann: storage moves"}, wake: "2026-11-26 03:00:00"},
		{name: "black-out", job: Job{Blackout: []cron.Days{{From: "2026-11-20", To: "2026-11-25"}}}, now: "2026-11-25 03:00:00", want: []string{"skipped 25 03:00 no drills on 2026-11-20 to 2026-11-25"}, wake: "2026-11-26 03:00:00"},
		{name: "black-out by the month", job: Job{Blackout: []cron.Days{{Monthly: "last wednesday"}}}, now: "2026-11-25 03:00:00", want: []string{"skipped 25 03:00 no drills on last wednesday"}, wake: "2026-11-26 03:00:00"},
		{name: "black-out ended", job: Job{Blackout: []cron.Days{{From: "2026-11-20", To: "2026-11-24"}}}, now: "2026-11-25 03:00:00", want: []string{"started 25 03:00"}, wake: "2026-11-26 03:00:00"},
		{name: "changed schedule has missed nothing", state: State{Line: "0 1 * * * UTC"}, now: "2026-11-25 13:00:00", wake: "2026-11-26 03:00:00"},
		{name: "fired before the clock went back", state: State{Decided: instant(t, "2026-11-25 03:00:00"), Fired: []time.Time{instant(t, "2026-11-25 03:00:00")}}, now: "2026-11-25 02:00:00", wake: "2026-11-26 03:00:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.job.Name, c.job.Schedule = "erp", schedule(t, "0 3 * * *", "UTC")
			if c.state.Line == "" {
				c.state.Line = c.job.line()
			}
			if c.state.Decided.IsZero() {
				c.state.Decided = instant(t, seen)
			}
			ds, wake := c.job.Decide(c.state, instant(t, c.now), c.busy)
			var got []string
			for _, d := range ds {
				line := d.What + " " + d.Due.UTC().Format("02 15:04")
				if d.Also > 0 {
					line += fmt.Sprint(" +", d.Also)
				}
				got = append(got, strings.TrimSpace(line+" "+d.Why))
			}
			same := slices.EqualFunc(got, c.want, strings.HasPrefix)
			if !same || wake.UTC().Format("2006-01-02 15:04:05") != c.wake {
				t.Errorf("got %q, look again %v\nwant %q, %s", got, wake, c.want, c.wake)
			}
		})
	}
}

// TestUpcoming: jitter is the same whenever it is asked for, less than it may
// be, and days without drills are left out.
func TestUpcoming(t *testing.T) {
	t.Parallel()
	j := Job{Name: "erp", Schedule: schedule(t, "0 3 * * *", "Europe/Paris"), Jitter: time.Hour, Blackout: []cron.Days{{From: "2026-12-24", To: "2027-01-05"}}}
	now := instant(t, "2026-12-20 12:00:00")
	got := j.Upcoming(now, 5)
	if len(got) != 5 || !slices.Equal(got, j.Upcoming(now, 5)) {
		t.Fatalf("got %v", got)
	}
	different := map[time.Duration]bool{}
	for i, at := range got {
		wantDay := []string{"2026-12-21", "2026-12-22", "2026-12-23", "2027-01-06", "2027-01-07"}[i]
		late := at.Sub(time.Date(at.Year(), at.Month(), at.Day(), 3, 0, 0, 0, at.Location()))
		different[late] = true
		if at.Format(time.DateOnly) != wantDay || late < 0 || late >= time.Hour {
			t.Errorf("%d: %v, want %s", i, at, wantDay)
		}
	}
	if len(different) < 3 {
		t.Errorf("the jitter hardly differs: %v", different)
	}
}
