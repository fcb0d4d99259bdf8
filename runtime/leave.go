package runtime

import (
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// pause lets the steps in flight end; those that wait for a silent host are left.
func (d *driver) pause(by string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.st.Status.Busy() && d.st.Status != report.RunWaiting {
		return notAllowed(d.st, report.OpPause)
	}
	defer d.leaveSilent()
	return d.append(state.Record{Kind: state.Paused, By: nobody(by)})
}

// park pauses a busy run because the runtime ends.
func (d *driver) park() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.dead == nil && d.st.Status.Busy() && !d.st.Stopping() {
		r := state.Record{Kind: state.Paused, By: "the end of the runtime"}
		if d.e.handOver {
			r.Word = state.WordHandOver
		}
		err = d.append(r)
	}
	d.parked = true
	d.nudge()
	return err
}

// leftError is that of a host that did not answer, and that nobody waits for any
// longer.
type leftError struct{ error }

func (e leftError) Unwrap() error { return e.error }

// leaveSilent lets the steps in flight wait no longer for hosts that do not
// answer. Callers hold d.mu.
func (d *driver) leaveSilent() {
	select {
	case <-d.hurry:
	default:
		close(d.hurry)
	}
}

// waitAgain lets the steps to come wait for silent hosts as ever. Callers hold
// d.mu.
func (d *driver) waitAgain() {
	select {
	case <-d.hurry:
		d.hurry = make(chan struct{})
	default:
	}
}

// hurried is closed when a step is to leave a silent host; nil: the step waits.
// An action or a question would take it for the host's answer, and what is
// optional does not wait for long.
func (j *job) hurried() <-chan struct{} {
	switch j.step.Kind {
	case program.Action, program.Check, program.Ready:
		return nil
	}
	if j.step.Optional {
		return nil
	}
	j.d.mu.Lock()
	defer j.d.mu.Unlock()
	return j.d.hurry
}
