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
	settled := s.tree.walk(&got)
	through := s.walked(&s.Program().Root, &want)
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
func (s *State) walked(n *program.Node, out *[]Effect) (settled bool) {
	if n.Step != nil {
		st := s.Steps[n.Step.ID]
		if st.Status == "pending" {
			*out = append(*out, Effect{Step: st.ID, Attempt: st.Attempt + 1, At: st.Retry})
		}
		return st.Settled()
	}
	open := n.Limit // how many more may begin
	for i := range n.Par {
		if b := &n.Par[i]; !s.waits(b) && s.begun(b) && !s.walked(b, new([]Effect)) {
			open--
		}
	}
	settled = true
	for i := range n.Par {
		b := &n.Par[i]
		done := s.walked(b, new([]Effect))
		settled = settled && done
		switch {
		case done, s.waits(b):
			continue
		case n.Limit > 0 && !s.begun(b):
			if open <= 0 {
				continue
			}
			open--
		}
		s.walked(b, out)
	}
	for i := range n.Seq {
		b := &n.Seq[i]
		to := out
		if s.waits(b) {
			to = new([]Effect)
		}
		if !s.walked(b, to) {
			return false
		}
	}
	return settled
}

func (s *State) waits(n *program.Node) bool {
	return slices.ContainsFunc(n.Needs, func(id string) bool { return s.Steps[id] != nil && !s.Steps[id].Settled() })
}

func (s *State) begun(n *program.Node) bool {
	if n.Step != nil {
		return s.Steps[n.Step.ID].Attempt > 0
	}
	begun := func(n program.Node) bool { return s.begun(&n) }
	return slices.ContainsFunc(n.Par, begun) || slices.ContainsFunc(n.Seq, begun)
}
