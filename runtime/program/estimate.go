package program

import (
	"slices"
	"time"
)

// Figure is how long a step is expected to take, and where that is known from.
type Figure struct {
	Took   time.Duration
	Source string // "median of 3 runs"; empty: nothing is known, the step counts as nothing
}

// Planned is when a step is expected to begin and to end, from the begin of
// the run.
type Planned struct {
	Step       *Step
	Begin, End time.Duration
	Figure     Figure
	Critical   bool // the end of the run waits for it
}

// Estimate is the expected course of a program: every step begins as soon as
// what is before it, what it needs and the limits of its branches let it.
type Estimate struct {
	Steps []Planned     // in program order
	Ready time.Duration // every machine runs and is ready; 0: none is started
	Ends  time.Duration // the last step has ended
	Aim   time.Duration // what Ready is compared with: the plan's rto; 0: none is set
}

// Estimate lays the steps out in time. took is asked once for each step that
// is not skipped.
func (p *Program) Estimate(took func(*Step) Figure) *Estimate {
	c := &course{at: map[string]int{}, by: map[string]int{}}
	for _, s := range p.Steps() {
		c.at[s.ID] = len(c.out.Steps)
		line := Planned{Step: s, Begin: -1}
		if s.Skip == "" {
			line.Figure = took(s)
		}
		c.out.Steps = append(c.out.Steps, line)
	}
	end := c.place(&p.Root, mark{step: -1})
	c.out.Ends = end.at
	for _, l := range c.out.Steps {
		if l.Step.Kind == Start || l.Step.Kind == Ready {
			c.out.Ready = max(c.out.Ready, l.End)
		}
	}
	for i := end.step; i >= 0; {
		l := &c.out.Steps[i]
		l.Critical = l.Step.Skip == ""
		i = c.after(l.Step.ID)
	}
	return &c.out
}

// course lays a program out.
type course struct {
	out Estimate
	at  map[string]int // step → its place in out.Steps
	by  map[string]int // step → the step whose end let it begin; none: the begin of the run
}

// mark is an instant, and the step that ends then; -1: the begin of the run.
type mark struct {
	at   time.Duration
	step int
}

func later(a, b mark) mark {
	if b.at > a.at {
		return b
	}
	return a
}

func (c *course) after(id string) int {
	if i, ok := c.by[id]; ok {
		return i
	}
	return -1
}

// place lets a node begin and returns its end.
func (c *course) place(n *Node, begin mark) mark {
	switch {
	case n.Step != nil:
		i := c.at[n.Step.ID]
		l := &c.out.Steps[i]
		l.Begin, l.End = begin.at, begin.at+l.Figure.Took
		c.by[n.Step.ID] = begin.step
		return mark{at: l.End, step: i}
	case len(n.Par) > 0:
		return c.branches(n, begin)
	}
	for i := range n.Seq {
		begin = c.place(&n.Seq[i], later(begin, c.needed(&n.Seq[i])))
	}
	return begin
}

// branches lets parallel nodes begin in their order: each as soon as what it
// needs has ended and fewer than the limit are under way.
func (c *course) branches(n *Node, begin mark) mark {
	end, now := begin, begin
	var open []mark // ends of what is under way
	left := make([]*Node, len(n.Par))
	for i := range n.Par {
		left[i] = &n.Par[i]
	}
	for len(left) > 0 {
		next := mark{at: -1}
		soonest := func(m mark) {
			if m.at > now.at && (next.at < 0 || m.at < next.at) {
				next = m
			}
		}
		still := left[:0]
		for _, b := range left {
			need := c.needed(b)
			if need.at < 0 || need.at > now.at || n.Limit > 0 && len(open) >= n.Limit {
				soonest(need)
				still = append(still, b)
				continue
			}
			m := c.place(b, later(need, now))
			end, open = later(end, m), append(open, m)
		}
		left = still
		was := len(open)
		if open = under(open, now); len(open) < was {
			continue // what has taken no time lets others begin at once
		}
		for _, m := range open {
			soonest(m)
		}
		if next.at < 0 { // they wait for each other: the engine would not get on either
			for _, b := range left {
				end = later(end, c.place(b, now))
			}
			return end
		}
		now = next
		open = under(open, now)
	}
	return end
}

// under is what is still under way at an instant.
func under(open []mark, now mark) []mark {
	return slices.DeleteFunc(open, func(m mark) bool { return m.at <= now.at })
}

// needed is when what a node needs has ended; before the begin of the run if
// that is not known yet.
func (c *course) needed(n *Node) mark {
	last := mark{step: -1}
	for _, id := range n.Needs {
		i, ok := c.at[id]
		if !ok {
			continue
		}
		l := c.out.Steps[i]
		if l.Begin < 0 {
			return mark{at: -1, step: -1}
		}
		last = later(last, mark{at: l.End, step: i})
	}
	return last
}
