package program_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/drrun/drrun/runtime/program"
)

func leaf(id string) program.Node {
	return program.Node{Step: &program.Step{ID: id, Kind: program.Start}}
}

// TestEstimate: steps begin as soon as the tree, what they need and the limits
// let them, and the critical path is what the end waits for.
func TestEstimate(t *testing.T) {
	seq := func(n ...program.Node) program.Node { return program.Node{Seq: n} }
	par := func(limit int, n ...program.Node) program.Node { return program.Node{Par: n, Limit: limit} }
	needs := func(n program.Node, ids ...string) program.Node { n.Needs = ids; return n }
	for name, c := range map[string]struct {
		root     program.Node
		took     map[string]int // seconds
		begins   map[string]int
		ends     int
		critical string
	}{
		"a sequence": {seq(leaf("a"), leaf("b")), map[string]int{"a": 2, "b": 3}, map[string]int{"a": 0, "b": 2}, 5, "ab"},
		"branches": {seq(par(0, leaf("a"), leaf("b")), leaf("c")), map[string]int{"a": 2, "b": 3, "c": 1},
			map[string]int{"a": 0, "b": 0, "c": 3}, 4, "bc"},
		"two at a time": {par(2, leaf("a"), leaf("b"), leaf("c"), leaf("d")), map[string]int{"a": 5, "b": 1, "c": 1, "d": 4},
			map[string]int{"a": 0, "b": 0, "c": 1, "d": 2}, 6, "bcd"},
		"a limit, and nothing to do": {par(1, leaf("a"), leaf("b"), leaf("c")), map[string]int{"b": 2},
			map[string]int{"a": 0, "b": 0, "c": 2}, 2, "b"},
		"needs of a later branch": {par(0, needs(leaf("a"), "c"), leaf("b"), leaf("c")), map[string]int{"a": 1, "b": 1, "c": 4},
			map[string]int{"a": 4, "b": 0, "c": 0}, 5, "ac"},
		"what waits takes no place": {par(1, needs(leaf("a"), "c"), leaf("b"), leaf("c")), map[string]int{"a": 1, "b": 2, "c": 3},
			map[string]int{"a": 5, "b": 0, "c": 2}, 6, "abc"},
		"needs of a step that is not there": {par(0, needs(leaf("a"), "x")), map[string]int{"a": 1}, map[string]int{"a": 0}, 1, "a"},
		"branches of several steps": {par(0, seq(leaf("a"), leaf("b")), needs(seq(leaf("c"), leaf("d")), "a")), map[string]int{"a": 1, "b": 9, "c": 2, "d": 3},
			map[string]int{"a": 0, "b": 1, "c": 1, "d": 3}, 10, "ab"},
		"a circle": {par(0, needs(leaf("a"), "b"), needs(leaf("b"), "a")), map[string]int{"a": 1, "b": 2}, map[string]int{"a": 0, "b": 0}, 2, "b"},
	} {
		p := &program.Program{Root: c.root}
		est := p.Estimate(func(s *program.Step) program.Figure {
			return program.Figure{Took: time.Duration(c.took[s.ID]) * time.Second}
		})
		begins, critical := map[string]int{}, ""
		for _, l := range est.Steps {
			begins[l.Step.ID] = int(l.Begin.Seconds())
			if l.Critical {
				critical += l.Step.ID
			}
		}
		if !maps.Equal(begins, c.begins) || est.Ends != time.Duration(c.ends)*time.Second || est.Ready != est.Ends || critical != c.critical {
			t.Errorf("%s: begins %v, want %v; ends %s, ready %s, want %ds; critical %s, want %s", name, begins, c.begins, est.Ends, est.Ready, c.ends, critical, c.critical)
		}
	}
}

// TestEstimateOfMany: 10,000 branches, some at a time, take no longer to lay out
// than to list.
func TestEstimateOfMany(t *testing.T) {
	root := program.Node{Limit: 100}
	for i := range 10_000 {
		root.Par = append(root.Par, leaf(fmt.Sprint(i)))
	}
	est := (&program.Program{Root: root}).Estimate(func(*program.Step) program.Figure { return program.Figure{Took: time.Minute} })
	if est.Ends != 100*time.Minute {
		t.Errorf("it ends after %s", est.Ends)
	}
}
