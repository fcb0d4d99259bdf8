package replica_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// live writes to the live disks as the machine would.
func (w *world) live(paths map[string]string) error {
	w.change()
	w.ran = true
	for n, path := range paths {
		if err := os.WriteFile(path, w.disks[n], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// sourceTables are what the source role would have of the machine's disks.
func (w *world) sourceTables() (map[string]string, error) {
	tables := map[string]string{}
	for _, n := range w.names {
		path := filepath.Join(w.dir, n+".table")
		t, err := blocksum.Create(fastFS{}, path, w.key(n), int64(len(w.disks[n])))
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(w.disks[n]); i += block {
			if err := t.Set(int64(i/block), blocksum.Hash(w.key(n), int64(i/block), at(w.disks[n], i))); err != nil {
				return nil, err
			}
		}
		if err := t.Close(); err != nil {
			return nil, err
		}
		tables[n] = path
	}
	return tables, nil
}

// final is the point that the source role made last of the machine's disks.
func (w *world) final(m *replica.Machine) recovery.Point {
	p := recovery.Point{
		Version: recovery.FormatVersion, ID: ident.NewPointID(), Seq: m.NextSeq() + 3, Machine: "erp", Epoch: 2,
		Instant: w.now, Kind: recovery.App,
	}
	for _, n := range w.names {
		p.Disks = append(p.Disks, recovery.PointDisk{
			Name: n, ID: w.ids[n], Size: int64(len(w.disks[n])), Sum: sum(w.key(n), w.disks[n]), Log: ident.NewLogID(), Segments: 1,
		})
	}
	return p
}

// reset puts the model's machine on a point: it runs from there.
func (w *world) reset(p recovery.Point) {
	for _, n := range w.names {
		w.disks[n] = slices.Clone(w.kept[p.ID].disks[n])
	}
}

// stubborn is scenario where each step is asked for again when it fails.
func (w *world) stubborn(m *replica.Machine) error {
	ctx := context.Background()
	again := func(what string, fn func() error) error {
		err := fn()
		for try := 0; errors.Is(err, errTest) && try < 3; try++ {
			err = fn()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	cycle := func() error {
		w.change()
		return again("cycle", func() error {
			if tip, _, ok := m.Tip(); ok && w.pending != nil && tip.ID == w.pending.ID && tip.ID != w.tip.ID {
				w.keep(tip) // accepted, and the acknowledgement was lost
				return nil
			}
			return w.cycle(m)
		})
	}
	step := func(what string, fn func() error) func() error { return func() error { return again(what, fn) } }
	apply := step("apply", func() error { return m.Apply(ctx) })
	var prepared recovery.Point
	for _, s := range []func() error{
		cycle, apply, cycle, apply, cycle, apply,
		step("thin", func() error {
			_, err := m.Thin(ctx, []recovery.Keep{{For: 7 * time.Minute}, {Every: 10 * time.Minute, For: time.Hour}}, w.now)
			return err
		}),
		step("hold", func() error { return m.SetHold(true) }), cycle, cycle,
		step("test", func() error { _, err := m.PrepareTest(ctx, "t", w.tip.ID, nil); return err }),
		step("cleanup", func() error { return m.CleanupTest("t") }),
		step("prepare", func() error {
			if prepared.ID.IsZero() {
				prepared = m.Points()[len(m.Points())-2] // accepted, and not applied
			}
			_, err := m.Prepare(ctx, "run-1", prepared.ID, nil)
			return err
		}),
		func() error { w.reset(prepared); return w.live(map[string]string{"data": w.head("data")}) },
		step("commit", func() error { return m.Commit("run-1") }),
		func() error {
			tables, err := w.sourceTables()
			if err != nil {
				return err
			}
			p := w.final(m)
			if err := again("adopt", func() error { return m.Adopt(ctx, p, tables) }); err != nil {
				return err
			}
			w.keep(p)
			return nil
		},
		cycle, apply, cycle, apply,
	} {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// TestEveryOperationFailsOnce lets one operation fail, before or after it took
// effect, in the life of a replica that goes on.
func TestEveryOperationFailsOnce(t *testing.T) {
	t.Parallel()
	total := failAt(t, -1, false)
	stride := 37
	if *every {
		stride = 1
	}
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			t.Parallel()
			for n := 1; n < total; n += stride {
				failAt(t, n, late)
			}
		})
	}
}

// failAt runs the life with its nth operation failing and returns how many
// there were.
func failAt(t *testing.T, n int, late bool) (count int) {
	t.Helper()
	w := newWorld(tempDir(t), 12, "data")
	w.disks["data"] = w.random(12*block + 100)
	what := ""
	rule := func(op, path string) error {
		if count++; count != n {
			return nil
		}
		what = op + " " + path
		return errTest
	}
	f := &faultFS{left: -1}
	if late {
		f.late = rule
	} else {
		f.filter = rule
	}
	w.fs = f
	m, err := replica.Open(w.config())
	if errors.Is(err, errTest) {
		m, err = replica.Open(w.config())
	}
	must(t, err)
	if err := w.stubborn(m); err != nil {
		t.Fatalf("operation %d failed once (%s, late %v): %v", n, what, late, err)
	}
	f.filter, f.late = nil, nil
	for range 2 {
		if err := w.check(m); err != nil {
			t.Fatalf("operation %d failed once (%s, late %v): %v", n, what, late, err)
		}
		must(t, m.Close())
		m = open(t, w)
	}
	must(t, m.Close())
	return count
}

// scenario is the life of a replica: receiving, thinning, a failover to an
// older point, its commit, the way back, a hold.
func (w *world) scenario(m *replica.Machine) error {
	ctx := context.Background()
	steps := []func() error{}
	cycle := func() error { w.change(); return w.cycle(m) }
	apply := func() error { return m.Apply(ctx) }
	steps = append(steps, cycle, cycle, apply, cycle, apply, cycle, apply,
		func() error {
			_, err := m.Thin(ctx, []recovery.Keep{{For: 12 * time.Minute}, {Every: 10 * time.Minute, For: time.Hour}}, w.now)
			return err
		},
		func() error { return m.SetHold(true) }, cycle, cycle,
		func() error {
			points := m.Points()
			p := points[len(points)-2] // accepted, and not applied
			res, err := m.Prepare(ctx, "run-1", p.ID, nil)
			if err != nil {
				return err
			}
			w.reset(p)
			return w.live(res.Paths)
		},
		func() error { return m.Commit("run-1") },
		func() error {
			tables, err := w.sourceTables()
			if err != nil {
				return err
			}
			p := w.final(m)
			w.pending = &p
			w.sent = map[string][]byte{}
			if err := m.Adopt(ctx, p, tables); err != nil {
				return err
			}
			w.keep(p)
			return nil
		}, cycle, apply, cycle, apply,
		func() error { _, err := m.PrepareTest(ctx, "drill", w.order[len(w.order)-2], nil); return err },
		cycle, apply,
		func() error { return m.CleanupTest("drill") },
		func() error { // a failover that is given up: what ran is kept as found
			w.ran = false
			p := w.kept[w.order[len(w.order)-2]].point
			res, err := m.Prepare(ctx, "run-2", p.ID, nil)
			if err != nil {
				return err
			}
			w.reset(p)
			if err := w.live(res.Paths); err != nil {
				return err
			}
			found, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "run-2", Epoch: 3, Common: &p, Tables: m.LiveTables()}, nil)
			if err != nil {
				return err
			}
			w.keep(found.Point)
			return nil
		}, cycle, apply, func() error { return w.rollback(m) }, cycle, apply)
	for i, s := range steps {
		if err := s(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// rollback is that of a planned failover from here: what was sent back is stored
// and dropped, and the machine runs on what was applied, until the next one.
func (w *world) rollback(m *replica.Machine) error {
	ctx := context.Background()
	applied := w.tip
	if err := m.SetHold(true); err != nil {
		return err
	}
	for range 2 {
		w.change()
		if err := w.cycle(m); err != nil {
			return err
		}
	}
	w.ran = false
	res, err := m.Prepare(ctx, "rollback-4", applied.ID, nil)
	if err != nil {
		return err
	}
	if err := m.Commit("rollback-4"); err != nil {
		return err
	}
	w.order = slices.DeleteFunc(w.order, func(id ident.PointID) bool { return w.kept[id].point.Seq > applied.Seq })
	w.tip = applied
	for n, d := range w.kept[applied.ID].disks {
		w.sent[n] = d
	}
	if err := m.DropHeld(ctx); err != nil {
		return err
	}
	if tip, _, _ := m.Tip(); tip.ID != applied.ID {
		return fmt.Errorf("the newest point is %d, %d was applied", tip.Seq, applied.Seq)
	}
	if err := m.SetHold(false); err != nil {
		return err
	}
	w.reset(applied)
	if err := w.live(res.Paths); err != nil {
		return err
	}
	tables, err := w.sourceTables()
	if err != nil {
		return err
	}
	p := w.final(m)
	w.pending = &p
	w.sent = map[string][]byte{}
	if err := m.Adopt(ctx, p, tables); err != nil {
		return err
	}
	w.keep(p)
	return nil
}

// afterCrash opens the replica again and checks that every acknowledged point
// is there and whole, and that it goes on.
func (w *world) afterCrash() error {
	m, err := replica.Open(w.config())
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer m.Close()
	if tip, _, ok := m.Tip(); ok && tip.ID != w.tip.ID && w.pending != nil && tip.ID == w.pending.ID {
		w.keep(tip) // durable, and its acknowledgement was lost
	} else if _, sent := w.kept[tip.ID]; ok && !sent && slices.Contains(tip.Labels, replica.AsFound) {
		w.keep(tip)
	}
	for _, id := range w.acked() {
		if !slices.ContainsFunc(m.Points(), func(p recovery.Point) bool { return p.ID == id }) {
			return fmt.Errorf("point %d was acknowledged and is gone", w.kept[id].point.Seq)
		}
	}
	if err := w.check(m); err != nil {
		return fmt.Errorf("after the crash: %w", err)
	}
	if _, p, live := m.Live(); live {
		for n, d := range w.kept[p.ID].disks {
			if got, err := os.ReadFile(w.head(n)); err != nil || !w.ran && !bytes.Equal(got, d) {
				return fmt.Errorf("the live disk %s is not the point prepared: %v", n, err)
			}
		}
		return nil
	}
	if err := m.SetHold(false); err != nil {
		return err
	}
	for range 2 {
		w.change()
		if err := w.cycle(m); err != nil {
			return fmt.Errorf("next cycle: %w", err)
		}
		if err := m.Apply(context.Background()); err != nil {
			return err
		}
	}
	return w.check(m)
}

// acked are the points that may not be missing: all but those that a thinning
// may have dropped.
func (w *world) acked() []ident.PointID {
	return w.order[max(0, len(w.order)-2):]
}

var every = flag.Bool("every", false, "crash at every operation, not at some")

func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	const seed = 11
	life := (*world).scenario
	total := crashAt(t, seed, -1, false, life, (*world).afterCrash)
	if total < 400 {
		t.Fatalf("the scenario has %d steps only", total)
	}
	stride := 29
	if *every {
		stride = 1
	}
	for _, power := range []bool{false, true} {
		for part := range 2 {
			t.Run(fmt.Sprintf("power=%v,%d", power, part), func(t *testing.T) {
				t.Parallel()
				for n := part; n < total; n += 2 * stride {
					crashAt(t, seed, n, power, life, (*world).afterCrash)
				}
			})
		}
	}
}

// crashAt runs a scenario until its nth operation, looks at what is left, and
// returns how many there were.
func crashAt(t *testing.T, seed uint64, n int, power bool, scenario func(*world, *replica.Machine) error, after func(*world) error) int {
	t.Helper()
	dir, err := os.MkdirTemp(tempDir(t), "")
	must(t, err)
	w := newWorld(dir, seed, "data")
	w.disks["data"] = w.random(12*block + 100)
	f := &faultFS{power: power, left: n, synced: map[string][]byte{}}
	w.fs = f
	m, err := replica.Open(w.config())
	if err == nil {
		err = scenario(w, m)
		if cerr := m.Close(); err == nil {
			err = cerr
		}
	}
	if n >= 0 && !errors.Is(err, errDead) {
		t.Fatalf("step %d: got %v, want the crash", n, err)
	}
	if n < 0 {
		must(t, err)
	}
	must(t, f.crash())
	w.fs = fastFS{}
	if err := after(w); err != nil {
		t.Fatalf("seed %d, crash at operation %d (power cut: %v): %v", seed, n, power, err)
	}
	must(t, os.RemoveAll(dir))
	return f.done
}
