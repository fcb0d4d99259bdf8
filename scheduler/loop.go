package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
)

// Times of the loop.
const (
	// poll is how often the wall clock is read: timers do not follow it when it
	// is set. It is below Grace.
	poll = time.Minute
	// lookAgain is how long the loop relies on being kicked.
	lookAgain = time.Hour
)

// Store keeps the states of jobs.
type Store interface {
	// Load returns the state of a job, the zero State when there is none.
	Load(ctx context.Context, job string) (State, error)
	// Save keeps a state durably.
	Save(ctx context.Context, job string, s State) error
}

// World is what jobs are about.
type World interface {
	// Jobs returns the jobs there are now. One that cannot be read has an error
	// in Broken, and is not among them.
	Jobs(ctx context.Context) (jobs []Job, broken []Broken, err error)
	// Busy returns the id of the run of a job that has not ended, "" none.
	Busy(ctx context.Context, job string) (string, error)
	// Exists says whether the run with an id was started, ended or not.
	Exists(ctx context.Context, id string) (bool, error)
	// Start starts the run of a job under an id. An error means that nothing
	// was started.
	Start(ctx context.Context, job, id string) error
}

// Broken is a job that is due at times nobody knows, or cannot be started.
type Broken struct {
	Name string
	Err  error
}

// Loop starts what is due, until its context ends. Safe for concurrent use.
type Loop struct {
	store Store
	world World
	clock clock.Clock
	log   *slog.Logger

	mu   sync.Mutex    // one look at a time
	kick chan struct{} // something has changed
}

// New returns a loop; Run runs it.
func New(s Store, w World, c clock.Clock, log *slog.Logger) *Loop {
	return &Loop{store: s, world: w, clock: c, log: log, kick: make(chan struct{}, 1)}
}

// Kick makes the loop look at once: a plan was applied, a run has ended.
func (l *Loop) Kick() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Run looks, starts and sleeps until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wake, err := l.Look(ctx)
		if err != nil && ctx.Err() == nil {
			l.log.Error("cannot look after drills", "cause", err.Error())
		}
		now := l.clock.Now()
		if again := now.Add(lookAgain); wake.IsZero() || again.Before(wake) {
			wake = again
		}
		if again := now.Add(poll); err != nil && again.Before(wake) {
			wake = again
		}
		if !l.sleep(ctx, timer, wake) {
			return
		}
	}
}

// sleep returns at an instant of the wall clock, when the wall clock was set,
// or when the loop is kicked; false: ctx has ended.
func (l *Loop) sleep(ctx context.Context, timer *time.Timer, wake time.Time) bool {
	set := func() time.Duration { return l.clock.Now().Sub(time.Unix(0, 0)) - clock.Mono(l.clock) }
	was := set()
	for {
		left := wake.Sub(l.clock.Now())
		if left <= 0 || (set()-was).Abs() > time.Second {
			return true
		}
		timer.Reset(min(left, poll))
		select {
		case <-ctx.Done():
			return false
		case <-l.kick:
			return true
		case <-timer.C:
		}
	}
}

// Look starts what is due now and returns when the next is. An error of one job
// keeps no other from its start.
func (l *Loop) Look(ctx context.Context) (wake time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	jobs, broken, err := l.world.Jobs(ctx)
	errs := []error{err}
	for _, b := range broken {
		l.log.Error("a drill cannot be scheduled", "plan", b.Name, "cause", b.Err.Error())
	}
	for _, j := range jobs {
		next, err := l.look(ctx, &j)
		errs = append(errs, err)
		if err == nil && !next.IsZero() && (wake.IsZero() || next.Before(wake)) {
			wake = next
		}
	}
	return wake, errors.Join(errs...)
}

// Change changes what is kept of a job, between two looks.
func (l *Loop) Change(ctx context.Context, job string, change func(*State) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.store.Load(ctx, job)
	if err != nil {
		return err
	}
	if err := change(&s); err != nil {
		return err
	}
	l.Kick()
	return l.store.Save(ctx, job, s)
}

// look decides on one job and does what is decided.
func (l *Loop) look(ctx context.Context, j *Job) (time.Time, error) {
	s, err := l.store.Load(ctx, j.Name)
	if err != nil {
		return time.Time{}, err
	}
	if s, err = l.settle(ctx, j, s); err != nil {
		return time.Time{}, err
	}
	busy, err := l.world.Busy(ctx, j.Name)
	if err != nil {
		return time.Time{}, err
	}
	now := l.clock.Now()
	if j.begin(&s, now) {
		if err := l.store.Save(ctx, j.Name, s); err != nil {
			return time.Time{}, err
		}
	}
	ds, wake := j.Decide(s, now, busy)
	for _, d := range ds {
		if s, err = l.do(ctx, j, s, d); err != nil {
			return time.Time{}, err
		}
	}
	return wake, nil
}

// settle ends what a process before this one was doing: the start of a run.
func (l *Loop) settle(ctx context.Context, j *Job, s State) (State, error) {
	if s.Starting.IsZero() {
		return s, nil
	}
	due, id := s.Starting, j.ID(s.Starting)
	there, err := l.world.Exists(ctx, id)
	if err != nil {
		return s, err
	}
	s.Starting = time.Time{}
	if there {
		d := decider{job: j, s: s, now: l.clock.Now()}
		if s.Queued.Equal(due) {
			d.s.Queued = time.Time{}
		}
		d.say(due, Started, "", id, 0)
		s = d.s
	}
	return s, l.store.Save(ctx, j.Name, s)
}

// do does one decision and keeps what came of it. Before a start its instant is
// kept, so that whoever comes next asks whether the run exists.
func (l *Loop) do(ctx context.Context, j *Job, s State, d Decision) (State, error) {
	if d.What != Started {
		l.log.Warn("drill "+d.What, "plan", j.Name, "due", d.Due.UTC().Format(time.RFC3339), "why", d.Why)
		return d.After, l.store.Save(ctx, j.Name, d.After)
	}
	s.Line, s.Starting = d.After.Line, d.Due
	if err := l.store.Save(ctx, j.Name, s); err != nil {
		return s, err
	}
	err := l.world.Start(ctx, j.Name, d.Run)
	if err != nil && ctx.Err() != nil {
		return s, err // whether it was started is asked by whoever comes next
	}
	after := d.After
	if err != nil {
		after.fail(err)
		l.log.Error("a drill could not be started", "plan", j.Name, "due", d.Due.UTC().Format(time.RFC3339), "cause", err.Error())
	}
	return after, l.store.Save(ctx, j.Name, after)
}
