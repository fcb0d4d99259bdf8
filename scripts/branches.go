package scripts

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/syntax"
)

// Branches knows which ways through the functions of plans, their modules and
// their pages were taken. A Loader that has one in its Options tells it. Safe for
// concurrent use.
type Branches struct {
	mu    sync.Mutex
	files map[string]*ways // by name and text
}

// ways are the blocks of one file, and which of them ran.
type ways struct {
	blocks []syntax.Block
	ran    []atomic.Bool
}

// Branch is a way that a run may take: a branch, a turn of a loop, a function.
type Branch struct {
	plans.Pos        // of what decides about it
	Never     string `json:"never"`  // what it means that it was not taken; "": that is told of its step
	Inside    int    `json:"inside"` // the one around it in the same list; -1: none
	Taken     bool   `json:"taken"`
}

// NewBranches returns an empty Branches.
func NewBranches() *Branches { return &Branches{files: map[string]*ways{}} }

func branchKey(name, text string) string { return name + "\x00" + text }

// of finds the ways of a file that was parsed.
func (b *Branches) of(u *syntax.Unit, text string) *ways {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := branchKey(u.Name, text)
	w := b.files[key]
	if w == nil {
		w = &ways{blocks: u.Blocks, ran: make([]atomic.Bool, len(u.Blocks))}
		b.files[key] = w
	}
	return w
}

// Of lists the branches of the files of a bundle that were evaluated.
func (b *Branches) Of(bundle plans.Bundle) []Branch {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Branch
	for _, name := range slices.Sorted(maps.Keys(bundle.Files)) {
		w := b.files[branchKey(name, bundle.Files[name])]
		if w == nil {
			continue
		}
		first := len(out)
		for i, block := range w.blocks {
			br := Branch{Pos: plans.Pos{File: name, Line: block.Line}, Never: block.Never, Inside: -1, Taken: w.ran[i].Load()}
			if block.Inside >= 0 {
				br.Inside = first + block.Inside
			}
			out = append(out, br)
		}
	}
	return out
}
