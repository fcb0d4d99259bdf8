package replica_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// TestThinningInAnyOrder pins a random part of the points, drops all others,
// releases some, drops again; what stays is whole, and no file is left over.
func TestThinningInAnyOrder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for seed := range uint64(4) {
		w := newWorld(tempDir(t), 100+seed, "system", "data")
		m := open(t, w)
		for range 12 {
			must(t, w.cycle(m))
			must(t, m.Apply(ctx))
			w.change()
		}
		pins := map[ident.PointID]bool{}
		for _, p := range m.Points() {
			if w.rng.IntN(3) > 0 {
				pins[p.ID] = true
				_, err := m.Label(ctx, p.ID, []string{"keep"}, false)
				must(t, err)
			}
		}
		for len(m.Points()) > 1 {
			w.now = w.now.Add(time.Minute)
			before := len(m.Points())
			n, err := m.Thin(ctx, []recovery.Keep{{For: time.Second}}, w.now)
			must(t, err)
			if got := len(m.Points()); got != before-n {
				t.Fatalf("dropped %d of %d points, %d are left", n, before, got)
			}
			must(t, w.check(m))
			for _, d := range w.names {
				files, err := os.ReadDir(filepath.Join(w.dir, "store", "erp", d, "undo"))
				must(t, err)
				if len(files) != len(m.Points())-1 {
					t.Fatalf("%d points and %d undo logs", len(m.Points()), len(files))
				}
			}
			if n == 0 && len(pins) == 0 {
				break
			}
			for id := range pins {
				_, err := m.Label(ctx, id, nil, false)
				must(t, err)
				delete(pins, id)
				if w.rng.IntN(3) == 0 {
					break
				}
			}
		}
		must(t, m.Close())
	}
}

// TestThinningLeavesWhatIsNotApplied: points under a hold are no chain yet.
func TestThinningLeavesWhatIsNotApplied(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	must(t, m.SetHold(true))
	for range 4 {
		must(t, w.cycle(m))
		w.change()
	}
	n, err := m.Thin(context.Background(), []recovery.Keep{{For: time.Second}}, w.now)
	must(t, err)
	if n != 1 || len(m.Points()) != 5 {
		t.Errorf("dropped %d, %d are left", n, len(m.Points()))
	}
	must(t, w.check(m))
}

// TestUndoInParts: an undo log that grows large is several files.
//
//nolint:paralleltest // it changes the size of a part
func TestUndoInParts(t *testing.T) {
	replica.SetUndoPart(5)
	defer replica.SetUndoPart(1 << 19)
	ctx := context.Background()
	w := newWorld(tempDir(t), 77, "data")
	m := open(t, w)
	for range 6 {
		w.disks["data"] = w.random(len(w.disks["data"]) + 3000)
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.now = w.now.Add(time.Minute)
	}
	files, err := os.ReadDir(filepath.Join(w.dir, "store", "erp", "data", "undo"))
	must(t, err)
	if len(files) < 15 {
		t.Errorf("%d files", len(files))
	}
	m = reopen(t, w, m)
	must(t, w.check(m))
	_, err = m.Thin(ctx, []recovery.Keep{{Every: 3 * time.Minute, For: time.Hour}}, w.now)
	must(t, err)
	must(t, w.check(m))
	m = reopen(t, w, m)
	must(t, w.check(m))
}
