package state

import (
	"slices"

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
	s.touch(st)
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

// node is a part of the program in force, with the progress of its steps. What a
// change of a step asks of the tree are the parts above it, and those that need it:
// of 10,000 branches that are under way the others are not looked at.
type node struct {
	step  *Step
	seq   []node
	par   *branching // nil: there are no branches
	needs []*Step
	up    *node
	at    int32 // its place in what is above

	// What follows is remembered until forget.

	from    int32 // of seq: those before are settled
	settled bool  // and stays so
	begun   bool  // a step of it has been attempted
	listed  bool  // it is in look of the part above
	under   bool  // it counts in open of the part above
}

// branching is what a node has for branches.
type branching struct {
	list  []node
	limit int

	// What follows is remembered until forget.

	left int   // branches that are not settled
	look []int // branches that have changed, or have something to start
	open int   // with a limit: branches that have begun, wait for nothing and are not settled
	next int   // with a limit: from here on none was looked at that has not begun
}

func (s *State) plant(n *program.Node) node {
	var out node
	if n.Step != nil {
		out.step = s.Steps[n.Step.ID]
	}
	for _, id := range n.Needs {
		if st := s.Steps[id]; st != nil {
			out.needs = append(out.needs, st)
		}
	}
	if len(n.Seq) > 0 {
		out.seq = make([]node, len(n.Seq))
	}
	for i := range n.Seq {
		out.seq[i] = s.plant(&n.Seq[i])
	}
	if len(n.Par) > 0 {
		out.par = &branching{list: make([]node, len(n.Par)), limit: n.Limit}
	}
	for i := range n.Par {
		out.par.list[i] = s.plant(&n.Par[i])
	}
	return out
}

// link lets every step know which parts a change of it concerns, once the tree
// stands where it stays.
func (n *node) link(up *node, at int) {
	n.up, n.at = up, int32(at) //nolint:gosec // a plan has fewer steps
	if n.step != nil {
		n.step.parts = append(n.step.parts, n)
	}
	for _, st := range n.needs {
		st.parts = append(st.parts, n)
	}
	for i := range n.seq {
		n.seq[i].link(n, i)
	}
	if n.par == nil {
		return
	}
	for i := range n.par.list {
		n.par.list[i].link(n, i)
	}
}

// touch lists what a change of a step concerns.
func (s *State) touch(st *Step) {
	for _, n := range st.parts {
		begun := n.step == st && st.Attempt > 0
		for ; n.up != nil; n = n.up {
			n.begun = n.begun || begun
			if p := n.up.par; p != nil && !n.listed {
				n.listed = true
				p.look = append(p.look, int(n.at))
			}
		}
	}
}

// forget looks at every part anew.
func (n *node) forget() {
	n.settled, n.from, n.listed, n.under = false, 0, true, false
	n.begun = n.step != nil && n.step.Attempt > 0
	for i := range n.seq {
		n.seq[i].forget()
		n.begun = n.begun || n.seq[i].begun
	}
	p := n.par
	if p == nil {
		return
	}
	p.left, p.look, p.open, p.next = len(p.list), p.look[:0], 0, 0
	for i := range p.list {
		p.list[i].forget()
		n.begun = n.begun || p.list[i].begun
		p.look = append(p.look, i)
	}
}

// walk adds what may start below n, in program order, and reports whether n is
// settled.
func (n *node) walk(out *[]Effect) bool {
	if n.settled {
		return true
	}
	switch st := n.step; {
	case st != nil:
		if n.settled = st.Settled(); !n.settled && st.Status == report.StepPending {
			*out = append(*out, Effect{Step: st.ID, Attempt: st.Attempt + 1, At: st.Retry})
		}
	case n.par != nil && n.par.limit > 0:
		n.par.slots(out)
		n.settled = n.par.left == 0
	case n.par != nil:
		n.par.branches(out)
		n.settled = n.par.left == 0
	default:
		for int(n.from) < len(n.seq) && n.seq[n.from].begin(out) {
			n.from++
		}
		n.settled = int(n.from) == len(n.seq)
	}
	return n.settled
}

// begin walks a part once what it needs is settled.
func (n *node) begin(out *[]Effect) bool {
	if !n.waits() {
		return n.walk(out)
	}
	n.settled = n.through()
	return n.settled
}

// branches looks at the branches that have changed. Those with something to start
// stay listed.
func (p *branching) branches(out *[]Effect) {
	slices.Sort(p.look)
	keep := p.look[:0]
	for _, i := range p.look {
		b, had := &p.list[i], len(*out)
		switch b.listed = false; {
		case b.settled:
		case b.begin(out):
			p.left--
		case len(*out) > had:
			b.listed = true
			keep = append(keep, i)
		}
	}
	p.look = keep
}

// slots is branches where only some may be under way: one that has begun goes on,
// the others begin in their order as long as there is room. One that waits for
// what it needs is not under way.
func (p *branching) slots(out *[]Effect) {
	slices.Sort(p.look)
	keep := p.look[:0]
	for _, i := range p.look { // which are settled, and how many are under way
		b := &p.list[i]
		if b.listed = false; b.settled {
			continue
		}
		b.settled = b.through()
		under := b.begun && !b.settled && !b.waits()
		switch {
		case under && !b.under:
			p.open++
		case !under && b.under:
			p.open--
		}
		b.under = under
		switch {
		case b.settled:
			p.left--
		case under || !b.waits() && i < p.next:
			keep = append(keep, i)
		}
	}
	room := p.limit - p.open
	visit := make([]int, 0, len(keep))
	for _, i := range keep {
		if b := &p.list[i]; !b.begun {
			if room <= 0 {
				b.listed = true // and stays in look
				continue
			}
			room--
		}
		visit = append(visit, i)
	}
	waiting := slices.DeleteFunc(keep, func(i int) bool { return !p.list[i].listed })
	for ; room > 0 && p.next < len(p.list); p.next++ {
		if b := &p.list[p.next]; !b.settled && !b.begun && !b.waits() {
			room--
			visit = append(visit, p.next)
		}
	}
	slices.Sort(visit)
	p.look = waiting
	for _, i := range visit {
		b, had := &p.list[i], len(*out)
		if b.walk(out); !b.begun || len(*out) > had {
			b.listed = true
			p.look = append(p.look, i)
		}
	}
}

// waits reports whether something that n needs is not settled: nothing of it
// begins.
func (n *node) waits() bool {
	return slices.ContainsFunc(n.needs, func(st *Step) bool { return !st.Settled() })
}

// through reports whether every step below n is settled.
func (n *node) through() bool {
	if n.settled {
		return true
	}
	if n.step != nil {
		return n.step.Settled()
	}
	open := func(list []node) bool {
		for i := range list {
			if !list[i].through() {
				return true
			}
		}
		return false
	}
	return !open(n.seq[n.from:]) && (n.par == nil || !open(n.par.list))
}
