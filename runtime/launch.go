package runtime

import (
	"context"
	"errors"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/state"
)

// flight is one step in flight.
type flight struct {
	attempt  int
	optional bool // the rule it began under
	again    bool // it was ended to be asked for again under another rule
	cancel   context.CancelCauseFunc
}

// launched is a step that has begun.
type launched struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	job    *job
}

// launch runs a step beside the others. Callers hold d.mu.
func (d *driver) launch(st *state.Step) {
	ctx, cancel := context.WithCancelCause(d.e.ctx)
	d.flying[st.ID] = &flight{attempt: st.Attempt, optional: st.Optional, cancel: cancel}
	l := launched{ctx, cancel, d.job(st)}
	select {
	case d.work <- l:
	default:
		go d.works(l)
	}
}

// mostIdle is how many goroutines wait for their next step at most.
const mostIdle = 256

// works runs a step, and then others: a goroutine that has run one has the stack
// for the next, and a large run has 90,000.
func (d *driver) works(l launched) {
	for {
		out := l.job.execute(l.ctx)
		crash.At("runtime.effect.done")
		d.land(l.ctx, l.job, out)
		l.cancel(nil)
		if d.idle.Add(1) > mostIdle {
			d.idle.Add(-1)
			return
		}
		select {
		case l = <-d.work:
			d.idle.Add(-1)
		case <-d.done:
			return
		}
	}
}

// land journals the result of a step. A step that was interrupted because the
// runtime ends gets no result: it is taken up again on resume.
func (d *driver) land(ctx context.Context, job *job, out outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	again := d.flying[job.step.ID].again && d.e.ctx.Err() == nil && !d.parked
	delete(d.flying, job.step.ID)
	delete(d.progress, job.step.ID)
	defer d.nudge()
	if d.dead != nil || out.err != nil && (context.Cause(ctx) == errLeaving || errors.Is(out.err, errLeaving)) { //nolint:errorlint // exactly this cause
		if again && d.dead == nil {
			d.launch(d.st.Steps[job.step.ID])
		}
		return
	}
	left := errors.As(out.err, new(leftError))
	if left && !d.st.Stopping() { // the run goes on meanwhile, or is at its next section
		d.waitAgain()
		d.launch(d.st.Steps[job.step.ID])
		return
	}
	r := state.Record{Step: job.step.ID, Attempt: job.step.Attempt, Text: out.detail}
	if out.data != nil {
		r.Data = encode(out.data)
	}
	switch {
	case out.ask != nil:
		r.Kind, r.Op = state.Asked, out.ask
	case out.unknown:
		r.Kind, r.Error = state.Unknown, asFault(out.err)
		if out.diverged {
			r.Word = state.WordDiverged
		}
	case out.err != nil:
		r.Kind, r.Error, r.Unclear = state.Failed, asFault(out.err), job.unclear(out.err)
		switch {
		case left && r.Unclear:
			r.Word = state.WordLeft
		case out.asks:
			r.Word = state.WordAsk
		}
	case out.skip != "":
		r.Kind, r.Text = state.Skipped, out.skip
	default:
		r.Kind = state.Done
	}
	for _, n := range out.notes {
		if d.append(state.Record{Kind: state.Noted, Step: job.step.ID, Text: n}) != nil {
			return
		}
	}
	if err := d.append(r); err != nil {
		return
	}
	if r.Kind == state.Done { // the steps that follow ask for it
		switch result := out.data.(type) {
		case *command.GrantResult:
			d.st.Steps[r.Step].Decoded = *result
		case claimed:
			d.claim = result
		case preflighted, map[string]recovery.Point:
			d.st.Steps[r.Step].Decoded = result
		}
	}
	if r.Kind == state.Asked && d.st.Run.Unattended {
		_ = d.unattended(d.st.Steps[r.Step]) // a journal that cannot be written stops the run
	}
	if r.Kind == state.Failed {
		d.e.log.Warn("step failed", "run", d.id, "step", job.step.ID, "cause", r.Error.Message)
	}
}
