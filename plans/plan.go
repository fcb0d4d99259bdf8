package plans

import (
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// Pos is a place in a plan or estate file, 1-based.
type Pos struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// Plan is a recovery plan.
type Plan struct {
	Name     string         `json:"name"`
	From     string         `json:"from"` // site
	To       string         `json:"to"`   // site
	RTO      time.Duration  `json:"rto,omitempty"`
	RPO      time.Duration  `json:"rpo,omitempty"`
	Point    string         `json:"point,omitempty"` // selector; empty: latest
	Commit   CommitPolicy   `json:"commit"`
	Drill    *Drill         `json:"drill,omitempty"`
	Params   map[string]any `json:"params,omitempty"` // values after --set
	Shutdown Shutdown       `json:"shutdown"`
	Failover Phase          `json:"failover"`
	Items    []Item         `json:"items"`             // in order
	Secrets  map[string]Pos `json:"secrets,omitempty"` // names its functions open, with their first place
	Machines map[string]Pos `json:"-"`                 // that its functions name, with their first place; only of a plan just loaded
	Pos      Pos            `json:"pos"`
}

// CommitPolicy says when a failover is committed.
type CommitPolicy struct {
	Mode      string        `json:"mode"`                 // manual (default), auto, window
	Within    time.Duration `json:"within,omitempty"`     // window
	OnTimeout string        `json:"on_timeout,omitempty"` // commit or rollback
}

// Drill schedules unattended test failovers of the plan.
type Drill struct {
	Cron     string        `json:"cron,omitempty"`
	On       string        `json:"on,omitempty"` // "first sunday"
	TZ       string        `json:"tz,omitempty"`
	Point    string        `json:"point,omitempty"`
	TTL      time.Duration `json:"ttl,omitempty"`
	Missed   string        `json:"missed,omitempty"`  // skip, once
	Overlap  string        `json:"overlap,omitempty"` // skip, queue
	Deadline time.Duration `json:"deadline,omitempty"`
	Jitter   time.Duration `json:"jitter,omitempty"`
	Blackout []string      `json:"blackout,omitempty"`
	Pos      Pos           `json:"pos"`
}

// Phase is the actions around a phase.
type Phase struct {
	Before []Step `json:"before,omitempty"`
	After  []Step `json:"after,omitempty"`
}

// Shutdown is the phase that stops the source machines.
type Shutdown struct {
	Phase
	// ForceAfter allows a forced stop after this time; 0: never forced.
	ForceAfter time.Duration `json:"force_after,omitempty"`
}

// Item is one thing on the plan's page: exactly one field is set.
type Item struct {
	Group *Group `json:"group,omitempty"`
	Wait  *Step  `json:"wait,omitempty"`
}

// Group is an ordered set of machines that start together.
type Group struct {
	Name     string        `json:"name"`
	Phase                  // before all its machines start, after all are ready
	Machines []MachineRef  `json:"machines"` // tag selectors too; see Resolve
	Parallel int           `json:"parallel,omitempty"`
	Delay    time.Duration `json:"delay,omitempty"`
	Pos      Pos           `json:"pos"`
}

// MachineRef names one machine, or selects machines by tag (Tag set).
type MachineRef struct {
	Name   string   `json:"name,omitempty"`
	Tag    string   `json:"tag,omitempty"`
	Except []string `json:"except,omitempty"`
	Phase
	Needs []string      `json:"needs,omitempty"` // machines of the same group that must be ready first
	Delay time.Duration `json:"delay,omitempty"`
	Pos   Pos           `json:"pos"`
}

// StepKind is the kind of a step.
type StepKind string

// The kinds of step a plan can hold.
const (
	StepExec   StepKind = "exec"
	StepCheck  StepKind = "check"
	StepWait   StepKind = "wait"
	StepAction StepKind = "action"
)

// Retry repeats a failed step.
type Retry struct {
	Times int           `json:"times,omitempty"`
	Every time.Duration `json:"every,omitempty"`
}

// Step is one action, check or wait. Exactly one of Exec, Check, Wait and
// Action is set, as Kind says.
type Step struct {
	Kind      StepKind        `json:"kind"`
	Name      string          `json:"name"`
	Within    time.Duration   `json:"within"` // the whole step with its retries; default 5m
	Retry     Retry           `json:"retry"`
	OnFail    string          `json:"on_fail,omitempty"` // stop, continue, ask; empty: the type's rule
	Only      []recovery.Type `json:"only,omitempty"`    // empty and no Skip: every type
	Skip      []recovery.Type `json:"skip,omitempty"`
	Direction string          `json:"direction,omitempty"` // failover, failback
	At        string          `json:"at,omitempty"`        // source, target
	// Rollback "again" runs an exec or action that was done once more when a
	// rollback has started the machines at their old site.
	Rollback string     `json:"rollback,omitempty"`
	Exec     *ExecStep  `json:"exec,omitempty"`
	Check    *CheckStep `json:"check,omitempty"`
	Wait     *WaitStep  `json:"wait,omitempty"`
	Action   *FuncRef   `json:"action,omitempty"`
	Pos      Pos        `json:"pos"`
}

// ExecStep runs a program.
type ExecStep struct {
	Cmd []string `json:"cmd,omitempty"` // never a shell
	Sh  string   `json:"sh,omitempty"`  // by sh -c
	On  string   `json:"on,omitempty"`  // machine (the host that runs it) or host; empty: the controller
}

// CheckStep asks a question until it is answered well; Func instead is a Lua
// function.
type CheckStep struct {
	recovery.Check
	Func *FuncRef `json:"func,omitempty"`
}

// WaitStep waits for a person.
type WaitStep struct {
	Ask        string `json:"ask"`
	Role       string `json:"role,omitempty"`
	OnTimeout  string `json:"on_timeout,omitempty"` // stop (default), continue
	Unattended string `json:"unattended,omitempty"` // go, stop: the answer in a drill
	Untimed    bool   `json:"-"`                    // the page says no within; only of a plan just loaded
}

// FuncRef names a Lua function of the plan's bundle: it is found again by its
// position among the functions of the plan, in order of the page.
type FuncRef struct {
	Index int `json:"index"`
	Pos   Pos `json:"pos"`
}
