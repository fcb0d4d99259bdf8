// Package scheduler says when drills are due and starts them by name: once per
// due instant, whatever happens to the process or to the clock. It knows no
// runtime: what a drill is, whether one still runs and what it left stands
// behind the interface World, and what must outlive the process behind Store.
//
// Decide is the whole of the rules, and pure; Loop is the timer around it.
package scheduler

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/scheduler/cron"
)

// Words of a job.
const (
	Skip  = "skip"  // Missed, Overlap: what was due is not done
	Once  = "once"  // Missed: of all that was missed, the newest is done
	Queue = "queue" // Overlap: done when the one before has ended
)

// Job is something that is due by a calendar. Read only.
type Job struct {
	Name     string
	Schedule *cron.Schedule
	// Missed says what happens to what came due while nobody looked: Skip
	// (also ""), or Once.
	Missed string
	// Overlap says what happens when the one before still runs: Skip (also
	// ""), or Queue.
	Overlap string
	// Deadline is how late a missed or queued one may begin; 0: as late as it
	// takes.
	Deadline time.Duration
	// Jitter spreads starts: each is later than it is due by a part of this
	// that depends on the name and the instant alone.
	Jitter time.Duration
	// Blackout are the days, in the zone of the schedule, on which nothing is
	// started.
	Blackout []cron.Days
}

// black returns the days without starts that hold t.
func (j *Job) black(t time.Time) (cron.Days, bool) {
	there := t.In(j.Schedule.Location())
	i := slices.IndexFunc(j.Blackout, func(d cron.Days) bool { return d.Has(there) })
	if i < 0 {
		return cron.Days{}, false
	}
	return j.Blackout[i], true
}

// start is when what is due at an instant begins.
func (j *Job) start(due time.Time) time.Time {
	if j.Jitter <= 0 {
		return due
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", j.Name, due.Unix())
	return due.Add(time.Duration(h.Sum64() % uint64(j.Jitter)).Truncate(time.Second))
}

// ID is the id of the run of a due instant: the same in every process, so that
// it cannot be started twice.
func (j *Job) ID(due time.Time) string { return RunID(j.Name, due) }

const (
	idInfix  = "-drill-"
	idLayout = "20060102-1504"
)

// RunID is the id of the run of a job at an instant, to the minute. A name that
// is too long for it is cut, and told from others by a sum.
func RunID(job string, at time.Time) string { return prefix(job) + at.UTC().Format(idLayout) }

func prefix(job string) string {
	if most := ident.MaxName - len(idInfix) - len(idLayout); len(job) > most {
		h := fnv.New32a()
		h.Write([]byte(job))
		job = fmt.Sprintf("%s-%08x", job[:most-9], h.Sum32())
	}
	return job + idInfix
}

// IsRunOf reports whether a run with an id is one of a job.
func IsRunOf(job, id string) bool {
	at, ok := strings.CutPrefix(id, prefix(job))
	_, err := time.Parse(idLayout, at)
	return ok && err == nil
}

// Upcoming returns when the next n begin after now, days without starts left
// out. A schedule that is due on such days only yields fewer.
func (j *Job) Upcoming(now time.Time, n int) []time.Time {
	var out []time.Time
	due := now
	for tries := 0; len(out) < n && tries < maxMissed; tries++ {
		if due = j.Schedule.Next(due); due.IsZero() {
			break
		}
		if _, black := j.black(due); !black {
			out = append(out, j.start(due))
		}
	}
	return out
}
