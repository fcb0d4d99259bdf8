package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

const (
	idleWait     = time.Minute // a loop with nothing to do looks again
	retryFirst   = time.Second
	retryMost    = time.Minute
	defaultEvery = 5 * time.Minute
)

func randN(d time.Duration) time.Duration { return rand.N(d) }

// schedule is when the source loop of a machine is due.
type schedule struct {
	last  time.Duration // begin of the last cycle, on the monotonic clock
	ran   bool          // there was one
	fails int           // in a row
	stuck int           // failed tries to let the machine go on, in a row
}

// loop is the one goroutine that replicates a machine: as a source it makes a
// cycle every policy.Every, as a target it applies and thins.
func (m *machine) loop(ctx context.Context) {
	var s schedule
	for ctx.Err() == nil {
		wait := m.turn(ctx, &s)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-m.wake:
		case <-m.gone:
			t.Stop()
			return
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// turn does what is due and returns how long nothing is.
func (m *machine) turn(ctx context.Context, s *schedule) time.Duration {
	rec := m.snapshot()
	if rec.Frozen != nil { // nobody holds it still once letGo has its turn
		if err := m.letGo(ctx); err != nil {
			s.stuck++
			m.log.Error("machine may stand still", logkit.KeyError, err, "hint", fault.Hint(err))
			return jitter(min(retryFirst<<min(s.stuck-1, 10), retryMost))
		}
	}
	s.stuck = 0
	if rec.inForce().Active != m.a.site() {
		m.enforce(ctx) // also after a crash between learning and stopping
	}
	if m.unsettled(&rec) {
		release, err := m.takeRole(ctx)
		if err != nil {
			return 0 // the loop is about to end
		}
		m.settle(ctx)
		release()
		if m.unsettled(&rec) && m.roleProblem() != nil {
			return jitter(retryMost)
		}
	}
	switch rec.role(m.a.host()) {
	case roleSource:
		return m.sendTurn(ctx, &rec, s)
	case roleTarget:
		m.receiveTurn(ctx, &rec)
	}
	return idleWait
}

// unsettled reports whether the stores do not fit the role yet.
func (m *machine) unsettled(rec *record) bool {
	src, rep := m.source(), m.replica()
	if rep == nil && m.roleProblem() != nil {
		return true // the store may be what cannot be opened
	}
	switch rec.role(m.a.host()) {
	case roleSource:
		return rec.Leaving || m.mayReclaim(rec) || rec.Own && (src == nil || rec.Sending != rec.Authority.Epoch)
	case roleTarget:
		return rec.Own || rec.Leaving || rep == nil || src != nil || onOverlay(rep) || rep.Held() != rec.Authority.Uncommitted
	}
	return src != nil || rec.Leaving || m.mayReclaim(rec)
}

// mayReclaim reports whether the heads of the replica here are the machine's
// own disks again: a rollback gave this site the authority back.
func (m *machine) mayReclaim(rec *record) bool {
	rep := m.replica()
	return rep != nil && (rep.Held() || reclaimed(rec, rep)) && !rec.Own && rec.Authority.Active == m.a.site() && !rec.Authority.Uncommitted
}

func (m *machine) roleProblem() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roleErr
}

// sendTurn makes a cycle if one is due.
func (m *machine) sendTurn(ctx context.Context, rec *record, s *schedule) time.Duration {
	if m.source() == nil || rec.Conflict != nil {
		return idleWait
	}
	if !rec.Final.IsZero() {
		return idleWait // the machine is stopped and all it wrote is over: a start wakes the loop
	}
	if wait := s.wait(rec, m.a.o.Clock, m.source()); wait > 0 {
		return wait
	}
	before := *s
	s.last, s.ran = clock.Mono(m.a.o.Clock), true
	_, err := m.cycle(ctx, cycleOptions{due: true})
	switch {
	case err == nil:
		s.fails = 0
	case fault.Is(err, fault.Interrupted):
		s.last, s.ran = before.last, before.ran // it is still due, if whoever interrupted it left it so
		return retryFirst                       // and that one has the role lock by then
	default:
		s.fails++
		m.log.Warn("replication cycle failed", logkit.KeyError, err, "hint", fault.Hint(err))
	}
	return s.wait(rec, m.a.o.Clock, m.source())
}

// wait is the time until the next cycle is due; 0: now.
func (s *schedule) wait(rec *record, clk clock.Clock, src *source.Machine) time.Duration {
	p := rec.Assignment.Policy
	every := p.Every
	if every <= 0 {
		every = defaultEvery
	}
	since := clock.Mono(clk) - s.last
	if s.fails > 0 {
		back := min(retryFirst<<min(s.fails-1, 10), retryMost, max(every, retryFirst))
		return max(0, jitter(back)-since)
	}
	if s.ran {
		return max(0, every-since) // start to start
	}
	if src == nil {
		return 0
	}
	if tip, ok := src.Tip(); ok {
		return max(0, min(every, every-clk.Now().Sub(tip.Instant)))
	}
	return initialWait(p.Initial, clk.Now())
}

// initialWait is the time until the first copy may begin: at HH:MM of the
// host's day, or now.
func initialWait(initial string, now time.Time) time.Duration {
	at, err := time.Parse("15:04", initial)
	if err != nil {
		return 0 // now, existing, import
	}
	due := time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, now.Location())
	if due.Before(now.Add(-12 * time.Hour)) {
		due = due.AddDate(0, 0, 1)
	}
	return max(0, due.Sub(now))
}

// cycleOptions says what a cycle is for.
type cycleOptions struct {
	final  bool
	labels []string
	app    bool // an app point although none is due
	due    bool // the loop's own: not needed once the final point is made
}

// cycle makes one recovery point at the target. Cycles of a machine run one at
// a time, and not while its role changes.
func (m *machine) cycle(ctx context.Context, o cycleOptions) (source.Result, error) {
	release, err := m.takeRole(ctx)
	if err != nil {
		return source.Result{}, err
	}
	defer release()
	mine, cancel := context.WithCancelCause(ctx) // from here interrupt ends it, wherever it waits
	defer cancel(nil)
	m.note(func(m *machine) { m.cancel = cancel })
	defer m.note(func(m *machine) { m.cancel = nil })
	src, rec := m.source(), m.snapshot()
	if src == nil {
		if err := m.roleProblem(); err != nil {
			return source.Result{}, fault.Wrap(fault.Refused, err)
		}
		return source.Result{}, fault.Errorf(fault.Refused, "host %s does not send machine %s: %s", m.a.host(), m.name, describe(rec.Authority))
	}
	if o.due && !rec.Final.IsZero() {
		return source.Result{}, nil
	}
	if o.final {
		if st := m.state(ctx); st.Power != recovery.PowerStopped {
			return source.Result{}, fault.Errorf(fault.Refused, "machine %s is %s: its final point needs it stopped", m.name, st.Power)
		}
	}
	if tip, ok := src.Tip(); ok && o.final && planted.Is(planted.FinalSkipped) {
		return source.Result{Point: tip}, m.update(func(r *record) { r.Final = tip.ID })
	}
	slots := m.a.scan
	if _, ok := src.Tip(); !ok {
		slots = m.a.seed
	}
	slot, err := slots.take(mine)
	if err != nil {
		return source.Result{}, err
	}
	defer slot()
	if to, ok := rec.target(m.a.host()); ok {
		m.a.askClock(mine, to.Name)
	}
	res, err := src.Cycle(mine, source.CycleOptions{
		Authority: rec.Authority, App: o.app || o.final || m.appDue(&rec), Labels: o.labels, Final: o.final,
	})
	switch {
	case err != nil && mine.Err() != nil:
		err = fault.Errorf(fault.Interrupted, "replication cycle of machine %s ended: %w", m.name, context.Cause(mine))
	case fault.Is(err, fault.Interrupted): // not ours: the peer was interrupted
		err = fault.Errorf(fault.Unreachable, "%w", err)
	}
	m.note(func(m *machine) {
		if !fault.Is(err, fault.Interrupted) {
			m.sendErr = err
		}
	})
	var conflict *source.ConflictError
	if errors.As(err, &conflict) {
		to, _ := rec.target(m.a.host())
		m.learn(ctx, conflict.Peer, to.Name)
	}
	if err != nil {
		return res, err
	}
	if res.Point.Kind == recovery.App {
		m.note(func(m *machine) { m.lastApp, m.hadApp = clock.Mono(m.a.o.Clock), true })
	}
	return res, m.update(func(r *record) {
		// A start since the cut clears it; without one nothing was written.
		if r.Launch == nil && (o.final || !r.Final.IsZero()) {
			r.Final = res.Point.ID
		}
	})
}

// appDue reports whether the next point should be an app point.
func (m *machine) appDue(rec *record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	every := rec.Assignment.Policy.AppEvery
	return every <= 0 || !m.hadApp || clock.Mono(m.a.o.Clock)-m.lastApp >= every
}

// receiveTurn applies what was accepted and thins.
func (m *machine) receiveTurn(ctx context.Context, rec *record) {
	rep := m.replica()
	if rep == nil {
		return
	}
	err := rep.Apply(ctx)
	if err == nil {
		_, err = rep.Thin(ctx, rec.Assignment.Policy.Keep, m.a.o.Clock.Now())
		if errors.Is(err, replica.ErrClockJumped) { // no fault of the replica: status shows it
			err = nil
		}
	}
	if ctx.Err() != nil {
		return
	}
	m.note(func(m *machine) { m.applyErr = err })
	if err != nil {
		m.log.Warn("points are not applied or thinned", logkit.KeyError, err, "hint", fault.Hint(err))
	}
}
