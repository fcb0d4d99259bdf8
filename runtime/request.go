package runtime

import (
	"context"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Catalogue is the applied estate as the engine needs it. Errors are
// fault.NotFound where something was not applied.
type Catalogue interface {
	// AppliedEstate returns the estate and its revision.
	AppliedEstate(ctx context.Context) (*plans.Estate, uint64, error)
	// AppliedPlan returns the sources of a plan.
	AppliedPlan(ctx context.Context, name string) (plans.Bundle, error)
	// Assignment returns what the agents of a machine were given.
	Assignment(ctx context.Context, machine string) (recovery.Assignment, error)
}

// Scripts loads plans and runs their functions.
type Scripts interface {
	// LoadPlan evaluates a plan; the error holds all mistakes at once. With a
	// set that is not nil every parameter that is required needs a value.
	LoadPlan(b plans.Bundle, set map[string]string) (*plans.Plan, error)
	// RunFunc runs a function of a plan's bundle. ok is what a check answered
	// (true for an action that ended well), detail one line about it. An error of
	// kind Failed is the function's own; a check is not asked again after it.
	RunFunc(ctx context.Context, b plans.Bundle, ref plans.FuncRef, info plans.RunInfo, host plans.HostCalls) (ok bool, detail string, err error)
}

// Runner runs programs on the controller's own machine.
type Runner interface {
	// Run returns the exit code and the tail of the output. An error means that
	// the program did not start, or was ended by ctx.
	Run(ctx context.Context, argv, env []string) (exit int, output string, err error)
}

// Request asks for a failover. One of Plan, Bundle and Machines is set.
type Request struct {
	Plan     string            `json:"plan,omitempty"`     // an applied plan
	Bundle   *plans.Bundle     `json:"bundle,omitempty"`   // a plan as it was read
	Machines []string          `json:"machines,omitempty"` // as a plan of one group
	Type     recovery.Type     `json:"type"`
	Failback bool              `json:"failback,omitempty"`
	Point    string            `json:"point,omitempty"` // selector; empty: the plan's, then latest
	Set      map[string]string `json:"set,omitempty"`   // params
	// Commit commits a real run at once when it ended without errors.
	Commit bool `json:"commit,omitempty"`
	// Cleanup removes a test when it has ended, well or not.
	Cleanup bool `json:"cleanup,omitempty"`
	// TTL is how long a test may stand; 0: until a person cleans it up.
	TTL time.Duration `json:"ttl,omitempty"`
	// NoShutdown leaves the source machines of an unplanned run alone.
	NoShutdown bool `json:"no_shutdown,omitempty"`
	// SourceIsDown is By's word that the source site is down or isolated.
	SourceIsDown bool `json:"source_is_down,omitempty"`
	// Force overrides what preflight lists as overridable.
	Force   bool `json:"force,omitempty"`
	NoProof bool `json:"no_proof,omitempty"`
	// Unattended answers waits as the plan says for drills.
	Unattended bool `json:"unattended,omitempty"`
	// DryRun lets Explain look at the machines as preflight does; Start ignores
	// it.
	DryRun bool `json:"dry_run,omitempty"`
	// Drawing lets Explain draw the run as SVG.
	Drawing bool `json:"drawing,omitempty"`
	// By names who asks, for the records.
	By string `json:"by,omitempty"`
	// ID makes starting idempotent: a second start with the same id is refused
	// (fault.Conflict). Empty: the engine chooses one.
	ID string `json:"id,omitempty"`
}

// ResumeOptions says how a run goes on.
type ResumeOptions struct {
	// As unplanned turns a planned run whose source died.
	As           recovery.Type `json:"as,omitempty"`
	SourceIsDown bool          `json:"source_is_down,omitempty"`
	By           string        `json:"by,omitempty"`
}

// Answer is a person's answer to a run.
type Answer struct {
	Step string `json:"step,omitempty"` // id or name of the wait; empty: the only one there is
	Word string `json:"word"`           // go, stop; done, again, abort; source-is-down, target-is-down
	Text string `json:"text,omitempty"`
	By   string `json:"by,omitempty"`
}

// SourceIsDown answers a right-to-run question: By states that the source site
// is down or isolated.
const SourceIsDown = "source-is-down"

// TargetIsDown answers the question of a cancel or a rollback whether a machine
// may be given back: By states that the target site is down or isolated.
const TargetIsDown = "target-is-down"

// ReverseRequest asks for replication back after a committed unplanned
// failover, for the machines of a plan or some machines.
type ReverseRequest struct {
	Plan     string        `json:"plan,omitempty"` // an applied plan
	Bundle   *plans.Bundle `json:"bundle,omitempty"`
	Machines []string      `json:"machines,omitempty"`
	// Discard names the machines of which By gives up what only the old site
	// has: it is counted, and no point "as found" is kept.
	Discard []string `json:"discard,omitempty"`
	By      string   `json:"by,omitempty"`
	ID      string   `json:"id,omitempty"`
}

func (r *Request) check() error {
	bad := func(format string, args ...any) error { return fault.Errorf(fault.Invalid, format, args...) }
	set := 0
	for _, has := range []bool{r.Plan != "", r.Bundle != nil, len(r.Machines) > 0} {
		if has {
			set++
		}
	}
	switch {
	case set != 1:
		return bad("a run is of one plan, or of some machines")
	case r.Type != recovery.Planned && r.Type != recovery.Unplanned && r.Type != recovery.Test:
		return bad("a run is one of --planned, --unplanned and --test")
	case r.Type == recovery.Planned && !recovery.Drains(r.Point):
		return bad("a planned failover takes what the source has: --point goes with --unplanned and --test").(*fault.Error).WithHint("leave --point out, or choose --test to look at an older point")
	case r.Type == recovery.Test && (r.Commit || r.SourceIsDown || r.NoShutdown):
		return bad("--commit, --source-is-down and --no-shutdown are not for a test: it changes neither site")
	case r.Type == recovery.Planned && (r.SourceIsDown || r.NoShutdown):
		return bad("--source-is-down and --no-shutdown go with --unplanned")
	case r.Type != recovery.Planned && r.NoProof:
		return bad("--no-proof goes with --planned: only there is the source still to be read")
	case r.Type != recovery.Test && r.Cleanup:
		return bad("--cleanup goes with --test")
	case r.Type != recovery.Test && r.TTL != 0:
		return bad("--ttl goes with --test: a real failover has its commit window")
	case r.TTL < 0:
		return bad("--ttl %s: a test cannot end before it begins", r.TTL)
	}
	if r.ID != "" {
		if err := ident.CheckName(r.ID); err != nil {
			return bad("run id: %w", err)
		}
	}
	return nil
}
