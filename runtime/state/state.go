// Package state is the run as a pure machine: a State is the fold of the
// journal's records (Apply), and says what may start now (Next). Resuming a
// run is folding its journal again.
//
// It has no clock, no I/O and no goroutine; times come from the records. A
// State belongs to one goroutine.
package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// Limits of what a run keeps in memory and shows.
const (
	MaxNotes  = 500 // older ones are dropped from the snapshot; the journal keeps them
	MaxErrors = 500
)

// State is where a run stands after some records.
type State struct {
	Run  *Run          // nobody changes it: another takes its place
	Type recovery.Type // changes when a planned run goes on as unplanned
	// SeenRunning is when a machine was last seen running at its old site: what a
	// person stated of that site before does not hold any more.
	SeenRunning time.Time
	Seq         uint64 // last record
	Created     time.Time
	Changed     time.Time // time of the last record
	SectionEnd  time.Time // when the current section was through
	Fence       ident.Fence
	Resumes     int
	ResumedAt   time.Time          // last Created or Resumed
	TurnedAt    time.Time          // when it went on as another type; zero: it did not
	Programs    []*program.Program // sections, in order; the last is current
	Steps       map[string]*Step
	Status      report.RunStatus
	Reason      string
	Hint        string
	Errors      []report.Failure
	Notes       []report.Note
	Statements  []report.Statement
	Values      map[string]json.RawMessage // what actions keep for each other

	ordered  []*Step            // steps of all sections
	inForce  []*Step            // steps of the current section
	of       map[string][]*Step // by machine
	points   []*Step            // that fix recovery points
	names    []string           // of the machines that are not skipped
	machines map[string]*program.Machine
	all      tally // of all steps
	now      tally // of those in force
	tree     node  // the program in force

	paused    bool
	handOver  bool // paused, but by nobody: see WordHandOver
	cancelled bool
	stop      *fault.Error // why no further step starts
	refused   bool
	failed    bool // a test that was cleaned up after an error
	gone      bool // cancelled, and what is left of it taken back

	windowOver bool   // the commit window ended and nothing was done by itself
	superseded string // the run that took the machines on
}

// Step is the progress of one step.
type Step struct {
	*program.Step
	Section  string
	Status   report.StepStatus
	Attempt  int // 1 for the first; 0: not started
	OpNumber int // part of the operation id: stays when the outcome of an attempt is not clear
	Tries    int // attempts since the last resume
	Started  time.Time
	First    time.Time // start of the first attempt
	Begun    time.Time // start of the first of Tries: Within counts from it
	Ended    time.Time
	Retry    time.Time // not before
	Detail   string
	Reason   string
	Data     json.RawMessage
	Error    *fault.Error
	Ops      []*Op
	Kept     []KeptKey // of earlier attempts, in the order of their first use
	// Asks is set while a person decides about a failed step (on_fail = "ask").
	Asks bool
	// Diverged is set with StepUnknown when a replay made another call.
	Diverged bool
	// Passed says that a failure does not hold the run up any more.
	Passed bool
	// Unclear says that the last attempt failed and may have been done.
	Unclear bool
	// Leased says that the step ended the renewals of its machine's lease.
	Leased bool

	// Number is its place among the steps of all sections, from 1; 0: of the planned
	// run only that this one was.
	Number int
	// Decoded is for what the engine has read from Data, once; it goes with Data.
	Decoded any

	counted class
	listed  bool    // it is of a section of the run
	inForce bool    // it is of the section in force
	parts   []*node // of the program in force, that a change of it concerns
}

// Settled reports whether the step holds nothing up any more.
func (s *Step) Settled() bool {
	switch s.Status {
	case report.StepDone, report.StepSkipped, report.StepGivenUp:
		return true
	case report.StepFailed:
		return s.Passed
	}
	return false
}

// OK reports whether what needs the step may run.
func (s *Step) OK() bool {
	return s.Status == report.StepDone || s.Status == report.StepSkipped
}

// New folds records into a state. The first record must be Created.
func New(records []Record) (*State, error) {
	s := &State{Steps: map[string]*Step{}}
	for _, r := range records {
		if err := s.Apply(r); err != nil {
			return nil, err
		}
	}
	if s.Seq == 0 {
		return nil, fault.Errorf(fault.Corrupt, "a run without records")
	}
	return s, nil
}

// Program is the current section.
func (s *State) Program() *program.Program { return s.Programs[len(s.Programs)-1] }

// Main is the section the run was started for.
func (s *State) Main() *program.Program { return s.Programs[0] }

// Section names the current section.
func (s *State) Section() string { return s.Program().Section }

// HasSection reports whether a section has begun.
func (s *State) HasSection(name string) bool {
	return slices.ContainsFunc(s.Programs, func(p *program.Program) bool { return p.Section == name })
}

// Ordered returns the steps of all sections in program order. It is called for
// every record: the list belongs to the state, and nobody changes it.
func (s *State) Ordered() []*Step { return s.ordered }

// current returns the steps of the current section.
func (s *State) current() []*Step { return s.inForce }

// list makes both lists anew, after the programs have changed.
func (s *State) list() {
	s.ordered, s.inForce = nil, nil
	seen := map[string]bool{}
	for i, p := range s.Programs {
		for _, ps := range p.Steps() {
			st := s.Steps[ps.ID]
			if i == len(s.Programs)-1 {
				s.inForce = append(s.inForce, st)
			}
			if !seen[ps.ID] {
				seen[ps.ID] = true
				s.ordered = append(s.ordered, st)
			}
		}
	}
	s.of, s.points = map[string][]*Step{}, nil
	for _, st := range s.Steps {
		st.Number, st.parts = 0, nil
	}
	for i, st := range s.ordered {
		st.Number = i + 1
		s.of[st.Machine] = append(s.of[st.Machine], st)
		if st.Kind == program.Points {
			s.points = append(s.points, st)
		}
	}
	s.names, s.machines = nil, make(map[string]*program.Machine, len(s.Main().Machines))
	for i := range s.Main().Machines {
		m := &s.Main().Machines[i]
		s.machines[m.Name] = m
		if m.Skip == "" {
			s.names = append(s.names, m.Name)
		}
	}
	s.tree = s.plant(&s.Program().Root)
	s.tree.link(nil, 0)
	s.recountAll()
}

// InForce reports whether a step is of the section that is under way.
func (s *State) InForce(st *Step) bool { return st.inForce }

// Machine returns a machine of the run, as its main program has it.
func (s *State) Machine(name string) (program.Machine, bool) {
	if m := s.machines[name]; m != nil {
		return *m, true
	}
	return program.Machine{}, false
}

// Machines returns the machines of the run by name, as its main program has them.
// The map and they belong to the state and are never changed: another takes its
// place.
func (s *State) Machines() map[string]*program.Machine { return s.machines }

// Names returns the machines that the run does not skip. The list belongs to the
// state.
func (s *State) Names() []string { return s.names }

// Of returns the steps of a machine, of all sections, in program order. The list
// belongs to the state.
func (s *State) Of(machine string) []*Step { return s.of[machine] }

// Points returns the steps that fix the recovery points of the machines, of all
// sections, in program order. The list belongs to the state.
func (s *State) Points() []*Step { return s.points }

// Running returns the steps that have started and have no result.
func (s *State) Running() []*Step {
	var out []*Step
	if s.all.of(classRunning) == 0 {
		return nil
	}
	for _, st := range s.Ordered() {
		if st.Status == report.StepRunning {
			out = append(out, st)
		}
	}
	return out
}

func (s *State) addProgram(p *program.Program) {
	s.Programs = append(s.Programs, p)
	s.Type = typeOf(p)
	s.addSteps(p)
}

func (s *State) addSteps(p *program.Program) {
	steps := p.Steps()
	fresh := make([]Step, 0, len(steps)) // side by side: of a large plan there are 100,000
	for _, ps := range steps {
		if old := s.Steps[ps.ID]; old != nil { // the same step under another rule
			switch old.Step = ps; {
			case ps.Skip != "" && old.Status == report.StepPending && !old.Unclear:
				old.Status, old.Reason = report.StepSkipped, ps.Skip
			case old.Status == report.StepFailed, old.Status == report.StepGivenUp:
				old.reset()
			}
			continue
		}
		fresh = append(fresh, Step{Step: ps, Section: p.Section, Status: report.StepPending})
		st := &fresh[len(fresh)-1]
		if ps.Skip != "" {
			st.Status, st.Reason = report.StepSkipped, ps.Skip
		}
		s.Steps[ps.ID] = st
	}
	s.list()
}

// unskip lets the steps run that only the program in force has for this type,
// where the run has not passed them yet: where it stands it goes on as the new
// type. It reports whether anything of n has begun.
func (s *State) unskip(n *program.Node, passed bool) (begun bool) {
	if n.Step != nil {
		st := s.Steps[n.Step.ID]
		if st.Status == report.StepSkipped && st.Attempt == 0 && n.Step.Skip == "" && !passed {
			st.Status, st.Reason = report.StepPending, ""
		}
		return st.Attempt > 0
	}
	for i := range n.Seq {
		at := len(n.Seq) - 1 - i
		begun = s.unskip(&n.Seq[at], passed || begun) || begun
	}
	for i := range n.Par {
		begun = s.unskip(&n.Par[i], passed) || begun
	}
	return begun
}

// Uncommitted reports whether a commit is still to come: at least one machine
// has been granted to the new site and not been committed.
func (s *State) Uncommitted() bool {
	if s.Type == recovery.Test || s.Main().Section != program.SectionFailover || s.Status == report.RunRolledBack || s.superseded != "" {
		return false
	}
	return s.AnyGranted() && !s.committed()
}

func (s *State) committed() bool {
	switch {
	case s.Section() == program.SectionCommit: // nothing comes behind it
		return s.now.of(classOpen) == 0
	case !s.HasSection(program.SectionCommit):
		return false
	}
	for _, st := range s.Ordered() {
		if st.Section == program.SectionCommit && !st.Settled() {
			return false
		}
	}
	return true
}

// SupersededBy is the run that took the machines on; "": none.
func (s *State) SupersededBy() string { return s.superseded }

// passable reports whether a person may let a stopped run go on without a step
// that failed: one of the plan, or that a machine is ready.
func (s *State) passable(st *Step) bool {
	if s.Status != report.RunStopped || st.Status != report.StepFailed || st.Passed {
		return false
	}
	switch st.Kind {
	case program.Ready, program.Running:
		return true
	case program.Proof: // disks that differ are no question of opinion
		return st.Error != nil && st.Error.Kind != fault.Corrupt
	}
	return st.Plan != nil
}

// Passable returns the steps that hold a stopped run up and that a person may
// pass over.
func (s *State) Passable() []*Step {
	var out []*Step
	for _, st := range s.current() {
		if s.passable(st) {
			out = append(out, st)
		}
	}
	return out
}

// PlanStepsDone names the steps of the plan that ran programs or actions.
func (s *State) PlanStepsDone() []string {
	var out []string
	for _, st := range s.Ordered() {
		if (st.Kind == program.Exec || st.Kind == program.Action) && st.Status == report.StepDone && st.Plan.Rollback == "" {
			out = append(out, fmt.Sprintf("%q", st.Plan.Name))
		}
	}
	return out
}

// HandedOver reports whether the run is paused only because its controller
// ended: the next one goes on with it.
func (s *State) HandedOver() bool { return s.Status == report.RunPaused && s.handOver }

// Open returns the steps of the current section that put a question to a
// person.
func (s *State) Open() []*Step {
	var out []*Step
	if s.Status.Ended() || s.now.of(classWaiting)+s.now.of(classUnknown) == 0 {
		return nil
	}
	for _, st := range s.current() {
		if st.Status == report.StepWaiting || st.Status == report.StepUnknown || st.Asks {
			out = append(out, st)
		}
	}
	return out
}

// Deadline is when a manual wait ends by itself; zero: never. The time begins
// again with every process that takes the run over.
func (s *State) Deadline(st *Step) time.Time {
	q, since := st.Question()
	if st.Status != report.StepWaiting || q.Within <= 0 {
		return time.Time{}
	}
	return later(since, s.ResumedAt).Add(q.Within)
}

// Question is what a step that waits asks a person, and since when: a wait
// itself, or an action.
func (s *Step) Question() (q plans.Question, since time.Time) {
	switch op := s.openOp(); {
	case op != nil && op.Ask != nil:
		return *op.Ask, op.asked
	case s.Plan != nil && s.Plan.Wait != nil:
		return plans.Question{WaitStep: *s.Plan.Wait, Within: s.Within}, s.Started
	}
	return plans.Question{}, s.Started
}

// Allowed lists the operations that make sense now; live says that a runtime
// drives the run.
func (s *State) Allowed(live bool) []string {
	var ops []string
	add := func(when bool, op string) {
		if when {
			ops = append(ops, op)
		}
	}
	open := !s.Status.Ended()
	test := s.Type == recovery.Test
	section := s.Section()
	standing := s.Status == report.RunUncommitted || s.Status == report.RunPartial
	add(s.Status == report.RunWaiting || len(s.Passable()) > 0, report.OpAnswer)
	add(open && live && (s.Status.Busy() || s.Status == report.RunWaiting), report.OpPause)
	orphan := open && !live && (!standing || s.Follow() != "")
	add(s.Status == report.RunPaused || s.Status == report.RunStopped || orphan || s.Retryable(), report.OpResume)
	add(s.Cancellable(), report.OpCancel)
	add(standing && !test && s.Uncommitted(), report.OpCommit)
	add(s.Rollbackable(), report.OpRollback)
	add(s.PointChangeable(), report.OpChangePoint)
	add(open && test && !s.Status.Busy() && (section != program.SectionCleanup || s.Status == report.RunStopped), report.OpCleanup)
	add(s.Status == report.RunCommitted && s.Type == recovery.Unplanned, report.OpReverse)
	return ops
}

// Retryable reports whether a real failover, or the cancel of one, went to its
// end with errors and machines stand at the new site: resume tries again what
// failed.
func (s *State) Retryable() bool {
	if s.Status != report.RunPartial || s.Type == recovery.Test {
		return false
	}
	switch s.Section() {
	case program.SectionFailover:
		return true
	case program.SectionCancel, program.SectionPoint:
		return s.sectionErrors() > 0
	}
	return false
}

// sweeps reports whether the current section is one whose resume tries all of
// it again that failed.
func (s *State) sweeps() bool {
	return s.Section() == program.SectionCleanup || s.Section() == program.SectionRollback || s.Section() == program.SectionPoint
}

// resting reports whether the run does nothing by itself and knows the outcome
// of all it did, so that a person may turn it.
func (s *State) resting() bool {
	switch s.Status {
	case report.RunUncommitted, report.RunPartial, report.RunStopped, report.RunPaused, report.RunWaiting:
	default:
		return false
	}
	unknown := func(st *Step) bool { return st.Status == report.StepUnknown }
	return !s.cancelled && s.Type != recovery.Test && s.Main().Section == program.SectionFailover && !slices.ContainsFunc(s.current(), unknown)
}

// Rollbackable reports whether the failover can be taken back: until its
// commit, from wherever it rests, if it has touched a machine.
func (s *State) Rollbackable() bool {
	switch s.Section() {
	case program.SectionFailover, program.SectionPoint, program.SectionCancel:
	default:
		return false
	}
	return s.resting() && len(s.Granted())+len(s.Held()) > 0 && s.Run.Supersedes == "" // the site before it is lost
}

// PointChangeable reports whether the machines of the run can be put on another
// recovery point: after an unplanned failover, until its commit.
func (s *State) PointChangeable() bool {
	if s.Type != recovery.Unplanned || !s.resting() || len(s.Granted()) == 0 {
		return false
	}
	switch s.Section() {
	case program.SectionFailover:
		return s.Status == report.RunUncommitted || s.Status == report.RunPartial
	case program.SectionPoint:
		return true
	}
	return false
}

// Cancellable reports whether a cancel has something to end: the run itself, or,
// after it went to its end with errors, machines that were stopped and not
// failed over.
func (s *State) Cancellable() bool {
	section := s.Section()
	if s.Status.Ended() || s.cancelled || section != program.SectionFailover && section != program.SectionReverse {
		return false
	}
	return s.SectionEnd.IsZero() || s.Retryable() && (len(s.Held()) > 0 || !s.Uncommitted())
}

// Follow names the section that begins by itself now: what a cancel takes
// back, a commit or a cleanup that was asked for beforehand; or "".
func (s *State) Follow() string {
	if s.all.of(classRunning) > 0 || s.Status == report.RunRefused {
		return ""
	}
	test, p := s.Type == recovery.Test, s.Program()
	first := p.Section == program.SectionFailover || p.Section == program.SectionReverse
	switch {
	case !first:
	case s.cancelled && test:
		return program.SectionCleanup
	case s.cancelled:
		return program.SectionCancel
	case test && s.Run.Cleanup && (s.Status == report.RunUncommitted || s.Status == report.RunPartial || s.Status == report.RunStopped):
		return program.SectionCleanup
	case !test && s.Status == report.RunUncommitted && s.Run.Commit.Mode == "auto":
		return program.SectionCommit
	}
	return ""
}
