package state

import (
	"slices"

	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// What the run has done with its machines.

// Granted returns the machines whose epoch was raised for the new site.
func (s *State) Granted() []string { return s.withStep(program.Grant) }

// GrantedSet is Granted as a set.
func (s *State) GrantedSet() map[string]bool {
	out := map[string]bool{}
	for _, m := range s.Granted() {
		out[m] = true
	}
	return out
}

// AnyGranted reports whether Granted names a machine.
func (s *State) AnyGranted() bool { return s.all.of(classGranted) > 0 }

// UnclearGrants returns the machines of which nobody knows whether the new site
// was granted the authority.
func (s *State) UnclearGrants() []string {
	var out []string
	for _, st := range s.Ordered() {
		if st.Kind == program.Grant && st.Unclear {
			out = append(out, st.Machine)
		}
	}
	return out
}

// Down returns the machines that were granted to the new site and not started
// there.
func (s *State) Down() []string {
	up := map[string]bool{}
	for _, st := range s.Ordered() {
		if st.Kind == program.Start { // the last one counts: a change of the point starts anew
			up[st.Machine] = st.Status == report.StepDone
		}
	}
	return slices.DeleteFunc(s.Granted(), func(m string) bool { return up[m] })
}

// Held returns the machines that were stopped at the source and not granted
// to the new site.
func (s *State) Held() []string {
	granted := s.GrantedSet()
	var out []string
	for _, st := range s.Ordered() {
		touched := st.Kind == program.Stop && (st.Status != report.StepPending || st.Unclear) && st.Status != report.StepSkipped
		if touched && st.Section == program.SectionFailover && !granted[st.Machine] {
			out = append(out, st.Machine)
		}
	}
	return out
}

// Leased returns the machines whose lease the run has ended, or may have, and
// which it has not failed over.
func (s *State) Leased() []string {
	granted := s.GrantedSet()
	var out []string
	for _, st := range s.Ordered() {
		if st.Leased && !granted[st.Machine] && !slices.Contains(out, st.Machine) {
			out = append(out, st.Machine)
		}
	}
	return out
}

// withStep lists the machines for which a step of a kind is done, or may be:
// one that is known to have failed was not done.
func (s *State) withStep(k program.Kind) []string {
	var out []string
	for _, st := range s.Ordered() {
		if st.Kind == k && st.mayBeDone() {
			out = append(out, st.Machine)
		}
	}
	return out
}
