package scheduler

import (
	"fmt"
	"slices"
	"time"
)

// Grace is how late a start counts as on time: longer than the loop sleeps and
// a restart of the controller takes.
const Grace = 2 * time.Minute

// Bounds of what is kept and looked at.
const (
	maxMissed  = 10_000 // instants that one decision goes through
	keptFired  = 512    // started instants that a clock set back finds again
	keptEvents = 50     // lines of the history
)

// State is what a job has to remember. The zero value is a job that nobody has
// seen yet.
type State struct {
	// Decided is the newest due instant that needs no decision any more.
	Decided time.Time `json:"decided"`
	// Line is the schedule that Decided belongs to: a changed one starts anew.
	Line string `json:"line,omitempty"`
	// Starting is the due instant that is just being started: whether it was
	// is known by its id.
	Starting time.Time `json:"starting,omitzero"`
	// Queued waits for the one before to end.
	Queued time.Time `json:"queued,omitzero"`
	// Fired are due instants that were started, oldest first: a clock that is
	// set back comes to them again.
	Fired  []time.Time `json:"fired,omitempty"`
	Paused *Pause      `json:"paused,omitempty"`
	// Events is what became of the last due instants, oldest first.
	Events []Event `json:"events,omitempty"`
}

// Pause is a person's word that nothing is to start.
type Pause struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Text string    `json:"text,omitempty"`
}

// What became of a due instant.
const (
	Started = "started"
	Skipped = "skipped"
	Waits   = "queued"
	Failed  = "failed" // it could not be started
)

// Event is what became of a due instant.
type Event struct {
	Due time.Time `json:"due"`
	At  time.Time `json:"at"`
	// What is Started, Skipped, Waits or Failed.
	What string `json:"what"`
	Why  string `json:"why,omitempty"`
	Run  string `json:"run,omitempty"`
	// Also is how many earlier instants the same was said of.
	Also int `json:"also,omitempty"`
}

// Decision is one thing to do, in order.
type Decision struct {
	Event
	// After is the state when it is done.
	After State
}

// Decide says what is to be done at now: what is due and not decided is
// started, queued or skipped with the reason. busy is the id of the run of this
// job that has not ended, "" none. At most one is started; wake is when to look
// again (zero: the schedule has no further instant).
func (j *Job) Decide(s State, now time.Time, busy string) (ds []Decision, wake time.Time) {
	d := decider{job: j, s: s, now: now, busy: busy}
	j.begin(&d.s, now)
	d.queue()
	d.due()
	return d.out, d.wake
}

type decider struct {
	job  *Job
	s    State
	now  time.Time
	busy string
	out  []Decision
	wake time.Time
}

// begin takes up a job that is new or has another schedule: from here on it
// can miss something. After a clock was set back, the instants from now on come
// again; those that were started are known. It says whether s has changed and
// must be kept, for only what comes after Decided is ever due.
func (j *Job) begin(s *State, now time.Time) (changed bool) {
	if line := j.line(); s.Line != line {
		s.Line, s.Decided, s.Queued, changed = line, now, time.Time{}, true
	}
	if s.Decided.After(now) {
		s.Decided, changed = now, true
	}
	return changed
}

// fail says of the newest event that it could not be started.
func (s *State) fail(err error) {
	e := &s.Events[len(s.Events)-1]
	e.What, e.Why, e.Run = Failed, err.Error(), ""
}

// ByHand notes a run that a person started; the schedule goes on as if there was
// none, unless that run is the one that is due just then.
func (s *State) ByHand(run string, at time.Time) {
	s.Events = tail(append(slices.Clone(s.Events), Event{Due: at, At: at, What: Started, Run: run}), keptEvents)
}

// line names the schedule: one that changes has missed nothing yet.
func (j *Job) line() string { return j.Schedule.String() + " " + j.Schedule.Location().String() }

// say adds a decision on a due instant.
func (d *decider) say(due time.Time, what, why, run string, also int) {
	e := Event{Due: due, At: d.now, What: what, Why: why, Run: run, Also: also}
	if due.After(d.s.Decided) {
		d.s.Decided = due
	}
	if what == Started {
		d.s.Fired = tail(append(slices.Clone(d.s.Fired), due), keptFired)
		d.busy = run
	}
	d.s.Events = tail(append(slices.Clone(d.s.Events), e), keptEvents)
	d.out = append(d.out, Decision{e, d.s})
}

func tail[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

// queue starts what waited, or gives it up.
func (d *decider) queue() {
	due := d.s.Queued
	if due.IsZero() {
		return
	}
	switch late := d.now.Sub(d.job.start(due)); {
	case d.s.Paused != nil:
		d.s.Queued = time.Time{}
		d.say(due, Skipped, d.paused(), "", 0)
	case d.job.Deadline > 0 && late > d.job.Deadline:
		d.s.Queued = time.Time{}
		d.say(due, Skipped, fmt.Sprintf("it could not start for %s: the one before had not ended", d.job.Deadline), "", 0)
	case d.busy == "" || d.busy == d.job.ID(due):
		d.s.Queued = time.Time{}
		d.say(due, Started, "", d.job.ID(due), 0)
	case d.job.Deadline > 0:
		d.wakeAt(d.job.start(due).Add(d.job.Deadline + time.Second))
	}
}

func (d *decider) wakeAt(t time.Time) {
	if d.wake.IsZero() || t.Before(d.wake) {
		d.wake = t
	}
}

func (d *decider) paused() string {
	why := "paused by " + d.s.Paused.By
	if d.s.Paused.Text != "" {
		why += ": " + d.s.Paused.Text
	}
	return why
}

// due decides on the instants that have come. Of those that were missed only
// the newest is spoken of; it stands for the others.
func (d *decider) due() {
	var missed time.Time
	also := -1
	settle := func(newest bool) {
		if !missed.IsZero() {
			d.missed(missed, also, newest)
		}
		missed, also = time.Time{}, -1
	}
	for at, tries := d.s.Decided, 0; ; tries++ {
		if tries == maxMissed { // years were missed: the last of them will do
			if last := d.now.Add(-24 * time.Hour); last.After(at) {
				at = last
			}
		}
		at = d.job.Schedule.Next(at)
		if at.IsZero() {
			break
		}
		if slices.ContainsFunc(d.s.Fired, at.Equal) {
			continue
		}
		start := d.job.start(at)
		if start.After(d.now) {
			d.wakeAt(start)
			break
		}
		if d.now.Sub(start) > Grace {
			missed, also = at, also+1
			continue
		}
		settle(false)
		d.onTime(at, 0)
	}
	settle(true)
}

// missed decides on the newest of the instants that nobody looked at.
func (d *decider) missed(due time.Time, also int, newest bool) {
	late := d.now.Sub(d.job.start(due))
	switch {
	case d.job.Missed != Once:
		d.say(due, Skipped, fmt.Sprintf("missed by %s: no controller ran, or its clock was set forward", late.Round(time.Second)), "", also)
	case !newest:
		d.say(due, Skipped, "missed, and the next is due", "", also)
	case d.job.Deadline > 0 && late > d.job.Deadline:
		d.say(due, Skipped, fmt.Sprintf("missed by %s, more than its deadline of %s", late.Round(time.Second), d.job.Deadline), "", also)
	default:
		d.onTime(due, also)
	}
}

// onTime decides on an instant that may start now; also counts the missed ones
// it stands for.
func (d *decider) onTime(due time.Time, also int) {
	days, black := d.job.black(due)
	switch {
	case d.s.Paused != nil:
		d.say(due, Skipped, d.paused(), "", also)
	case black:
		d.say(due, Skipped, "no drills on "+days.String(), "", also)
	case d.busy == "" || d.busy == d.job.ID(due):
		d.say(due, Started, "", d.job.ID(due), also)
	case d.job.Overlap != Queue:
		d.say(due, Skipped, d.busy+" has not ended", "", also)
	default:
		if old := d.s.Queued; !old.IsZero() {
			d.say(old, Skipped, "a later one takes its place in the queue", "", 0)
		}
		d.s.Queued = due
		d.say(due, Waits, d.busy+" has not ended", "", also)
		if d.job.Deadline > 0 {
			d.wakeAt(d.job.start(due).Add(d.job.Deadline + time.Second))
		}
	}
}
