package replica_test

import (
	"context"
	"testing"

	"github.com/drrun/drrun/agent/replica"
)

func TestPointsOfManyCycles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		w := newWorld(tempDir(t), seed, "system", "data")
		w.segs = 1 + int(seed%3)
		m := open(t, w)
		for range 14 {
			must(t, w.cycle(m))
			if w.rng.IntN(3) > 0 {
				must(t, m.Apply(context.Background()))
			}
			if w.rng.IntN(4) == 0 {
				must(t, w.check(m))
			}
			if w.rng.IntN(5) == 0 {
				must(t, m.Close())
				var err error
				m, err = replica.Open(w.config())
				must(t, err)
			}
			w.change()
		}
		must(t, w.check(m))
		must(t, m.Apply(context.Background()))
		must(t, w.check(m))
		must(t, m.Close())
	}
}
