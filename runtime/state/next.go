package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// Effect is something to do: start a step (not before At); with Timeout,
// record at At that nobody answered; with Section, begin a section at At; with
// Expire, end the test at At.
type Effect struct {
	Step    string
	Attempt int
	At      time.Time // zero: now
	Timeout bool
	Section string
	Expire  bool // the time of a test is over: clean it up
}

// Next returns what may start now and which deadlines run, in program order.
func (s *State) Next() []Effect {
	if s.Status.Ended() {
		return nil
	}
	var out []Effect
	for _, st := range s.Open() {
		if due := s.Deadline(st); !due.IsZero() {
			out = append(out, Effect{Step: st.ID, Attempt: st.Attempt, At: due, Timeout: true})
		}
	}
	if due := s.TestEnds(); !due.IsZero() {
		out = append(out, Effect{Expire: true, At: due})
	}
	if s.stop != nil || s.paused || s.refused {
		return out
	}
	if due := s.CommitDue(); !due.IsZero() {
		section := program.SectionCommit
		if s.Run.Commit.OnTimeout == WindowRollback {
			section = program.SectionRollback
		}
		out = append(out, Effect{Section: section, At: due})
	}
	s.tree.walk(&out)
	return out
}

// TestEnds is when the test is cleaned up because its time is over; zero: it
// has no limit, or is being cleaned up already.
func (s *State) TestEnds() time.Time {
	if s.Type != recovery.Test || s.Run.TTL <= 0 || s.cancelled || s.Section() != program.SectionFailover {
		return time.Time{}
	}
	return s.Created.Add(s.Run.TTL)
}

// Due is when the run does something by itself that no step is under way for;
// zero: never.
func (s *State) Due() time.Time {
	if due := s.TestEnds(); !due.IsZero() {
		return due
	}
	return s.CommitDue()
}

// What a commit window does when it ends.
const (
	WindowCommit   = "commit"
	WindowRollback = "rollback" // of a planned failover
)

// CommitDue is when the commit window of the run ends and it is committed, or
// rolled back, by itself; zero: a person decides. A window that ended while no
// runtime looked after the run does nothing.
func (s *State) CommitDue() time.Time {
	due := s.windowEnd()
	if due.IsZero() || s.windowOver || s.ResumedAt.After(due) {
		return time.Time{}
	}
	return due
}

// windowEnd is the end of the commit window, also of one that was missed.
func (s *State) windowEnd() time.Time {
	c := s.Run.Commit
	acts := c.OnTimeout == WindowCommit || c.OnTimeout == WindowRollback && s.Type == recovery.Planned
	if s.Status != report.RunUncommitted || s.Type == recovery.Test || c.Mode != "window" || !acts {
		return time.Time{}
	}
	return s.SectionEnd.Add(c.Within)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle finds the status.
func (s *State) settle(at time.Time) {
	running, unknown, waiting := s.now.of(classRunning), s.now.of(classUnknown), s.now.of(classWaiting)
	var question *Step
	if unknown+waiting > 0 {
		for _, st := range s.current() {
			switch {
			case st.Status == report.StepUnknown:
				question = st
			case question == nil && (st.Status == report.StepWaiting || st.Asks):
				question = st
			}
		}
	}
	s.Reason, s.Hint = "", ""
	through := s.now.of(classOpen) == 0 && running == 0 && unknown == 0 && waiting == 0
	if !through {
		s.SectionEnd = time.Time{}
	} else if s.SectionEnd.IsZero() {
		s.SectionEnd = at
	}
	switch {
	case s.superseded != "":
		s.Status, s.Reason = report.RunSuperseded, "run "+s.superseded+" took the machines on"
	case through && s.stop == nil:
		s.ended()
	case running > 0:
		s.Status = s.working()
	case s.refused:
		s.Status = report.RunRefused
		s.because(s.stop)
	case unknown > 0:
		s.Status = report.RunWaiting
		s.Reason = fmt.Sprintf("the outcome of %s is unknown", question.ID)
		s.Hint = fmt.Sprintf("find out, then: drrun answer %s done|again|abort", s.Run.ID)
	case s.cancelled: // Follow says what is taken back
		s.Status, s.Reason = s.working(), s.stop.Message
	case s.stop != nil:
		s.Status = report.RunStopped
		s.because(s.stop)
	case s.paused:
		s.Status, s.Reason = report.RunPaused, "paused"
		s.Hint = "drrun resume " + s.Run.ID
	case waiting > 0 && len(s.startable()) == 0:
		s.Status = report.RunWaiting
		s.Reason, s.Hint = s.question(question)
	default:
		s.Status = s.working()
	}
}

func (s *State) startable() []Effect {
	var out []Effect
	s.tree.walk(&out)
	return out
}

func (s *State) question(st *Step) (reason, hint string) {
	if st.Asks {
		return fmt.Sprintf("%s failed: %s", st.ID, st.Error.Message), cmp.Or(st.Error.Hint, fmt.Sprintf("drrun answer %s again|go|stop", s.Run.ID))
	}
	q, _ := st.Question()
	return "waits for an answer to: " + q.Ask, fmt.Sprintf("drrun answer %s go|stop", s.Run.ID)
}

func (s *State) because(err *fault.Error) {
	s.Reason, s.Hint = err.Message, err.Hint
	if s.Status != report.RunStopped {
		return
	}
	if s.Hint == "" {
		s.Hint = fmt.Sprintf("mend the cause, then: drrun resume %s (or cancel it)", s.Run.ID)
		switch {
		case s.Section() == program.SectionRollback:
			s.Hint = fmt.Sprintf("mend the cause, then: drrun resume %s", s.Run.ID)
		case s.Rollbackable() && len(s.Granted()) > 0:
			s.Hint = fmt.Sprintf("mend the cause, then: drrun resume %s (or: drrun rollback %[1]s)", s.Run.ID)
		}
	}
	if all := s.Passable(); len(all) > 0 {
		s.Hint += fmt.Sprintf("; the run keeps the plan it began with: to go on without this step: drrun answer %s %q go", s.Run.ID, all[0].ID)
	}
}

func (s *State) working() report.RunStatus {
	if s.Section() == program.SectionCleanup {
		return report.RunCleaning
	}
	for _, st := range s.current() {
		if st.Kind != program.Preflight && st.Kind != program.Claim && st.Attempt > 0 {
			return report.RunRunning
		}
	}
	if s.Section() == program.SectionFailover || s.Section() == program.SectionReverse {
		return report.RunPreflight
	}
	return report.RunRunning
}

// ended finds the status of a run whose current section is through.
func (s *State) ended() {
	p := s.Program()
	bad := s.sectionErrors()
	switch p.Section {
	case program.SectionFailover:
		s.endedFailover(p)
	case program.SectionReverse:
		s.Status = report.RunDone
		s.Reason = p.Nothing
	case program.SectionCommit:
		s.Status = report.RunCommitted
		if s.Type == recovery.Unplanned {
			s.Hint = "not protected until: drrun reverse " + strings.Join(s.Granted(), " ")
		}
	case program.SectionCleanup:
		switch {
		case bad > 0:
			s.Status, s.Reason = report.RunStopped, "the cleanup did not end everything"
			s.Hint = fmt.Sprintf("mend the cause, then: drrun resume %s", s.Run.ID)
		case s.gone:
			s.Status, s.Reason = report.RunCancelled, "cancelled and cleaned up"
		case s.failed:
			s.Status, s.Reason = report.RunFailed, "the test failed; it is cleaned up"
		default:
			s.Status = report.RunDone
		}
	case program.SectionCancel:
		s.endedCancel(bad)
	case program.SectionRollback:
		s.Status, s.Reason = report.RunRolledBack, s.rolledBack()
		if bad > 0 {
			s.Status, s.Reason = report.RunStopped, "the rollback did not end everything"
			s.Hint = fmt.Sprintf("mend the cause, then: drrun resume %s", s.Run.ID)
		}
	case program.SectionPoint:
		s.endedFailover(p)
	}
}

func (s *State) rolledBack() string {
	text := strings.Join(s.withStep(program.Restart), ", ") + " back at " + s.Main().From
	if over := s.withStep(program.Return); len(over) > 0 {
		text += "; what ran at " + s.Main().To + " is kept there as a point labelled \"rolled back\""
	}
	return text
}

func (s *State) endedCancel(bad int) {
	over := s.Granted()
	s.Status, s.Reason = report.RunCancelled, "cancelled; nothing was changed"
	switch {
	case bad > 0:
		s.Reason, s.Hint = "cancelled; not everything could be given back or started: see the errors", s.giveBackHint()
	case len(s.withStep(program.Restart)) > 0:
		s.Reason = "cancelled; given back: " + strings.Join(s.withStep(program.Restart), ", ")
	case len(over) > 0:
		s.Reason = "cancelled"
	}
	if s.Main().Section == program.SectionReverse { // the machines run on where they are
		if len(over) > 0 {
			s.Reason = "cancelled; these replicate back already: " + strings.Join(over, ", ")
		}
		return
	}
	if len(over) > 0 {
		s.Status = report.RunPartial
		s.Reason += "; failed over to " + s.Main().To + ", and uncommitted: " + strings.Join(over, ", ")
		s.Hint = strings.TrimSuffix("drrun commit "+s.Run.ID+"; "+s.Hint, "; ")
	}
}

// giveBackHint says how the machines are started that a cancel could not give
// back; "" where it gave all back.
func (s *State) giveBackHint() string {
	locked := map[string][]string{} // the command that starts them → machines
	var cmds []string
	for _, st := range s.current() {
		switch m, _ := s.Main().Machine(st.Machine); {
		case st.OK(), st.Error != nil && st.Error.Kind == fault.Conflict: // that one is another run's now
		case st.Kind == program.Unlock && m.Home == m.ToSite:
			locked["--planned"] = append(locked["--planned"], st.Machine)
		case st.Kind == program.Unlock:
			locked["--planned --failback"] = append(locked["--planned --failback"], st.Machine)
		case st.Kind == program.Restart && s.Steps[st.Requires[0]].OK():
			cmds = append(cmds, fmt.Sprintf("drrun-agent permit %s on %s", st.Machine, st.Host))
		}
	}
	for _, flags := range slices.Sorted(maps.Keys(locked)) {
		cmds = append(cmds, fmt.Sprintf("drrun failover %s %s", strings.Join(locked[flags], " "), flags))
	}
	if len(cmds) == 0 {
		return ""
	}
	return "mend the cause, then: " + strings.Join(cmds, ", ")
}

func (s *State) endedFailover(p *program.Program) {
	test := p.Type == recovery.Test
	switch {
	case p.Nothing != "":
		s.Status, s.Reason = report.RunDone, "nothing to do: "+p.Nothing
	case s.sectionErrors() > 0:
		s.Status, s.Reason = report.RunPartial, "ended with "+quantity.Count(s.sectionErrors(), "error")
		s.Hint = fmt.Sprintf("look at: drrun show %s; allowed now: %s", s.Run.ID, strings.Join(s.Allowed(true), ", "))
		if test {
			s.Hint = "then: drrun cleanup " + s.Run.ID
		}
	case len(s.withStep(program.Restart)) > 0: // they were there already
		s.Status, s.Reason = report.RunDone, "started again at "+p.To+": "+strings.Join(s.withStep(program.Restart), ", ")
	default:
		s.Status = report.RunUncommitted
		s.Reason, s.Hint = "the machines run at "+p.To, fmt.Sprintf("drrun commit %s (or: drrun rollback %[1]s)", s.Run.ID)
		s.window()
		if test {
			s.Reason, s.Hint = "the test stands at "+p.To, "drrun cleanup "+s.Run.ID
			if due := s.TestEnds(); !due.IsZero() {
				s.Reason += ", until " + due.Format(time.RFC3339)
			}
		}
	}
}

// window says in the reason what the commit window does, or did not do.
func (s *State) window() {
	end := s.windowEnd()
	if end.IsZero() {
		return
	}
	what := "committed"
	if s.Run.Commit.OnTimeout == WindowRollback {
		what = "rolled back"
	}
	switch {
	case !s.CommitDue().IsZero():
		s.Reason += "; they are " + what + " at " + end.Format(time.RFC3339)
	case s.windowOver:
		s.Reason += "; the commit window is over and they could not be " + what + " by themselves: a person decides"
	default:
		s.Reason += "; the commit window ended at " + end.Format(time.RFC3339) + " while no runtime looked after the run: a person decides"
	}
}

// sectionErrors counts the steps of the current section that ended badly.
func (s *State) sectionErrors() int {
	n := 0
	for _, st := range s.current() {
		if st.Status == report.StepGivenUp || st.Status == report.StepFailed && !st.Optional {
			n++
		}
	}
	return n
}

// giveUp ends the steps that require what has failed, and what requires them.
func (s *State) giveUp() {
	for changed := true; changed; {
		changed = false
		for _, st := range s.current() {
			if st.Status != report.StepPending {
				continue
			}
			for _, id := range st.Requires {
				need := s.Steps[id]
				if need != nil && need.Settled() && !need.OK() {
					st.Status, st.Reason = report.StepGivenUp, id+" did not succeed"
					s.recount(st)
					changed = true
				}
			}
		}
	}
}

// Unattended returns the answer that a plan gives itself in a drill.
func (s *Step) Unattended() string {
	q, _ := s.Question()
	return cmp.Or(q.Unattended, Stop)
}

// ExitCode is what a command that waits for the run exits with now.
func (s *State) ExitCode() int {
	switch s.Status {
	case report.RunRefused:
		return fault.ExitRefused
	case report.RunStopped, report.RunPaused:
		if s.stop != nil && s.stop.Kind == fault.Unknown {
			return fault.ExitUnknown
		}
		return fault.ExitStopped
	case report.RunWaiting:
		for _, st := range s.current() {
			if st.Status == report.StepUnknown {
				return fault.ExitUnknown
			}
		}
		return fault.ExitWaiting
	case report.RunPartial:
		if s.Section() == program.SectionCancel {
			return fault.ExitFailed
		}
		return fault.ExitPartial
	case report.RunFailed, report.RunCancelled:
		return fault.ExitFailed
	}
	return fault.ExitOK
}

// Cancelling reports whether a cancel was asked for and has not begun yet.
func (s *State) Cancelling() bool { return s.cancelled }

// Stopping reports whether no further step starts.
func (s *State) Stopping() bool { return s.stop != nil || s.paused }
