package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// Answers to questions.
const (
	Go    = "go"
	Stop  = "stop"
	Again = "again"
	// OutcomeDone says that the operation of unknown outcome was done.
	OutcomeDone = "done"
	Abort       = "abort"
)

// Words of records.
const (
	WordDiverged = "diverged" // Unknown: the replay made another call than the recorded one
	WordAttach   = "attach"   // Resumed: another process looks after the run; nothing is tried again
	WordLease    = "lease"    // Noted: the step ends the renewals of its machine's lease
	WordRunning  = "running"  // Noted: a machine was seen running at its old site
	WordHandOver = "handover" // Paused: the controller ended; the next one goes on
	// WordLeft says of a Failed that is not clear that a person did not wait for
	// a silent host any longer: nothing is known, and it is asked for again.
	WordLeft = "left"
	// WordAsk says of a Failed that a person decides, whatever the step's rule is.
	WordAsk = "ask"
)

// Apply folds one record. A record that does not fit the state is
// fault.Corrupt: the journal was not written by this machine.
func (s *State) Apply(r Record) error {
	if r.Seq != s.Seq+1 {
		return fault.Errorf(fault.Corrupt, "record %d follows record %d", r.Seq, s.Seq)
	}
	if (r.Kind == Created) != (r.Seq == 1) {
		return fault.Errorf(fault.Corrupt, "record %d is %q", r.Seq, r.Kind)
	}
	var err error
	if r.Program != nil {
		if err = r.Program.Check(); err != nil {
			return err
		}
	}
	switch r.Kind {
	case Created:
		err = s.applyCreated(r)
	case Resumed:
		s.applyResumed(r)
	case Started, Done, Failed, Skipped, Unknown, TimedOut, OpStarted, OpDone, Asked:
		err = s.applyStep(r)
	case Answered:
		err = s.applyAnswer(r)
	case Noted:
		s.note(r.Time, r.Step, r.Text)
		if st := s.Steps[r.Step]; st != nil && r.Word == WordLease {
			st.Leased = true
		}
		if r.Word == WordRunning {
			s.SeenRunning = r.Time
		}
	case Paused:
		s.paused, s.handOver = true, r.Word == WordHandOver
		s.note(r.Time, "", "paused by "+r.By)
	case Cancelled:
		s.cancelled, s.stop = true, fault.Errorf(fault.Failed, "cancelled by %s", r.By)
		s.note(r.Time, "", "cancelled by "+r.By)
	case Section:
		err = s.applySection(r)
	case Statement:
		s.state(r)
	case Expired:
		s.windowOver = true
		s.note(r.Time, "", r.Text)
	case Superseded:
		if s.superseded = r.Word; r.Word == "" {
			s.note(r.Time, "", fmt.Sprintf("run %s has ended and has not moved %s: this one stands again", r.By, r.Text))
			break
		}
		s.note(r.Time, "", "run "+r.Word+" took the machines on")
	default:
		err = fault.Errorf(fault.Corrupt, "record %d has the unknown kind %q", r.Seq, r.Kind)
	}
	if err != nil {
		return err
	}
	s.Seq, s.Changed = r.Seq, r.Time
	switch r.Kind {
	case Started, Done, Skipped, Unknown, OpStarted, OpDone, Asked, Noted:
		if st := s.Steps[r.Step]; st != nil {
			s.recount(st)
		}
	case Failed, TimedOut, Answered:
		s.recount(s.Steps[r.Step])
		s.giveUp()
	case Created, Resumed, Section:
		s.recountAll()
		s.giveUp()
	}
	s.settle(r.Time)
	return nil
}

func (s *State) applyCreated(r Record) error {
	if r.Run == nil || r.Program == nil {
		return fault.Errorf(fault.Corrupt, "the first record of the run has no request or no program")
	}
	s.Run, s.Created, s.Fence, s.ResumedAt = r.Run, r.Time, r.Fence, r.Time
	s.addProgram(r.Program)
	if s.Run.SourceIsDown {
		s.state(Record{Time: r.Time, By: s.Run.StartedBy, Word: "source-is-down"})
	}
	if s.Run.Force {
		s.state(Record{Time: r.Time, By: s.Run.StartedBy, Word: "force"})
	}
	if len(s.Run.Discard) > 0 {
		s.state(Record{Time: r.Time, By: s.Run.StartedBy, Word: "discard-diverged", Text: strings.Join(s.Run.Discard, ", ")})
	}
	if s.Run.NoProof {
		s.state(Record{Time: r.Time, By: s.Run.StartedBy, Word: "no-proof"})
	}
	return nil
}

func (s *State) state(r Record) {
	s.Statements = append(s.Statements, report.Statement{Time: r.Time, By: r.By, What: r.Word, Text: r.Text})
	if r.Word == "source-is-down" {
		run := *s.Run
		run.SourceIsDown = true
		s.Run = &run
	}
}

// applyResumed lets the run go on from where it stopped: failed steps that
// held it up are tried again.
func (s *State) applyResumed(r Record) {
	s.Resumes++
	s.ResumedAt = r.Time
	s.Fence = max(s.Fence, r.Fence)
	switch {
	case r.Word == WordAttach:
		s.note(r.Time, "", fmt.Sprintf("taken over with fencing number %d", r.Fence))
	case r.By != "":
		s.note(r.Time, "", "resumed by "+r.By)
	}
	if r.Program != nil { // goes on as another type
		s.note(r.Time, "", "goes on as "+string(r.Program.Type))
		s.Programs[0] = r.Program
		s.Type, s.TurnedAt = r.Program.Type, r.Time
		s.addSteps(r.Program)
		s.unskip(&r.Program.Root, false)
	}
	if r.Word == WordAttach { // another process looks after it: nothing else changes
		return
	}
	all := s.Retryable() || s.sweeps() // it went to its end: everything that failed is tried again
	s.paused, s.handOver, s.refused = false, false, false
	if !s.cancelled { // nothing undoes a cancel
		s.stop = nil
	}
	s.chooseAgain()
	for _, st := range s.current() {
		st.Tries, st.Begun = 0, r.Time
		if st.Status == report.StepFailed && (!st.Passed || all && !st.Optional) || st.Status == report.StepGivenUp {
			st.reset()
		}
	}
}

// chooseAgain lets an unplanned run that goes on fix the recovery points anew
// where machines have not got their disks yet: what was the newest point then may
// be thinned by now, and is not the newest any more.
func (s *State) chooseAgain() {
	if s.Type == recovery.Planned {
		return
	}
	open := slices.ContainsFunc(s.current(), func(st *Step) bool { return st.Kind == program.Prepare && !st.OK() })
	for _, st := range s.current() {
		if st.Kind == program.Points && st.Status == report.StepDone && open {
			st.reset()
		}
	}
}

// reset makes a step that ended badly pending again.
func (st *Step) reset() {
	st.Status, st.Retry, st.Asks, st.Passed, st.Reason = report.StepPending, time.Time{}, false, false, ""
	st.Begun = time.Time{}
}

func (s *State) applyStep(r Record) error {
	st := s.Steps[r.Step]
	if st == nil {
		return fault.Errorf(fault.Corrupt, "record %d names the unknown step %q", r.Seq, r.Step)
	}
	bad := func() error {
		return fault.Errorf(fault.Corrupt, "record %d (%s, attempt %d) does not fit step %q, which is %s at attempt %d",
			r.Seq, r.Kind, r.Attempt, r.Step, st.Status, st.Attempt)
	}
	switch r.Kind {
	case Started:
		if st.Status != report.StepPending || r.Attempt != st.Attempt+1 {
			return bad()
		}
		s.start(st, r)
		return nil
	case OpStarted, OpDone:
		return s.applyOp(st, r)
	case Asked:
		if st.Status != report.StepRunning || r.Attempt != st.Attempt || st.Kind != program.Action || r.Op == nil || r.Op.Ask == nil {
			return bad()
		}
		return s.applyAsked(st, r)
	}
	if st.Status != report.StepRunning && st.Status != report.StepWaiting || r.Attempt != st.Attempt {
		return bad()
	}
	if (r.Kind == Failed || r.Kind == Unknown) && r.Error == nil || r.Kind == TimedOut && st.Status != report.StepWaiting {
		return bad()
	}
	st.Ended, st.Error, st.Unclear, st.Decoded = r.Time, nil, false, nil
	switch r.Kind {
	case Done:
		st.Status, st.Data, st.Detail = report.StepDone, r.Data, r.Text
		st.OpNumber++
		s.mended(st)
	case Skipped:
		st.Status, st.Reason, st.Data = report.StepSkipped, r.Text, r.Data
	case Unknown:
		st.Status, st.Error, st.Diverged = report.StepUnknown, r.Error, r.Word == WordDiverged
	case TimedOut:
		s.timeout(st, r)
	case Failed:
		st.Data = r.Data
		s.fail(st, r)
	}
	return nil
}

func (s *State) start(st *Step, r Record) {
	st.Status, st.Attempt, st.Started, st.Ended = report.StepRunning, r.Attempt, r.Time, time.Time{}
	if st.Tries == 0 || st.Begun.IsZero() {
		st.Begun = r.Time
	}
	st.Tries++
	if st.First.IsZero() {
		st.First = r.Time
	}
	if st.OpNumber == 0 {
		st.OpNumber = 1
	}
	if st.Kind == program.Wait {
		st.Status = report.StepWaiting
	}
}

func (s *State) timeout(st *Step, r Record) {
	ask, _ := st.Question()
	if ask.OnTimeout == program.OnFailContinue {
		const said = "nobody answered in time; the plan says: continue"
		if st.reply(plans.Reply{Text: "nobody answered in time"}) {
			s.note(r.Time, st.ID, said)
			return
		}
		st.Status, st.Detail = report.StepDone, said
		return
	}
	s.fail(st, Record{Seq: r.Seq, Time: r.Time, Error: fault.Errorf(fault.Stopped, "nobody answered %q within %s", st.Plan.Name, ask.Within).
		WithHint("resume the run: it asks again")})
}

// fail decides what a failed attempt means: another attempt, a stop, a line
// in the list of errors, or a question.
func (s *State) fail(st *Step, r Record) {
	asked := st.Status == report.StepWaiting // what a person said is not tried again
	st.Error, st.Unclear = r.Error, r.Unclear
	if !r.Unclear {
		st.OpNumber++
		st.dropOps()
	}
	if r.Word == WordLeft && r.Unclear && (s.paused || s.cancelled) && slices.Contains(s.current(), st) {
		st.Status, st.Retry = report.StepPending, time.Time{}
		s.note(r.Time, st.ID, "left without an answer, it may have been done: "+r.Error.Message)
		return
	}
	again := r.Time.Add(st.Step.Retry.Every)
	if st.Tries <= st.Step.Retry.Times && again.Before(st.Begun.Add(st.Within)) && s.stop == nil && !asked {
		st.Status, st.Retry = report.StepPending, again
		s.note(r.Time, st.ID, fmt.Sprintf("attempt %d failed: %s", st.Attempt, r.Error.Message))
		return
	}
	st.Status = report.StepFailed
	switch {
	case !slices.Contains(s.current(), st): // of the planned run that this one was: nothing waits for it
		st.Passed = true
		s.note(r.Time, st.ID, "left behind: "+r.Error.Message)
	case st.Optional:
		st.Passed = true
		s.note(r.Time, st.ID, r.Error.Message)
	case r.Word == WordAsk:
		st.Asks = true
	case st.Kind == program.Preflight || st.Kind == program.Claim:
		s.refused = s.Section() == program.SectionFailover || s.Section() == program.SectionReverse
		s.stop = r.Error
		s.addError(st, r)
	case st.OnFail == program.OnFailContinue:
		st.Passed = true
		s.addError(st, r)
	case st.OnFail == program.OnFailAsk:
		st.Asks = true
	default:
		s.addError(st, r)
		if s.stop == nil {
			s.stop = r.Error
		}
	}
}

// mended takes the earlier errors of a step that is done now off the list;
// they stay on the timeline.
func (s *State) mended(st *Step) {
	s.Errors = slices.DeleteFunc(s.Errors, func(f report.Failure) bool {
		if f.Step != st.ID {
			return false
		}
		s.note(f.Time, st.ID, "failed before: "+f.Error.Message)
		return true
	})
}

func (s *State) addError(st *Step, r Record) {
	s.Errors = append(s.Errors, report.Failure{Time: r.Time, Step: st.ID, Machine: st.Machine, Error: r.Error, Pos: st.Pos})
	s.Errors = tail(s.Errors, MaxErrors)
}

func (s *State) note(at time.Time, step, text string) {
	s.Notes = tail(append(s.Notes, report.Note{Time: at, Step: step, Text: text}), MaxNotes)
}

// tail keeps the newest n.
func tail[T any](list []T, n int) []T {
	if len(list) > n {
		return slices.Clone(list[len(list)-n:])
	}
	return list
}

func (s *State) applyOp(st *Step, r Record) error {
	if r.Op == nil {
		return fault.Errorf(fault.Corrupt, "record %d has no operation", r.Seq)
	}
	if r.Kind == OpStarted {
		if r.Op.Seq != len(st.Ops)+1 {
			return fault.Errorf(fault.Corrupt, "record %d: operation %d of step %q follows %d", r.Seq, r.Op.Seq, st.ID, len(st.Ops))
		}
		op := *r.Op
		st.Ops = append(st.Ops, &op)
		return nil
	}
	if r.Op.Seq < 1 || r.Op.Seq > len(st.Ops) {
		return fault.Errorf(fault.Corrupt, "record %d: operation %d of step %q has not started", r.Seq, r.Op.Seq, st.ID)
	}
	op := st.Ops[r.Op.Seq-1]
	op.Result, op.Error, op.Spent = r.Op.Result, r.Op.Error, r.Op.Key == ""
	if op.Result == nil && op.Error == nil {
		op.Result = []byte("null")
	}
	if op.Set != "" && op.Error == nil {
		s.set(op.Set, op.Result)
	}
	return nil
}

func (s *State) set(name string, value json.RawMessage) {
	if string(value) == "null" {
		delete(s.Values, name)
		return
	}
	if s.Values == nil {
		s.Values = map[string]json.RawMessage{}
	}
	s.Values[name] = value
}

// applyAsked lets an action wait for a person: nothing of it runs until then.
func (s *State) applyAsked(st *Step, r Record) error {
	if err := s.applyOp(st, Record{Seq: r.Seq, Kind: OpStarted, Op: r.Op}); err != nil {
		return err
	}
	st.Ops[len(st.Ops)-1].asked = r.Time
	st.Status = report.StepWaiting
	return nil
}

// reply gives an action the answer to its question and lets it go on; false:
// the step is no action.
func (st *Step) reply(a plans.Reply) bool {
	op := st.openOp()
	if op == nil || op.Ask == nil {
		return false
	}
	raw, err := json.Marshal(a)
	if err != nil { // strings and a bool
		raw = []byte("null")
	}
	op.Result = raw
	st.goOn()
	return true
}

// Open reports whether an operation has started and has no result.
func (o *Op) Open() bool { return o.Result == nil && o.Error == nil }

func (s *State) applyAnswer(r Record) error {
	st := s.Steps[r.Step]
	if st == nil {
		return fault.Errorf(fault.Corrupt, "record %d answers the unknown step %q", r.Seq, r.Step)
	}
	if st.Status != report.StepWaiting && st.Status != report.StepUnknown && !(st.Status == report.StepFailed && st.Asks) && !s.passable(st) {
		return fault.Errorf(fault.Corrupt, "record %d answers step %q, which is %s", r.Seq, r.Step, st.Status)
	}
	s.Statements = append(s.Statements, report.Statement{Time: r.Time, By: r.By, What: "answer " + r.Step + ": " + r.Word, Text: r.Text})
	said := fmt.Sprintf("%s by %s", r.Word, r.By)
	if r.Text != "" {
		said += ": " + r.Text
	}
	switch {
	case st.Status == report.StepWaiting:
		if r.Word == Go && st.reply(plans.Reply{Go: true, By: r.By, Text: r.Text}) {
			return nil
		}
		st.Ended = r.Time
		if r.Word == Go {
			st.Status, st.Detail = report.StepDone, said
			s.mended(st)
			return nil
		}
		s.refuseWait(st, r, said)
	case st.Status == report.StepUnknown:
		s.outcome(st, r, said)
	default:
		s.decide(st, r, said)
	}
	return nil
}

func (s *State) refuseWait(st *Step, r Record, said string) {
	s.fail(st, Record{Seq: r.Seq, Time: r.Time, Error: fault.Errorf(fault.Stopped, "%q was answered: %s", st.Plan.Name, said).
		WithHint("resume the run (it asks again), or cancel it")})
}

// outcome takes a person's word for what an operation did.
func (s *State) outcome(st *Step, r Record, said string) {
	op := st.openOp()
	switch r.Word {
	case OutcomeDone:
		if op != nil { // the action goes on behind that operation
			op.Result = []byte("null")
			st.goOn()
			return
		}
		st.Status, st.Detail, st.Error, st.Ended = report.StepDone, said, nil, r.Time
		st.OpNumber++
		s.mended(st)
	case Again:
		if op != nil {
			st.Ops = st.Ops[:op.Seq-1]
			st.goOn()
			return
		}
		st.reset()
		st.Diverged = false
		st.dropOps()
		st.OpNumber++
	default:
		st.Status = report.StepFailed
		s.stop = fault.Errorf(fault.Stopped, "step %s: %s", st.ID, said).WithHint("resume the run: the step is tried again; or cancel it")
		s.addError(st, Record{Time: r.Time, Error: s.stop})
		st.Diverged = false
		st.dropOps()
		st.OpNumber++
	}
}

// goOn runs an action again up to the operation that a person decided about.
func (st *Step) goOn() {
	st.Status, st.Error, st.Begun = report.StepPending, nil, time.Time{} // a person's time is not its own
	st.Tries--
}

// openOp is the operation whose outcome is not known; nil after a divergence,
// where the whole step is decided about.
func (st *Step) openOp() *Op {
	if st.Diverged {
		return nil
	}
	for _, op := range st.Ops {
		if op.Open() {
			return op
		}
	}
	return nil
}

// decide ends a question about a failed step, or lets a run that it stopped go
// on: when nothing else has stopped it.
func (s *State) decide(st *Step, r Record, said string) {
	asked := st.Asks
	st.Asks = false
	if asked && r.Word != Again {
		s.addError(st, Record{Time: r.Time, Error: st.Error})
	}
	switch r.Word {
	case Again:
		st.reset()
		st.Tries = 0
	case Go:
		st.Passed = true
		s.note(r.Time, st.ID, "goes on without it: "+said)
	default:
		s.stop = st.Error
		return
	}
	held := func(st *Step) bool { return st.Status == report.StepFailed && !st.Passed && !st.Asks }
	if !s.cancelled && !slices.ContainsFunc(s.current(), held) {
		s.stop = nil
	}
}

func (s *State) applySection(r Record) error {
	if r.Program == nil {
		return fault.Errorf(fault.Corrupt, "record %d has no program", r.Seq)
	}
	// A test that did not come to its end has shown nothing.
	s.failed = s.failed || s.Type == recovery.Test && !s.cancelled && (len(s.Errors) > 0 || s.stop != nil || s.SectionEnd.IsZero())
	s.gone = s.gone || s.cancelled
	s.paused, s.handOver, s.stop, s.cancelled = false, false, nil, false
	s.note(r.Time, "", r.Program.Section+" by "+r.By)
	s.SectionEnd, s.windowOver = time.Time{}, false
	s.addProgram(r.Program)
	return nil
}
