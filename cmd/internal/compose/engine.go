package compose

import (
	"context"
	"iter"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// engine serves the runtime engine to command lines. Before anything is asked
// of agents they get what they missed.
type engine struct {
	*runtime.Engine
	catalogue *estate.Catalogue
}

var _ control.Engine = (*engine)(nil)

// contact brings agents up to date; those that do not answer are found out by
// what comes next.
func (e *engine) contact(ctx context.Context) error {
	_, err := e.catalogue.Push(ctx)
	return err
}

func request(r control.StartRequest) runtime.Request {
	return runtime.Request{Plan: r.Plan, Bundle: r.Bundle, Machines: r.Machines, Type: r.Type, Failback: r.Failback, Point: r.Point,
		Set: r.Set, Commit: r.Commit, NoShutdown: r.NoShutdown, SourceIsDown: r.SourceIsDown, Force: r.Force, NoProof: r.NoProof, TTL: r.TTL, DryRun: r.DryRun, Drawing: r.Drawing, By: r.By}
}

func reverseRequest(r control.ReverseRequest) runtime.ReverseRequest {
	return runtime.ReverseRequest{Plan: r.Plan, Machines: r.Machines, Discard: r.Discard, By: r.By}
}

// Start implements control.Engine.
func (e *engine) Start(ctx context.Context, r control.StartRequest) (report.Run, error) {
	if err := e.contact(ctx); err != nil {
		return report.Run{}, err
	}
	id, err := e.Engine.Start(ctx, request(r))
	if err != nil {
		return report.Run{}, err
	}
	return e.Run(ctx, id)
}

// Explain implements control.Engine.
func (e *engine) Explain(ctx context.Context, r control.StartRequest) (report.Explain, error) {
	if err := e.contact(ctx); err != nil {
		return report.Explain{}, err
	}
	x, err := e.Engine.Explain(ctx, request(r))
	if err != nil {
		return report.Explain{}, err
	}
	return *x, nil
}

// Reverse implements control.Engine.
func (e *engine) Reverse(ctx context.Context, r control.ReverseRequest) (report.Run, error) {
	if err := e.contact(ctx); err != nil {
		return report.Run{}, err
	}
	id, err := e.Engine.Reverse(ctx, reverseRequest(r))
	if err != nil {
		return report.Run{}, err
	}
	return e.Run(ctx, id)
}

// ExplainReverse implements control.Engine.
func (e *engine) ExplainReverse(ctx context.Context, r control.ReverseRequest) (report.Explain, error) {
	if err := e.contact(ctx); err != nil {
		return report.Explain{}, err
	}
	x, err := e.Engine.ExplainReverse(ctx, reverseRequest(r))
	if err != nil {
		return report.Explain{}, err
	}
	return *x, nil
}

// Runs implements control.Engine.
func (e *engine) Runs(ctx context.Context) ([]report.Run, error) { return e.Engine.Runs(ctx) }

// Run implements control.Engine.
func (e *engine) Run(ctx context.Context, run string) (report.Run, error) {
	r, err := e.Show(ctx, run)
	if err != nil {
		return report.Run{}, err
	}
	return *r, nil
}

// after returns how a run stands when an operation on it was accepted.
func (e *engine) after(ctx context.Context, run string, err error) (report.Run, error) {
	if err != nil {
		return report.Run{}, err
	}
	return e.Run(ctx, run)
}

// Answer implements control.Engine.
func (e *engine) Answer(ctx context.Context, r control.AnswerRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Answer(ctx, r.Run, runtime.Answer{Step: r.Wait, Word: r.Answer, Text: r.Text, By: r.By}))
}

// Pause implements control.Engine.
func (e *engine) Pause(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Pause(ctx, r.Run, r.By))
}

// Resume implements control.Engine.
func (e *engine) Resume(ctx context.Context, r control.RunRequest) (report.Run, error) {
	o := runtime.ResumeOptions{As: recovery.Type(r.As), SourceIsDown: r.SourceIsDown, By: r.By}
	return e.after(ctx, r.Run, e.Engine.Resume(ctx, r.Run, o))
}

// Cancel implements control.Engine.
func (e *engine) Cancel(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Cancel(ctx, r.Run, r.By))
}

// Commit implements control.Engine.
func (e *engine) Commit(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Commit(ctx, r.Run, r.By))
}

// Cleanup implements control.Engine.
func (e *engine) Cleanup(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Cleanup(ctx, r.Run, r.By))
}

// Written implements control.Engine.
func (e *engine) Written(ctx context.Context, r control.RunRequest) (control.WrittenResult, error) {
	machines, err := e.Engine.Written(ctx, r.Run)
	return control.WrittenResult{Machines: machines}, err
}

// Rollback implements control.Engine.
func (e *engine) Rollback(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.Rollback(ctx, r.Run, r.By))
}

// ChangePoint implements control.Engine.
func (e *engine) ChangePoint(ctx context.Context, r control.RunRequest) (report.Run, error) {
	return e.after(ctx, r.Run, e.Engine.ChangePoint(ctx, r.Run, r.Point, r.By))
}

// Events implements control.Engine.
func (e *engine) Events(ctx context.Context, run string, after uint64) iter.Seq2[report.Event, error] {
	return e.Engine.Events(ctx, run, after)
}
