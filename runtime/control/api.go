package control

import (
	"context"
	"iter"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// Info is who serves the socket.
type Info struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	State   string `json:"state"` // folder
	// Embedded says that the runtime lives only as long as one command.
	Embedded bool `json:"embedded"`
	// Drives says that the command drives runs and takes in those of others;
	// an embedded runtime that does not is gone in a moment.
	Drives bool `json:"drives,omitempty"`
}

// StartRequest asks for a run of a plan: one that comes with the request, one
// that is applied, or single machines as a plan of one group.
type StartRequest struct {
	Bundle       *plans.Bundle     `json:"bundle,omitempty"`
	Plan         string            `json:"plan,omitempty"`
	Machines     []string          `json:"machines,omitempty"`
	Type         recovery.Type     `json:"type"`
	Failback     bool              `json:"failback,omitempty"`
	Point        string            `json:"point,omitempty"` // selector; empty: the plan's
	Set          map[string]string `json:"set,omitempty"`   // parameters of the plan
	Commit       bool              `json:"commit,omitempty"`
	NoShutdown   bool              `json:"no_shutdown,omitempty"`
	SourceIsDown bool              `json:"source_is_down,omitempty"` // By answers for it
	Force        bool              `json:"force,omitempty"`
	NoProof      bool              `json:"no_proof,omitempty"`
	TTL          time.Duration     `json:"ttl,omitempty"` // of a test
	// DryRun, in Explain, asks the agents as preflight does.
	DryRun bool `json:"dry_run,omitempty"`
	// Drawing, in Explain, asks for the run as SVG.
	Drawing bool   `json:"drawing,omitempty"`
	By      string `json:"by"`
}

// RunRequest names a run, and who asks.
type RunRequest struct {
	Run string `json:"run"`
	By  string `json:"by,omitempty"`
	// As "unplanned" lets a planned run whose source died go on (resume).
	As           string `json:"as,omitempty"`
	SourceIsDown bool   `json:"source_is_down,omitempty"` // with As: By answers for it
	Point        string `json:"point,omitempty"`          // selector (change-point)
}

// WrittenResult is what the machines of an uncommitted failover have written at
// the new site.
type WrittenResult struct {
	Machines []report.Written `json:"machines"`
}

// AnswerRequest answers a wait or decides an unknown outcome.
type AnswerRequest struct {
	Run    string `json:"run"`
	Wait   string `json:"wait,omitempty"` // step; empty: the only one that waits
	Answer string `json:"answer"`         // go, stop; done, again, abort
	Text   string `json:"text,omitempty"`
	By     string `json:"by"`
}

// ReverseRequest replicates back after a committed unplanned failover.
type ReverseRequest struct {
	Plan     string        `json:"plan,omitempty"`
	Bundle   *plans.Bundle `json:"bundle,omitempty"`
	Machines []string      `json:"machines,omitempty"`
	Discard  []string      `json:"discard,omitempty"` // machines: By gives up what only the old site has
	By       string        `json:"by"`
}

// RunsResult lists runs, the newest last, without their steps.
type RunsResult struct {
	Runs []report.Run `json:"runs"`
}

// MachineRequest names one machine, or all when empty.
type MachineRequest struct {
	Machine string `json:"machine,omitempty"`
}

// PointsResult is a machine's recovery points by host.
type PointsResult struct {
	Machine string              `json:"machine"`
	Hosts   []estate.HostPoints `json:"hosts"`
}

// VerifyRequest reads points whole; a zero point means all of them.
type VerifyRequest struct {
	Machine string        `json:"machine"`
	Point   ident.PointID `json:"point"`
}

// VerifyResult is what was found, by host.
type VerifyResult struct {
	Hosts map[string]command.VerifyResult `json:"hosts"`
}

// HoldRequest holds a point, or releases it.
type HoldRequest = command.HoldRequest

// HoldResult is a held or released point, by host.
type HoldResult struct {
	Hosts map[string]recovery.Point `json:"hosts"`
}

// UnprotectRequest ends the protection of a machine.
type UnprotectRequest struct {
	Machine       string `json:"machine"`
	DeleteReplica bool   `json:"delete_replica,omitempty"`
	// RunsNowhere states, of a machine whose protection has ended, that it runs
	// at no site: where it was active is forgotten.
	RunsNowhere bool `json:"runs_nowhere,omitempty"`
}

// UnprotectResult says where the machine was active and which hosts know it
// already.
type UnprotectResult = estate.Unprotected

// TokenRequest asks for a join token.
type TokenRequest struct {
	Host string `json:"host"`
}

// EstateResult is the applied estate and, by machine, which hosts hold it.
type EstateResult struct {
	Revision estate.Revision `json:"revision"`
	Plans    []string        `json:"plans"`
}

// Empty is the request or result of a verb that needs none.
type Empty struct{}

// The verbs.
var (
	verbInfo      = verb[Empty, Info]{"info"}
	verbEstate    = verb[Empty, EstateResult]{"estate"}
	verbApply     = verb[estate.ApplyRequest, estate.ApplyResult]{"apply"}
	verbStatus    = verb[MachineRequest, estate.Status]{"status"}
	verbPoints    = verb[MachineRequest, PointsResult]{"points"}
	verbVerify    = verb[VerifyRequest, VerifyResult]{"verify"}
	verbHold      = verb[HoldRequest, HoldResult]{"hold"}
	verbUnprotect = verb[UnprotectRequest, UnprotectResult]{"unprotect"}
	verbToken     = verb[TokenRequest, estate.Token]{"token"}
	verbStart     = verb[StartRequest, report.Run]{"start"}
	verbExplain   = verb[StartRequest, report.Explain]{"explain"}
	verbReverse   = verb[ReverseRequest, report.Run]{"reverse"}
	verbExplainRv = verb[ReverseRequest, report.Explain]{"explain-reverse"}
	verbRuns      = verb[Empty, RunsResult]{"runs"}
	verbRun       = verb[RunRequest, report.Run]{"run"}
	verbAnswer    = verb[AnswerRequest, report.Run]{"answer"}
	verbPause     = verb[RunRequest, report.Run]{"pause"}
	verbResume    = verb[RunRequest, report.Run]{"resume"}
	verbCancel    = verb[RunRequest, report.Run]{"cancel"}
	verbCommit    = verb[RunRequest, report.Run]{"commit"}
	verbCleanup   = verb[RunRequest, report.Run]{"cleanup"}
	verbWritten   = verb[RunRequest, WrittenResult]{"written"}
	verbRollback  = verb[RunRequest, report.Run]{"rollback"}
	verbPoint     = verb[RunRequest, report.Run]{"change-point"}
)

// Engine is what the server needs of the runtime engine. A call that starts
// work returns when the work is durable, not when it is done; the work goes on
// when the caller's context ends.
type Engine interface {
	Start(ctx context.Context, r StartRequest) (report.Run, error)
	Explain(ctx context.Context, r StartRequest) (report.Explain, error)
	Reverse(ctx context.Context, r ReverseRequest) (report.Run, error)
	// ExplainReverse lists what Reverse would do, and starts nothing.
	ExplainReverse(ctx context.Context, r ReverseRequest) (report.Explain, error)
	Runs(ctx context.Context) ([]report.Run, error)
	Run(ctx context.Context, run string) (report.Run, error)
	Answer(ctx context.Context, r AnswerRequest) (report.Run, error)
	Pause(ctx context.Context, r RunRequest) (report.Run, error)
	Resume(ctx context.Context, r RunRequest) (report.Run, error)
	Cancel(ctx context.Context, r RunRequest) (report.Run, error)
	Commit(ctx context.Context, r RunRequest) (report.Run, error)
	Cleanup(ctx context.Context, r RunRequest) (report.Run, error)
	// Written says what a rollback would take from the new site.
	Written(ctx context.Context, r RunRequest) (WrittenResult, error)
	Rollback(ctx context.Context, r RunRequest) (report.Run, error)
	ChangePoint(ctx context.Context, r RunRequest) (report.Run, error)
	// Events yields what happens in a run after a sequence number, what has
	// happened first, until ctx ends or the run has ended for good.
	Events(ctx context.Context, run string, after uint64) iter.Seq2[report.Event, error]
}
