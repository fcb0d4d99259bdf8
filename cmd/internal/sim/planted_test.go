//go:build detrt && planted

package sim

import (
	"flag"
	"testing"

	"github.com/drrun/drrun/internal/planted"
)

var (
	most  = flag.Int("most", 500, "seeds within which a planted fault has to be found")
	quick = flag.Bool("quick", false, "begin with the seed that found a planted fault before")
	only  = flag.String("fault", "", "plant this fault only")
)

// TestPlanted: each fault in the product's own rules is found within -most
// seeds, and the seed that finds it breaks no rule without the fault. It prints
// after how many.
func TestPlanted(t *testing.T) {
	alone(t)
	defer planted.Choose(planted.None)
	faults := planted.All()
	if *only != "" {
		faults = []planted.Fault{planted.Fault(*only)}
	}
	for i, f := range faults {
		if i%*parts != *part-1 {
			continue
		}
		if res, seed := hunt(t, f); res == nil {
			t.Errorf("%-17s not found in %d seeds", f, *most)
		} else {
			t.Logf("%-17s seed %3d: %s", f, seed, res.Violation)
		}
	}
}

// before are seeds that found faults. A change of the product or of the
// schedules may make them find nothing: then all are tried in order, and this
// list is brought up to date.
var before = map[planted.Fault]uint64{planted.FenceCheck: 1, planted.ManifestSync: 14, planted.UndoAgain: 60, planted.HeadSync: 49,
	planted.RightNotAsked: 21, planted.FinalSkipped: 1, planted.HoldIgnored: 49, planted.OverlayDropped: 19, planted.NotLearnt: 242,
	planted.SegmentSync: 15, planted.HeadFirst: 1, planted.LockForgotten: 28, planted.OpNotStored: 68,
	planted.FoundSkipped: 2, planted.ThinHeld: 2, planted.ExecRepeated: 11, planted.TestOnHead: 3, planted.NotFrozen: 2,
	planted.NotFenced: 23, planted.UnknownIsDown: 45}

// hunt runs seeds until one breaks a rule with the fault and none without it.
func hunt(t *testing.T, f planted.Fault) (*Result, uint64) {
	var order []uint64
	if seed, ok := before[f]; ok && *quick {
		order = append(order, seed)
	}
	for n := range *most {
		order = append(order, uint64(n)+1) //nolint:gosec // small
	}
	for _, seed := range order {
		planted.Choose(f)
		res := run(t, New(seed), false)
		collect()
		if res.Violation == nil {
			continue
		}
		planted.Choose(planted.None)
		if clean := run(t, New(seed), false); clean.Violation != nil {
			t.Errorf("seed %d breaks a rule without a fault: %s", seed, clean.Violation)
			continue
		}
		return res, seed
	}
	return nil, 0
}
