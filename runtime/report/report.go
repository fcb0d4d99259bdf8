// Package report is what a runtime shows of its runs: the snapshots behind
// show, watch, runs and report, and their JSON. Words are snake_case, times
// RFC 3339 UTC, sizes bytes, durations seconds, as numbers.
//
// It is data only and decides nothing; values are snapshots that nobody
// changes after they were handed out. Fields are only added.
package report

import (
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// RunStatus is where a run stands.
type RunStatus string

// The statuses of a run.
const (
	RunPreflight   RunStatus = "preflight"   // looks and asks; nothing is changed yet
	RunRunning     RunStatus = "running"     // steps are under way
	RunWaiting     RunStatus = "waiting"     // a person is asked (see Waits)
	RunPaused      RunStatus = "paused"      // a person paused it; resume
	RunStopped     RunStatus = "stopped"     // an error, an answer or the end of the runtime stopped it; resume or cancel
	RunUncommitted RunStatus = "uncommitted" // failed over, or a test that stands: commit or cleanup comes next
	RunCommitted   RunStatus = "committed"   // failed over for good
	RunDone        RunStatus = "done"        // nothing is left to do
	RunFailed      RunStatus = "failed"      // ended without reaching its aim
	RunPartial     RunStatus = "partial"     // went to its end with errors; see Errors
	RunCancelled   RunStatus = "cancelled"   // a person cancelled it
	RunRefused     RunStatus = "refused"     // preflight said no; nothing was changed
	RunCleaning    RunStatus = "cleaning"    // a test is being removed
	RunRolledBack  RunStatus = "rolled-back" // the machines run at the old site again, on the disks they left there
	RunSuperseded  RunStatus = "superseded"  // another run took its uncommitted machines on
)

// Ended reports whether no step will run any more, whatever is called.
func (s RunStatus) Ended() bool {
	switch s {
	case RunCommitted, RunDone, RunFailed, RunCancelled, RunRefused, RunRolledBack, RunSuperseded:
		return true
	}
	return false
}

// Busy reports whether the run works by itself now; any other status stays
// until somebody calls for something.
func (s RunStatus) Busy() bool { return s == RunPreflight || s == RunRunning || s == RunCleaning }

// StepStatus is where a step stands.
type StepStatus string

// The statuses of a step.
const (
	StepPending StepStatus = "pending"  // its turn has not come
	StepRunning StepStatus = "running"  // started, no result yet
	StepDone    StepStatus = "done"     //
	StepFailed  StepStatus = "failed"   // see Error
	StepSkipped StepStatus = "skipped"  // a filter or the state of the machine; see Reason
	StepWaiting StepStatus = "waiting"  // for a person
	StepUnknown StepStatus = "unknown"  // nobody knows whether it was done: a person says done, again or abort
	StepGivenUp StepStatus = "given-up" // a step it needs failed; see Reason
)

// The operations that Run.Allowed names.
const (
	OpAnswer  = "answer"
	OpPause   = "pause"
	OpResume  = "resume"
	OpCancel  = "cancel"
	OpCommit  = "commit"
	OpCleanup = "cleanup"
	OpReverse = "reverse"

	OpRollback    = "rollback"
	OpChangePoint = "change-point"
)

// Kinds of a run.
const (
	KindFailover = "failover" // plan or machines; Type says which failover
	KindReverse  = "reverse"  // replicates back after a committed unplanned failover
)

// Run is a snapshot of one run.
type Run struct {
	ID          string         `json:"id"`
	Kind        string         `json:"kind"`
	Plan        string         `json:"plan"`
	Type        recovery.Type  `json:"type,omitempty"`
	Direction   string         `json:"direction,omitempty"` // failover, failback
	From        string         `json:"from,omitempty"`      // site
	To          string         `json:"to,omitempty"`        // site
	Point       string         `json:"point,omitempty"`     // selector
	StartedBy   string         `json:"started_by,omitempty"`
	Status      RunStatus      `json:"status"`
	Section     string         `json:"section"`          // failover, commit, cleanup, cancel, reverse, rollback, change-point
	Phase       string         `json:"phase,omitempty"`  // what it is at now
	Reason      string         `json:"reason,omitempty"` // why it stopped, waits, was refused, or that there is nothing to do
	Hint        string         `json:"hint,omitempty"`   // what to do next
	ExitCode    int            `json:"exit_code"`        // what a command that waits for this run exits with now
	Live        bool           `json:"live"`             // this runtime drives it now
	Created     time.Time      `json:"created"`
	Ended       time.Time      `json:"ended,omitzero"` // of the last section
	RTO         *Measure       `json:"rto,omitempty"`  // begin of the run → all machines ready
	RPO         *Measure       `json:"rpo,omitempty"`  // the largest loss of a machine
	Bundle      string         `json:"bundle,omitempty"`
	EstateHash  string         `json:"estate_hash,omitempty"`
	Machines    []Machine      `json:"machines,omitempty"`
	Steps       []Step         `json:"steps,omitempty"`
	Waits       []Wait         `json:"waits,omitempty"`
	Errors      []Failure      `json:"errors,omitempty"`
	Notes       []Note         `json:"notes,omitempty"`
	Statements  []Statement    `json:"statements,omitempty"` // what persons took the responsibility for
	Allowed     []string       `json:"allowed,omitzero"`     // operations that make sense now; not in lists of runs
	Params      map[string]any `json:"params,omitempty"`
	Uncommitted bool           `json:"uncommitted,omitempty"` // a commit is still to come, whatever Status says
}

// Measure is a measured objective against its aim. Seconds.
type Measure struct {
	Aim      float64 `json:"aim,omitempty"` // 0: none was set
	Measured float64 `json:"measured"`
	Met      bool    `json:"met"`
}

// Machine is one machine of a run.
type Machine struct {
	Name     string    `json:"name"`
	Group    string    `json:"group,omitempty"`
	FromHost string    `json:"from_host,omitempty"`
	ToHost   string    `json:"to_host,omitempty"`
	IP       string    `json:"ip,omitempty"`    // in this run
	State    string    `json:"state,omitempty"` // pending, skipped, stopped, granted, prepared, started, ready, failed
	Reason   string    `json:"reason,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`   // the record it has now
	Point    *Point    `json:"point,omitempty"`   // what it was recovered to
	Loss     *float64  `json:"loss,omitempty"`    // seconds: the point's instant to the stop of the source, or to the run's begin
	Found    *Found    `json:"found,omitempty"`   // reverse: what never left the old site
	Proof    *Proof    `json:"proof,omitempty"`   // planned: whether zero loss is proved
	Drained  int64     `json:"drained,omitempty"` // bytes of the final delta
	Stopped  time.Time `json:"stopped,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Ready    time.Time `json:"ready,omitzero"`
}

// Written is what a machine has written at the new site of an uncommitted
// failover: what a rollback takes from it and keeps as a point.
type Written struct {
	Machine string       `json:"machine"`
	Host    string       `json:"host"`
	Bytes   int64        `json:"bytes"`
	Blocks  int64        `json:"blocks"`
	Since   time.Time    `json:"since,omitzero"`  // when its disks were put in place
	Error   *fault.Error `json:"error,omitempty"` // why it is not known
}

// Point is the short form of a recovery point.
type Point struct {
	ID      string               `json:"id"`
	Seq     uint64               `json:"seq"`
	Instant time.Time            `json:"instant"`
	Kind    recovery.Consistency `json:"kind"`
	Labels  []string             `json:"labels,omitempty"`
	Suspect string               `json:"suspect,omitempty"`
	Disks   []PointDisk          `json:"disks,omitempty"`
}

// PointDisk is what a recovery point holds of one disk.
type PointDisk struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  string `json:"sum"` // of the whole disk, 16 hexadecimal digits
}

// Proof is what the read proof of a planned failover says.
type Proof struct {
	Proved bool   `json:"proved"`
	Bytes  int64  `json:"bytes,omitempty"` // read at each site
	Text   string `json:"text"`            // what was compared, or why it is not proved
}

// Found is what only the old site had.
type Found struct {
	Point  string    `json:"point"` // that keeps it; empty: it was discarded
	Bytes  int64     `json:"bytes"`
	Blocks int64     `json:"blocks"`
	Since  time.Time `json:"since,omitzero"`
	// Discarded: a person gave it up.
	Discarded bool `json:"discarded,omitempty"`
}

// Step is one step of a run, in program order.
type Step struct {
	Number   int          `json:"number"`
	ID       string       `json:"id"`
	Section  string       `json:"section"`
	Phase    string       `json:"phase"`
	Kind     string       `json:"kind"`
	Title    string       `json:"title"`
	Group    string       `json:"group,omitempty"`
	Machine  string       `json:"machine,omitempty"`
	Host     string       `json:"host,omitempty"`
	Status   StepStatus   `json:"status"`
	Reason   string       `json:"reason,omitempty"` // why skipped or given up
	Attempts int          `json:"attempts,omitempty"`
	Started  time.Time    `json:"started,omitzero"`
	Ended    time.Time    `json:"ended,omitzero"`
	Seconds  float64      `json:"seconds,omitempty"`
	Detail   string       `json:"detail,omitempty"` // one line of result
	Error    *fault.Error `json:"error,omitempty"`
	Progress *Progress    `json:"progress,omitempty"` // while running
	Pos      *plans.Pos   `json:"pos,omitempty"`      // where the plan says it
}

// Progress is work under way at an agent. Bytes.
type Progress struct {
	Phase string  `json:"phase"`
	Done  int64   `json:"done"`
	Total int64   `json:"total"`
	Rate  float64 `json:"rate,omitempty"` // bytes per second
}

// Wait is a question to a person.
type Wait struct {
	Step     string    `json:"step"` // the WAIT of answer
	Name     string    `json:"name"`
	Ask      string    `json:"ask"`
	Role     string    `json:"role,omitempty"`
	Answers  []string  `json:"answers"` // go, stop; done, again, abort
	Since    time.Time `json:"since"`
	Deadline time.Time `json:"deadline,omitzero"`
	Timeout  string    `json:"on_timeout,omitempty"` // stop, continue
}

// Failure is one error of a run.
type Failure struct {
	Time    time.Time    `json:"time"`
	Step    string       `json:"step"`
	Machine string       `json:"machine,omitempty"`
	Error   *fault.Error `json:"error"`
	Pos     *plans.Pos   `json:"pos,omitempty"`
}

// Note is one line of the timeline.
type Note struct {
	Time time.Time `json:"time"`
	Step string    `json:"step,omitempty"`
	Text string    `json:"text"`
}

// Statement is something a person answered for.
type Statement struct {
	Time time.Time `json:"time"`
	By   string    `json:"by"`
	What string    `json:"what"` // source-is-down, force, no-proof, answer …
	Text string    `json:"text,omitempty"`
}

// Kinds of events. There is one event for each journal record; what else it
// brought with it is set as well: Head whenever the run's status, section or
// reason changed, Step, Wait and Note where the record has one.
const (
	EventRun      = "run"      // the run as a whole
	EventStep     = "step"     // a step
	EventWait     = "wait"     // a person is asked
	EventNote     = "note"     // a line of the timeline
	EventEnd      = "end"      // nothing more happens by itself for now: see Head.Status
	EventProgress = "progress" // Step.Progress changed; not durable, Seq is that of the last record
)

// Event is one line of watch. Seq is the number of the journal record: asking
// for events after a Seq misses nothing.
type Event struct {
	Run  string    `json:"run"`
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	Text string    `json:"text,omitempty"` // the line for a person
	Head *Run      `json:"head,omitempty"` // without its lists
	Step *Step     `json:"step,omitempty"`
	Wait *Wait     `json:"wait,omitempty"`
	Note *Note     `json:"note,omitempty"`
}

// Listing is one numbered line of a program that was not started: explain and
// dry runs.
type Listing struct {
	Number  int        `json:"number"`
	ID      string     `json:"id"`
	Phase   string     `json:"phase"`
	Kind    string     `json:"kind"`
	Title   string     `json:"title"`
	Machine string     `json:"machine,omitempty"`
	Group   string     `json:"group,omitempty"`
	Depth   int        `json:"depth"`          // nesting: parallel branches are deeper
	Skip    string     `json:"skip,omitempty"` // why it would not run
	Note    string     `json:"note,omitempty"` // of a check: where it is asked; of a wait: what happens without an answer
	Pos     *plans.Pos `json:"pos,omitempty"`
	// Estimate is set where past runs tell.
	Estimate *StepEstimate `json:"estimate,omitempty"`
}

// StepEstimate is when a step is expected to begin and how long it takes.
// Seconds, from the begin of the run.
type StepEstimate struct {
	Begin  float64 `json:"begin"`
	Took   float64 `json:"took"`
	Source string  `json:"source,omitempty"` // where Took is known from; empty: nothing is known, it counts as nothing
	// Critical: the end of the run waits for it.
	Critical bool `json:"critical,omitempty"`
}

// Estimate is how long a run is expected to take, without what persons take to
// answer. Seconds.
type Estimate struct {
	Ready float64 `json:"ready,omitempty"` // until all machines are ready: compare with the plan's rto
	Ends  float64 `json:"ends"`            // until the last step has ended
	RTO   float64 `json:"rto,omitempty"`   // the aim; 0: none is set
}

// Explain is a program as it would run.
type Explain struct {
	Plan      string        `json:"plan"`
	Kind      string        `json:"kind"`
	Type      recovery.Type `json:"type,omitempty"`
	Direction string        `json:"direction,omitempty"`
	From      string        `json:"from,omitempty"`
	To        string        `json:"to,omitempty"`
	Nothing   string        `json:"nothing,omitempty"` // set: nothing to do, and why
	Steps     []Listing     `json:"steps"`
	Estimate  *Estimate     `json:"estimate,omitempty"` // nil: no run of the plan is on record
	// Preflight is what it would say now, in a dry run: what it overrides, and
	// why the run would be refused.
	Overridden []string     `json:"overridden,omitempty"`
	Refused    *fault.Error `json:"refused,omitempty"`
	Text       string       `json:"text"`              // the listing for a person
	Drawing    string       `json:"drawing,omitempty"` // as SVG, where it was asked for
}

// NotAllowed refuses an operation on a run that stands where it does, and says
// what is allowed there: fault.Refused.
func NotAllowed(run string, status RunStatus, allowed []string, op string) *fault.Error {
	now := "nothing"
	if len(allowed) > 0 {
		now = strings.Join(allowed, ", ")
	}
	return fault.Errorf(fault.Refused, "run %s is %s: %s is not possible", run, status, op).WithHint("allowed now: %s", now)
}
