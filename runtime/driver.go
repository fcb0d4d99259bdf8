package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// driver drives one run: it alone writes the run's journal, and starts an
// effect only after its record is committed.
type driver struct {
	e    *Engine
	id   string
	src  sources
	done chan struct{}
	wake chan struct{}
	work chan launched // for a goroutine that has done its step
	idle atomic.Int32  // how many of those there are

	mu       sync.Mutex
	st       *state.State
	claim    claimed // result of the claim step, once it is known
	j        *journal.Journal
	flying   map[string]*flight
	progress map[string]report.Progress
	asked    map[string]*asked      // by host
	watchers map[chan struct{}]bool // told when progress changed
	deciding bool                   // windowRollback looks at the hosts
	hurry    chan struct{}          // closed while a person waits for no silent host
	parked   bool                   // no step starts; leave when none is in flight
	gone     map[string]string      // machines that other runs have moved: what is asked for now goes without them
	dead     error                  // the journal cannot be written
}

func newDriver(e *Engine, st *state.State, j *journal.Journal, src sources) *driver {
	return &driver{e: e, id: st.Run.ID, src: src, st: st, j: j, done: make(chan struct{}), wake: make(chan struct{}, 1), work: make(chan launched),
		hurry: make(chan struct{}), flying: map[string]*flight{}, progress: map[string]report.Progress{}, asked: map[string]*asked{}, watchers: map[chan struct{}]bool{}}
}

func (e *Engine) now() time.Time { return e.clock.Now().UTC().Round(0) }

// append commits a record and folds it. Callers hold d.mu. When the journal
// cannot be written the run is dead here: nobody knows what it holds, so this
// process must not go on; a later one reads it again.
func (d *driver) append(r state.Record) error {
	if d.dead != nil {
		return d.dead
	}
	r.Seq, r.Time = d.j.Next(), d.e.now()
	rec, err := toJournal(r)
	if err != nil {
		return d.die(err)
	}
	before := headlineOf(d.st)
	if err := d.st.Apply(r); err != nil {
		return d.die(err)
	}
	ctx := context.WithoutCancel(d.e.ctx) // what has happened is written, also while the runtime leaves
	for {
		ops, cmps, err := d.also(ctx, before)
		if err != nil {
			return d.die(err)
		}
		_, ok, err := d.j.Append(ctx, rec, ops, cmps...)
		if err != nil {
			return d.die(err)
		}
		if ok {
			break
		}
		if _, err := d.e.store.Get(ctx, journal.Key(d.id, r.Seq)); !fault.Is(err, fault.NotFound) {
			return d.die(fault.Errorf(fault.Conflict, "another runtime drives run %s", d.id).WithHint("watch it there: drrun watch %s", d.id))
		}
	}
	d.nudge()
	return nil
}

func (d *driver) die(err error) error {
	d.dead = err
	d.e.log.Error("run stopped: its journal cannot be written", "run", d.id, "cause", err.Error())
	for _, f := range d.flying {
		f.cancel(errLeaving)
	}
	d.nudge()
	return err
}

func (d *driver) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
	d.tellWatchers()
}

// tellWatchers wakes those who follow the run. Callers hold d.mu.
func (d *driver) tellWatchers() {
	for w := range d.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// loop starts what may start until the run has ended or is parked.
func (d *driver) loop() {
	d.relaunch()
	for {
		d.mu.Lock()
		next := d.advance()
		idle := len(d.flying) == 0
		leave := idle && (d.dead != nil || d.parked || d.st.Status.Ended())
		d.mu.Unlock()
		if leave {
			return
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(max(0, next.Sub(d.e.now())))
		}
		select {
		case <-d.wake:
		case <-timer:
		}
	}
}

// advance does everything that can be done now and returns when the next
// deadline is. Callers hold d.mu.
func (d *driver) advance() (next time.Time) {
	for d.dead == nil && !d.parked {
		if section := d.st.Follow(); section != "" && len(d.flying) == 0 {
			if d.letGo() && d.beginSection(section, "the run") != nil {
				return time.Time{}
			}
			continue
		}
		acted := false
		next = time.Time{}
		for _, eff := range d.st.Next() {
			if eff.Section == program.SectionRollback && d.deciding {
				continue
			}
			if now := d.e.now(); eff.At.After(now) {
				if next.IsZero() || eff.At.Before(next) {
					next = eff.At
				}
				continue
			}
			acted = true
			if d.act(eff) != nil {
				return time.Time{}
			}
			if st := d.st.Steps[eff.Step]; st == nil || eff.Timeout || st.Kind == program.Wait {
				break // the state has changed: ask it again
			}
			// That a step has begun keeps none of the others from beginning.
		}
		if !acted {
			return next
		}
	}
	return time.Time{}
}

// act journals the begin of an effect, then starts it.
func (d *driver) act(eff state.Effect) error {
	if eff.Expire {
		return d.expire()
	}
	if eff.Section == program.SectionRollback {
		d.deciding = true
		go d.windowRollback()
		return nil
	}
	if eff.Section != "" {
		if !d.letGo() {
			return nil
		}
		return d.beginSection(eff.Section, "the plan's commit window")
	}
	st := d.st.Steps[eff.Step]
	if eff.Timeout {
		return d.append(state.Record{Kind: state.TimedOut, Step: eff.Step, Attempt: eff.Attempt})
	}
	if err := d.append(state.Record{Kind: state.Started, Step: eff.Step, Attempt: eff.Attempt}); err != nil {
		return err
	}
	if st.Kind == program.Wait {
		if !d.st.Run.Unattended {
			return nil
		}
		return d.unattended(st)
	}
	d.launch(st)
	return nil
}

// unattended answers a wait as the plan says for drills. Callers hold d.mu.
func (d *driver) unattended(st *state.Step) error {
	return d.append(state.Record{Kind: state.Answered, Step: st.ID, Word: st.Unattended(), By: "the plan (unattended)"})
}

// relaunch takes up the steps that another process left without a result:
// agents answer a repeated operation id with the stored result; what cannot be
// asked again is unknown. A wait of a drill that the other process began gets
// its answer.
func (d *driver) relaunch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.st.Run.Unattended {
		for _, st := range d.st.Open() {
			if st.Status == report.StepWaiting && d.unattended(st) != nil {
				return
			}
		}
	}
	for _, st := range d.st.Running() {
		if d.dead != nil || d.parked {
			return
		}
		if st.Kind == program.Exec && st.Host == "" && !planted.Is(planted.ExecRepeated) {
			err := fault.Errorf(fault.Unknown, "the runtime ended while %s ran on the controller: nobody knows whether it was done", st.ID).
				WithHint("find out, then: drrun answer %s done|again|abort", d.id)
			if d.append(state.Record{Kind: state.Unknown, Step: st.ID, Attempt: st.Attempt, Error: err}) != nil {
				return
			}
			continue
		}
		d.launch(st)
	}
}

// rest lets the driver of an idle run leave, and reports whether it does.
func (d *driver) rest() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	still := d.st.Status == report.RunStopped || d.st.Status == report.RunPaused || d.st.Retryable()
	if !still || len(d.flying) > 0 || d.dead != nil {
		return false
	}
	d.parked = true
	d.nudge()
	return true
}

// resume lets the run go on.
func (d *driver) resume(ctx context.Context, o ResumeOptions) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	window := d.st.Status == report.RunUncommitted && (d.st.Run.Commit.Mode == "window" || !d.st.Due().IsZero())
	h := headOf(d.st)
	// Busy and about to pause behind the steps in flight, or to leave some behind.
	pausing := d.st.Status.Busy() && (d.st.Stopping() || o.As != "") && !d.st.Cancelling()
	if o.As == "" && !o.SourceIsDown && !pausing && (h.works() || d.st.Status == report.RunWaiting || window) {
		return nil // it goes on already, or when somebody answers: taking it over was all there was to do
	}
	switch d.st.Status {
	case report.RunStopped, report.RunPaused, report.RunWaiting:
	default:
		if !pausing && !d.st.Retryable() {
			return notAllowed(d.st, report.OpResume)
		}
	}
	r := state.Record{Kind: state.Resumed, By: nobody(o.By)}
	if o.As != "" {
		p, err := d.asUnplanned(ctx, o)
		if err != nil {
			return err
		}
		r.Program = p
	}
	if o.SourceIsDown {
		if err := d.append(state.Record{Kind: state.Statement, Word: SourceIsDown, By: nobody(o.By)}); err != nil {
			return err
		}
	}
	if err := d.append(r); err != nil {
		return err
	}
	d.waitAgain()
	if o.As != "" {
		d.turnFlights()
	}
	return nil
}

func nobody(by string) string {
	if by == "" {
		return "somebody"
	}
	return by
}

func (d *driver) cancelRun(by string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancelLocked(by)
}

func (d *driver) cancelLocked(by string) error {
	if !d.st.Cancellable() {
		return notAllowed(d.st, report.OpCancel)
	}
	if err := d.append(state.Record{Kind: state.Cancelled, By: nobody(by)}); err != nil {
		return err
	}
	d.leaveSilent()
	for id, f := range d.flying { // questions and delays need not end by themselves
		switch d.st.Steps[id].Kind {
		case program.Check, program.Ready, program.Delay, program.Right:
			f.cancel(fault.Errorf(fault.Failed, "cancelled by %s", nobody(by)))
		}
	}
	return nil
}

func (d *driver) commit(by string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	standing := d.st.Status == report.RunUncommitted || d.st.Status == report.RunPartial
	if !standing || !d.st.Uncommitted() || d.st.HasSection(program.SectionCommit) {
		return notAllowed(d.st, report.OpCommit)
	}
	for _, name := range d.ours(d.gone) {
		if !d.prepared(name) {
			return fault.Errorf(fault.Refused, "run %s cannot be committed: %s was failed over and has no disks at its new site yet", d.id, name).
				WithHint("drrun resume %s prepares them again; drrun change-point %[1]s takes another point, drrun rollback %[1]s takes it back", d.id)
		}
	}
	return d.beginSection(program.SectionCommit, by)
}

func (d *driver) cleanup(by string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.st.Section() == program.SectionCleanup && d.st.Status == report.RunStopped {
		return d.append(state.Record{Kind: state.Resumed, By: nobody(by)})
	}
	if !isTest(d.st) || d.st.Status.Busy() || d.st.Status.Ended() {
		return notAllowed(d.st, report.OpCleanup)
	}
	return d.beginSection(program.SectionCleanup, by)
}

// expire ends a test whose time is over, wherever it stands. Callers hold d.mu.
func (d *driver) expire() error {
	if d.st.Cancellable() {
		return d.cancelLocked(endOfTest)
	}
	return d.beginSection(program.SectionCleanup, endOfTest)
}

// beginSection adds what was asked for to the run. Callers hold d.mu.
func (d *driver) beginSection(name, by string) error {
	var p *program.Program
	main := d.st.Main()
	switch name {
	case program.SectionCommit:
		p = program.CommitOf(main, d.ours(d.gone))
	case program.SectionCleanup:
		p = program.CleanupOf(main)
	case program.SectionCancel:
		p = program.CancelOf(main, d.st.Held(), d.st.Down(), d.st.Leased(), d.st.UnclearGrants())
	case program.SectionRollback:
		p = d.rollbackProgram()
	default:
		return fault.Errorf(fault.Internal, "no section %q", name)
	}
	for _, m := range slices.Sorted(maps.Keys(d.gone)) {
		if err := d.append(state.Record{Kind: state.Noted, Text: fmt.Sprintf("machine %s has moved on by run %s: it stays out of the %s", m, d.gone[m], name)}); err != nil {
			return err
		}
	}
	if name == program.SectionCommit && d.st.Type == "planned" {
		if err := d.append(state.Record{Kind: state.Noted, Text: proofText(d.st)}); err != nil {
			return err
		}
	}
	if done := d.st.PlanStepsDone(); name == program.SectionRollback && len(done) > 0 {
		text := "what the plan's own steps did is not taken back: " + strings.Join(done, ", ")
		if err := d.append(state.Record{Kind: state.Noted, Text: text}); err != nil {
			return err
		}
	}
	d.waitAgain()
	return d.append(state.Record{Kind: state.Section, By: nobody(by), Program: p})
}

// answer finds the question an answer belongs to.
func (d *driver) answer(a Answer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	st, err := d.question(a.Step)
	if err != nil {
		return err
	}
	word := a.Word
	allowed := answersOf(st)
	if !slices.Contains(allowed, word) {
		return fault.Errorf(fault.Invalid, "%q is no answer to %s", a.Word, st.ID).WithHint("answer one of %v", allowed)
	}
	if word != SourceIsDown && word != TargetIsDown {
		return d.append(state.Record{Kind: state.Answered, Step: st.ID, Word: word, By: nobody(a.By), Text: a.Text})
	}
	if err := d.append(state.Record{Kind: state.Statement, Word: word, By: nobody(a.By), Text: a.Text}); err != nil {
		return err
	}
	for _, o := range d.st.Open() { // what was said answers the question of every machine
		if !slices.Contains(answersOf(o), word) {
			continue
		}
		if err := d.append(state.Record{Kind: state.Answered, Step: o.ID, Word: state.Again, By: nobody(a.By), Text: a.Text}); err != nil {
			return err
		}
	}
	return nil
}

// answersOf lists the words that answer a step's question.
func answersOf(st *state.Step) []string {
	switch {
	case st.Status == report.StepUnknown:
		return []string{state.OutcomeDone, state.Again, state.Abort}
	case st.Asks && st.Kind == program.Right:
		return []string{SourceIsDown, state.Again, state.Go, state.Stop}
	case st.Asks && (st.Kind == program.Unlock || st.Kind == program.Restart):
		return []string{downWord(st.Section), state.Again, state.Go, state.Stop}
	case st.Asks:
		return []string{state.Again, state.Go, state.Stop}
	case st.Status == report.StepFailed:
		return []string{state.Go, state.Again}
	}
	return []string{state.Go, state.Stop}
}

func (d *driver) question(name string) (*state.Step, error) {
	var open []*state.Step
	for _, st := range append(d.st.Open(), d.st.Passable()...) {
		if st.ID == name || st.Plan != nil && st.Plan.Name == name {
			return st, nil
		}
		open = append(open, st)
	}
	switch {
	case len(open) == 0:
		return nil, notAllowed(d.st, report.OpAnswer)
	case name == "" && len(open) == 1:
		return open[0], nil
	}
	names := ""
	for _, st := range open {
		names += fmt.Sprintf(" %q", st.ID)
	}
	return nil, fault.Errorf(fault.Invalid, "run %s asks%s: say which one you answer", d.id, names).
		WithHint("drrun answer %s %q …", d.id, open[0].ID)
}
