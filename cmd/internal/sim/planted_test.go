//go:build detrt && planted

package sim

import (
	"flag"
	"testing"

	"github.com/drrun/drrun/internal/planted"
)

var (
	most  = flag.Int("most", 500, "seeds within which a planted fault has to be found")
	quick = flag.Bool("quick", false, "leave out the planted faults that take many seeds")
	only  = flag.String("fault", "", "plant this fault only")
)

// TestPlanted: each fault in the product's own rules is found within -most
// seeds. It prints after how many.
func TestPlanted(t *testing.T) {
	alone(t)
	defer planted.Choose(planted.None)
	for i, f := range planted.All() {
		if i%*parts != *part-1 || *only != "" && string(f) != *only || *quick && slow[f] {
			continue
		}
		planted.Choose(f)
		if res, n := hunt(t); res == nil {
			t.Errorf("%-16s not found in %d seeds", f, n)
		} else {
			t.Logf("%-16s seed %3d: %s", f, n, res.Violation)
		}
	}
}

// slow are the faults that take more seeds than CI has time for, or whose
// number is not known yet.
var slow = map[planted.Fault]bool{planted.SegmentSync: true, planted.UndoAgain: true, planted.EarlyRelease: true, planted.OpNotStored: true,
	planted.UnknownIsDown: true, planted.EpochCheck: true, planted.LockForgotten: true, planted.NotFenced: true, planted.ExecRepeated: true}

// hunt runs seeds until a rule is broken.
func hunt(t *testing.T) (*Result, int) {
	for n := 1; n <= *most; n++ {
		res := run(t, New(uint64(n)), false) //nolint:gosec // small
		collect()
		if res.Violation != nil {
			return res, n
		}
	}
	return nil, *most
}
