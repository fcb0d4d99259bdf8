package runtime

import (
	"encoding/json"
	"slices"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// result reads the stored result of another step of the run.
func (d *driver) result(step string, v any) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resultLocked(step, v)
}

func (d *driver) resultLocked(step string, v any) bool {
	st := d.st.Steps[step]
	if st == nil || st.Status != report.StepDone || st.Data == nil {
		return false
	}
	if p, large := v.(*preflighted); large {
		got, ok := stored[preflighted](st)
		if ok {
			*p = got
		}
		return ok
	}
	return json.Unmarshal(st.Data, v) == nil
}

// decode is result of a state that nobody else has, or whose lock the caller holds.
func decode[T any](st *state.State, id string) (v T, ok bool) {
	s := st.Steps[id]
	if s == nil || s.Status != report.StepDone || s.Data == nil {
		return v, false
	}
	return stored[T](s)
}

// chosenPoint is the recovery point that was fixed for a machine last.
func chosenPoint(st *state.State, machine string) (p recovery.Point, ok bool) {
	for _, s := range st.Points() { // also of one that is being fixed anew
		if s.Data == nil {
			continue
		}
		if points, is := stored[map[string]recovery.Point](s); is {
			if q, has := points[machine]; has {
				p, ok = q, true
			}
		}
	}
	return p, ok
}

// stored is what a step has stored as its data, read once for many machines:
// nobody changes it.
func stored[T any](s *state.Step) (v T, ok bool) {
	if v, ok = s.Decoded.(T); ok {
		return v, true
	}
	if json.Unmarshal(s.Data, &v) != nil {
		return v, false
	}
	s.Decoded = v
	return v, true
}

// preparedPoint is the point whose disks a machine has got in the section that
// is under way.
func (d *driver) preparedPoint(machine string) (recovery.Point, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.st.Of(machine) {
		if s.Kind == program.Prepare && s.Status == report.StepDone && d.st.InForce(s) {
			return chosenPoint(d.st, machine)
		}
	}
	return recovery.Point{}, false
}

// prepared reports whether a machine has disks at its new site: committed
// without, it could run nowhere. Callers hold d.mu.
func (d *driver) prepared(machine string) bool {
	return slices.ContainsFunc(d.st.Of(machine), func(st *state.Step) bool {
		return st.Kind == program.Prepare && st.Status == report.StepDone
	})
}

// unclear reports whether a failed step may have been done: then it is asked for
// again under the same operation id. An action's operations are journaled one by
// one; its next attempt is a fresh sequence.
func (j *job) unclear(err error) bool {
	return j.step.Kind != program.Action && (fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Interrupted))
}

// asFault makes the storable form of an error: kind, message, hint.
func asFault(err error) *fault.Error {
	f := fault.Wrap(fault.Failed, err)
	if f.Kind == fault.Internal {
		f.Kind = fault.Failed
	}
	if f.Hint == "" {
		f.Hint = fault.Hint(err)
	}
	return f
}
