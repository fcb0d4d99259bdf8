package state

import (
	"fmt"
	"slices"

	"github.com/drrun/drrun/runtime/program"
)

// Check compares what the state has counted and remembered with what it says step
// by step.
func (s *State) Check() error {
	var all, now tally
	for _, st := range s.ordered {
		all.add(st.classOf(), 1)
	}
	for _, st := range s.inForce {
		now.add(st.classOf(), 1)
		for _, id := range st.Requires {
			if need := s.Steps[id]; st.Status == "pending" && need != nil && need.Settled() && !need.OK() {
				return fmt.Errorf("%s is pending, %s failed", st.ID, id)
			}
		}
	}
	if all != s.all || now != s.now {
		return fmt.Errorf("counted %v and %v, there are %v and %v", s.all, s.now, all, now)
	}
	var got, want []Effect
	settled, _ := s.tree.walk(&got)
	through, _ := s.walked(&s.Program().Root, &want)
	if !slices.Equal(got, want) || settled != through || through != (s.now.of(classOpen) == 0) {
		return fmt.Errorf("%d open; may start %v (settled %v), by the program %v (%v)", s.now.of(classOpen), got, settled, want, through)
	}
	for m, list := range s.of {
		for _, st := range s.ordered {
			if (st.Machine == m) != slices.Contains(list, st) {
				return fmt.Errorf("the steps of %s are not listed", m)
			}
		}
	}
	return nil
}

// walked is what may start below n by the words of package program: looked up
// from the beginning.
func (s *State) walked(n *program.Node, out *[]Effect) (settled, under bool) {
	if n.Step != nil {
		st := s.Steps[n.Step.ID]
		if !st.Settled() && st.Status == "pending" {
			*out = append(*out, Effect{Step: st.ID, Attempt: st.Attempt + 1, At: st.Retry})
		}
		return st.Settled(), !st.Settled()
	}
	part := func(n *program.Node) (settled, under bool) {
		for _, id := range n.Needs {
			if st := s.Steps[id]; st != nil && !st.Settled() {
				var dry []Effect
				settled, _ := s.walked(n, &dry)
				return settled, false
			}
		}
		return s.walked(n, out)
	}
	for i := range n.Seq {
		if settled, _ := part(&n.Seq[i]); !settled {
			return false, true
		}
	}
	settled = true
	open := 0
	for i := range n.Par {
		if n.Limit > 0 && open >= n.Limit {
			return false, true
		}
		done, busy := part(&n.Par[i])
		settled = settled && done
		if busy {
			open++
		}
	}
	return settled, !settled
}
