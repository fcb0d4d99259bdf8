package sim

import (
	"fmt"
	"slices"
	"strings"
)

// maxTries bounds how often a failing scenario is run again to cut it down.
const maxTries = 80

// small is the scenario with one machine that has one disk.
func (s *Scenario) small() *Scenario {
	c := *s
	c.Machines = [][]int{{s.Machines[0][0]}}
	return &c
}

// with is the scenario with some of its events.
func (s *Scenario) with(keep []int) *Scenario {
	c := *s
	c.Events = nil
	for _, i := range keep {
		c.Events = append(c.Events, s.Events[i])
	}
	return &c
}

// shrink takes out of a scenario what is not needed for its violation: the same
// rule has to be broken still. It returns the scenario, the flags that make it
// of its seed, and its result with the trace.
func shrink(sc *Scenario, res *Result, run func(sc *Scenario, trace bool) *Result) (short *Scenario, flags string, last *Result) {
	keep := make([]int, len(sc.Events))
	for i := range keep {
		keep[i] = i
	}
	tries := 0
	fails := func(c *Scenario) bool {
		tries++
		r := run(c, false)
		return r.Violation != nil && r.Violation.Rule == res.Violation.Rule
	}
	base := sc
	if c := sc.small(); len(sc.Machines)+len(sc.Machines[0]) > 2 && fails(c) {
		base, flags = c, "-small "
	}
	for chunk := max(1, len(keep)/2); chunk > 0; {
		cut := false
		for at := 0; at < len(keep) && tries < maxTries; {
			less := slices.Delete(slices.Clone(keep), at, min(at+chunk, len(keep)))
			if fails(base.with(less)) {
				keep, cut = less, true
				continue
			}
			at += chunk
		}
		if !cut || chunk > len(keep) {
			chunk /= 2
		}
	}
	short = base.with(keep)
	var words []string
	for _, i := range keep {
		words = append(words, fmt.Sprint(i))
	}
	if words == nil {
		words = []string{"none"}
	}
	return short, flags + "-keep " + strings.Join(words, ","), run(short, true)
}
