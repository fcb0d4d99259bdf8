package runtime

import (
	"slices"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
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
		case optional != f.optional:
			f.again = true
			f.cancel(errLeaving)
		}
	}
}

// statedDown reports whether a person has said that the source is down.
func (d *driver) statedDown() bool {
	return d.downBy() != ""
}

// downBy is who has said so last; empty: nobody.
func (d *driver) downBy() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range slices.Backward(d.st.Statements) {
		if s.What == SourceIsDown {
			return nobody(s.By)
		}
	}
	return ""
}

// runType is what the run is now: a planned one may have become unplanned.
func (d *driver) runType() recovery.Type {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.st.Type
}
