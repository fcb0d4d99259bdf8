package state

import (
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// What a record asks of a run must not grow with the run: a plan of 10,000
// machines has some 90,000 steps and twice as many records. So the state counts
// its steps by what the status of the run comes from, and keeps its program as a
// tree that remembers which parts are settled.

// class is what a step counts as; several at once.
type class uint8

const (
	classRunning class = 1 << iota
	classUnknown
	classWaiting // for a person
	classOpen    // not settled
	classGranted // a grant that is done, or may be

	classes = 5
)

func (s *Step) classOf() (c class) {
	switch s.Status {
	case report.StepRunning:
		c = classRunning
	case report.StepUnknown:
		c = classUnknown
	case report.StepWaiting:
		c = classWaiting
	default:
		if s.Asks {
			c = classWaiting
		}
	}
	if !s.Settled() {
		c |= classOpen
	}
	if s.Kind == program.Grant && s.mayBeDone() {
		c |= classGranted
	}
	return c
}

// mayBeDone reports whether the step is done, or may be: one that is known to have
// failed was not done.
func (s *Step) mayBeDone() bool {
	return s.Status == report.StepDone || s.Status == report.StepRunning || s.Unclear
}

// tally counts steps by class.
type tally [classes]int

func (t *tally) add(c class, n int) {
	for i := range t {
		if c&(1<<i) != 0 {
			t[i] += n
		}
	}
}

func (t *tally) of(c class) int {
	for i := range t {
		if c == 1<<i {
			return t[i]
		}
	}
	return 0
}

// recount counts a step anew after it has changed. One that only the planned run
// had that this one was is not of the run any more.
func (s *State) recount(st *Step) {
	is := st.classOf()
	if !st.listed || is == st.counted {
		return
	}
	s.all.add(st.counted, -1)
	s.all.add(is, 1)
	if st.inForce {
		s.now.add(st.counted, -1)
		s.now.add(is, 1)
		if st.counted&classOpen == 0 && is&classOpen != 0 {
			s.tree.forget()
		}
	}
	st.counted = is
}

// recountAll counts all steps anew.
func (s *State) recountAll() {
	s.all, s.now = tally{}, tally{}
	for _, st := range s.Steps {
		st.listed, st.inForce = false, false
	}
	for _, st := range s.ordered {
		st.counted, st.listed = st.classOf(), true
		s.all.add(st.counted, 1)
	}
	for _, st := range s.inForce {
		st.inForce = true
		s.now.add(st.counted, 1)
	}
	s.tree.forget()
}

// node is a part of the program in force, with the progress of its steps.
type node struct {
	step     *Step
	seq, par []node
	limit    int
	needs    []*Step
	settled  bool // and stays so until forget
	from     int  // of seq or par, those before are settled
}

func (s *State) plant(n *program.Node) node {
	out := node{limit: n.Limit}
	if n.Step != nil {
		out.step = s.Steps[n.Step.ID]
	}
	for _, id := range n.Needs {
		if st := s.Steps[id]; st != nil {
			out.needs = append(out.needs, st)
		}
	}
	for i := range n.Seq {
		out.seq = append(out.seq, s.plant(&n.Seq[i]))
	}
	for i := range n.Par {
		out.par = append(out.par, s.plant(&n.Par[i]))
	}
	return out
}

// forget looks at every part anew.
func (n *node) forget() {
	n.settled, n.from = false, 0
	for i := range n.seq {
		n.seq[i].forget()
	}
	for i := range n.par {
		n.par[i].forget()
	}
}

// walk adds what may start below n and reports whether n is settled, and whether
// anything of it is under way.
func (n *node) walk(out *[]Effect) (settled, under bool) {
	if n.settled {
		return true, false
	}
	if st := n.step; st != nil {
		if n.settled = st.Settled(); n.settled {
			return true, false
		}
		if st.Status == report.StepPending {
			*out = append(*out, Effect{Step: st.ID, Attempt: st.Attempt + 1, At: st.Retry})
		}
		return false, true
	}
	for ; n.from < len(n.seq); n.from++ {
		if settled, _ := n.seq[n.from].begin(out); !settled {
			return false, true
		}
	}
	settled = true
	open := 0
	for i := n.from; i < len(n.par); i++ {
		if n.limit > 0 && open >= n.limit {
			return false, true
		}
		done, busy := n.par[i].begin(out)
		if done && settled {
			n.from = i + 1
		}
		settled = settled && done
		if busy {
			open++
		}
	}
	n.settled = settled
	return settled, !settled
}

// begin walks a part once what it needs is settled. Until then nothing of it is
// under way.
func (n *node) begin(out *[]Effect) (settled, under bool) {
	if !n.settled {
		for _, st := range n.needs {
			if !st.Settled() {
				return n.through(), false
			}
		}
	}
	return n.walk(out)
}

// through reports whether every step below n is settled.
func (n *node) through() bool {
	if n.settled {
		return true
	}
	if n.step != nil {
		return n.step.Settled()
	}
	for _, list := range [][]node{n.seq, n.par} {
		for i := range list {
			if !list[i].through() {
				return false
			}
		}
	}
	return true
}
