package runtime

import (
	"fmt"
	"slices"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/state"
)

// turnFlights ends the steps in flight that a planned run which goes on as
// unplanned does not wait for. Those that only the planned program had are left
// behind. Those that both have are asked for again, under the same operation id
// and under the rule in force: what had to be done is now only tried, so that a
// dead source does not hold the run up. Callers hold d.mu.
func (d *driver) turnFlights() {
	kept := map[string]bool{} // step → it is only tried
	for _, s := range d.st.Program().Steps() {
		kept[s.ID] = s.Optional
	}
	for id, f := range d.flying {
		optional, has := kept[id]
		switch {
		case !has:
			f.cancel(fault.Errorf(fault.Failed, "the run goes on as %s", d.st.Type))
		case optional != f.optional, d.st.Steps[id].Kind == program.Claim: // as what takes the machines over
			f.again = true
			f.cancel(errLeaving)
		}
	}
}

// statedDown reports whether a person has said that the source is down.
func (d *driver) statedDown() bool {
	return d.downBy() != ""
}

// downBy is who has said so last; empty: nobody, or a machine was seen running
// there since.
func (d *driver) downBy() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range slices.Backward(d.st.Statements) {
		if s.What == SourceIsDown {
			if !d.st.SeenRunning.IsZero() && !s.Time.After(d.st.SeenRunning) {
				return ""
			}
			return nobody(s.By)
		}
	}
	return ""
}

// seenRunning notes that a machine runs at its old site. A statement that it is
// down, made before, does not hold any more: when the site is silent again, a
// person has to look again.
func (j *job) seenRunning() {
	d := j.d
	if d.downBy() == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	text := fmt.Sprintf("%s runs on %s: the statement that %s is down does not hold", j.step.Machine, j.machine.FromHost, j.machine.FromSite)
	_ = d.append(state.Record{Kind: state.Noted, Step: j.step.ID, Word: state.WordRunning, Text: text}) // what cannot be written stops the run
}

// runType is what the run is now: a planned one may have become unplanned.
func (d *driver) runType() recovery.Type {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.st.Type
}
