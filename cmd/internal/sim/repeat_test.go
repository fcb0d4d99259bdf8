//go:build detrt

package sim

import "testing"

// TestSeedsRepeat: a seed does the same every time.
func TestSeedsRepeat(t *testing.T) {
	alone(t)
	for seed := *from; seed < *from+uint64(*seeds); seed++ {
		a, b := run(t, New(seed), false), run(t, New(seed), true)
		collect()
		if a.Hash != b.Hash {
			t.Errorf("seed %d: %x, and again %x", seed, a.Hash, b.Hash)
		}
	}
}
